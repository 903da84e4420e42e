"""Plots of the encoder's Jacobian, and of the tangent of a moved image."""

import numpy as np
from matplotlib.figure import Figure
from sklearn.decomposition import PCA

from aejax.page.plots import image_rows, show, subplots, unit


def spectrum(values: np.ndarray) -> Figure:
    """Singular values of ∂h/∂x, mean over examples: how many directions the code follows."""
    figure, ax = subplots(figsize=(5, 3.5))
    mean = values.mean(0)
    ax.plot(np.arange(1, len(mean) + 1), mean)
    ax.fill_between(np.arange(1, len(mean) + 1), *np.percentile(values, (10, 90), axis=0), alpha=0.2)
    ax.set(xlabel="singular value", ylabel="size, mean and 10-90 %", title="∂h/∂x on test images", ylim=(0, None))
    ax.grid(alpha=0.3)
    return figure


def tangents(images: np.ndarray, vectors: np.ndarray, count: int = 5) -> Figure:
    """The leading right singular vectors of ∂h/∂x under their images: grey where nothing changes."""
    rows = {"image": unit(images)}
    for k in range(min(count, vectors.shape[1])):
        v = vectors[:, k]
        rows[f"tangent {k + 1}"] = 0.5 + 0.5 * v / np.abs(v).max(axis=(1, 2, 3), keepdims=True)
    return image_rows(rows)


def translation(image: np.ndarray, pca: PCA, steps: int = 81) -> Figure:
    """The curve that an image draws in PCA's first two coordinates when it is moved sideways, and its tangent."""
    image = unit(image).astype(np.float64)
    reach = image.shape[1] / 2
    shifts = np.linspace(-reach, reach, steps)
    moved = np.stack([_shifted(image, shift) for shift in shifts])
    curve = pca.transform(moved.reshape(steps, -1))[:, :2]
    tangent = (_shifted(image, 1.0) - _shifted(image, -1.0)) / 2  # per pixel moved
    figure, axes = subplots(1, 3, figsize=(11, 4), width_ratios=(2, 1, 1))
    axes[0].plot(*curve.T, ".-", linewidth=0.8, markersize=3)
    origin, direction = pca.transform(image.reshape(1, -1))[0, :2], pca.components_[:2] @ tangent.ravel()
    line = origin + np.outer((-3, 3), direction)  # 3 pixels to either side
    axes[0].plot(*line.T, color="tab:red", label="tangent, ± 3 pixels")
    axes[0].plot(*origin, "o", color="tab:red")
    axes[0].set(xlabel="PCA 1", ylabel="PCA 2", title=f"moved sideways by up to {reach:g} pixels")
    axes[0].legend()
    show(axes[1], image)
    axes[1].set_title("image")
    show(axes[2], 0.5 + 0.5 * tangent / np.abs(tangent).max())
    axes[2].set_title("tangent: lighter, darker")
    return figure


def _shifted(image: np.ndarray, shift: float) -> np.ndarray:
    """The image [H, W, C] moved to the right by `shift` pixels, linear between pixels, zeros from outside."""
    columns = np.arange(image.shape[1]) - shift
    low = np.floor(columns).astype(int)
    part = (columns - low)[None, :, None]
    padded = np.pad(image, ((0, 0), (1, 1), (0, 0)))
    index = np.clip(low + 1, 0, image.shape[1] + 1), np.clip(low + 2, 0, image.shape[1] + 1)
    return (1 - part) * padded[:, index[0]] + part * padded[:, index[1]]
