"""Plots of the encoder's Jacobian, and of the tangent of a moved image."""

import numpy as np
from matplotlib.figure import Figure
from scipy import ndimage
from sklearn.decomposition import PCA

from aejax.plots import WIDTH, image_rows, legend, mosaic, show, subplots, unit


def spectrum(values: np.ndarray) -> Figure:
    """Singular values of ∂h/∂x, mean over examples: how many directions the code follows."""
    figure, ax = subplots(figsize=(WIDTH, 3.4))
    mean = values.mean(0)
    ax.plot(np.arange(1, len(mean) + 1), mean)
    ax.fill_between(np.arange(1, len(mean) + 1), *np.percentile(values, (10, 90), axis=0), alpha=0.2)
    ax.set(xlabel="singular value", ylabel="mean, and 10 to 90 % of the images", ylim=(0, None))
    ax.grid(alpha=0.3)
    return figure


def tangents(images: np.ndarray, vectors: np.ndarray, count: int = 5) -> Figure:
    """The leading right singular vectors of ∂h/∂x under their images: grey where nothing changes."""
    rows = {"image": unit(images)}
    for k in range(min(count, vectors.shape[1])):
        v = vectors[:, k]
        rows[f"tangent {k + 1}"] = 0.5 + 0.5 * v / np.abs(v).max(axis=(1, 2, 3), keepdims=True)
    return image_rows(rows)


def translation(image: np.ndarray, plane: np.ndarray | None = None, steps: int = 201) -> Figure:
    """The curve that an image draws when it is moved sideways, in the first two principal components of the moved
    images, with its tangent. plane [d, ...]: orthonormal directions, on whose span the tangent is projected too."""
    image = unit(image).astype(np.float64)
    whole = image.shape[1] // 2
    moved, dots = (
        np.stack([shifted(image, shift) for shift in shifts]).reshape(len(shifts), -1)
        for shifts in (np.linspace(-whole, whole, steps), np.arange(-whole, whole + 1))
    )
    pca = PCA(2).fit(moved)
    curve, dots = pca.transform(moved), pca.transform(dots)
    tangent = derivative(image)
    lines = {"tangent": ("tab:red", tangent)}
    if plane is not None:
        directions = plane.reshape(len(plane), -1)
        projected = (directions @ tangent.ravel() @ directions).reshape(tangent.shape)
        lines["tangent in the model's plane"] = ("tab:green", projected)
    figure, axes = subplots(2, figsize=(WIDTH, 6.2), height_ratios=(3, 2))
    axes[0].plot(*curve.T, linewidth=1)
    axes[0].plot(*dots.T, "o", color="tab:blue", markersize=3, label="moved by whole pixels")
    origin = dots[whole]
    for name, (colour, vector) in lines.items():
        line = origin + np.outer((-1, 1), pca.components_ @ vector.ravel()) * image.shape[1] / 8
        axes[0].plot(*line.T, color=colour, label=f"{name}, ± {image.shape[1] / 8:g} px")
    axes[0].plot(*origin, "o", color="tab:red")
    axes[0].set(xlabel="component 1", ylabel="component 2")
    axes[0].set_title(f"moved sideways by up to {whole} pixels, in PCA's plane", fontsize="medium")
    legend(axes[0], fontsize="small")
    largest = max(np.abs(tangent).max(), 1e-12)
    shown = [image, *(np.clip(0.5 + 0.5 * vector / largest, 0, 1) for _, vector in lines.values())]
    show(axes[1], mosaic(np.stack(shown), len(shown), gap=-(-image.shape[1] // 10)))
    names = ", ".join(["the image", *(f"its {name}" for name in lines)])
    axes[1].set_title(f"{names}:\nlighter, darker", fontsize="small")
    return figure


def shifted(image: np.ndarray, shift: float) -> np.ndarray:
    """The image [H, W, C] moved to the right by `shift` pixels, zeros from outside.

    A cubic spline through the pixels is smooth in the shift. Linear interpolation is not: in every projection its curve
    is a polygon with a corner at each whole pixel.
    """
    moved = ndimage.shift(image, (0, shift, 0), order=3, mode="grid-constant")
    return np.asarray(moved)


def derivative(image: np.ndarray, step: float = 1e-3) -> np.ndarray:
    """Change of the image [H, W, C] per pixel that it is moved to the right."""
    return (shifted(image, step) - shifted(image, -step)) / (2 * step)
