"""Plots from arrays, as matplotlib figures of their own: no window, no global state."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.decomposition import PCA

from aejax.errors import InputError


class _Inline(Figure):
    """A figure that a notebook shows without pyplot."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png", bbox_inches="tight")
        return file.getvalue()


def subplots(rows: int = 1, columns: int = 1, *, figsize: tuple[float, float], **fields: Any) -> tuple[Figure, Any]:
    """A figure and its axes, as pyplot's function of this name gives them."""
    figure = _Inline(figsize=figsize)
    return figure, figure.subplots(rows, columns, **fields)


def colour_map(name: str) -> Any:
    return matplotlib.colormaps[name]


def loss_curves(metrics: Sequence[Mapping[str, Any]]) -> Figure:
    """Loss and each of its terms over the epochs, by split."""
    hidden = {"step", "epoch", "split", "finite", "examples_per_second", "learning_rate", "parameter_norm"}
    last = [line for line in metrics if line["split"] == "train"][-1:]
    names = [name for name in (last[0] if last else {}) if name not in hidden | {"gradient_norm"}]
    names += ["error"] if any("error" in line for line in metrics) else []
    columns, rows = min(max(len(names), 1), 4), -(-max(len(names), 1) // 4)
    figure, grid = subplots(rows, columns, figsize=(4 * columns, 3 * rows), squeeze=False)
    axes = grid.ravel()
    for ax in axes[max(len(names), 1) :]:
        ax.axis("off")
    for ax, name in zip(axes, names, strict=False):
        for split in ("train", "validation", "test"):
            points = [(line["epoch"], line[name]) for line in metrics if line["split"] == split and name in line]
            if points:
                marker = "o" if len(points) == 1 else ""
                ax.plot(*zip(*points, strict=True), label=split, linewidth=1.2, marker=marker, markersize=3)
        ax.set_xlabel("epoch")
        ax.set_title(name.replace("_", " "))
        ax.grid(alpha=0.3)
        focus(ax)
    axes[0].legend()
    figure.tight_layout()
    return figure


def stage_curves(metrics: Sequence[Mapping[str, Any]]) -> Figure:
    """Reconstruction of each stage of pretraining over its epochs: the target of a stage is the code below it."""
    names = sorted({line["stage"] for line in metrics if "stage" in line})
    figure, axes = subplots(1, len(names), figsize=(4 * len(names), 3), squeeze=False)
    for ax, name in zip(axes[0], names, strict=True):
        for split in ("train", "validation", "test"):
            lines = [line for line in metrics if line.get("stage") == name and line["split"] == split]
            if lines:
                ax.plot(*zip(*[(line["epoch"], line["reconstruction"]) for line in lines], strict=True), label=split)
        ax.set(xlabel="epoch", title=f"{name.replace('_', ' ')}: reconstruction")
        ax.grid(alpha=0.3)
        focus(ax)
    axes[0][0].legend()
    figure.tight_layout()
    return figure


def focus(ax: Axes) -> None:
    """Leave the first moments of training out of the range where they would flatten the rest."""
    values = np.concatenate([line.get_ydata() for line in ax.lines]) if ax.lines else np.zeros(0)
    if len(values) > 20:
        low, high = np.min(values), np.percentile(values, 98)
        ax.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low)) if high > low else None


def image_rows(rows: Mapping[str, np.ndarray]) -> Figure:
    """Rows of images [n, H, W, C], one name each."""
    n = len(next(iter(rows.values())))
    figure, axes = subplots(len(rows), n, figsize=(n, 1.1 * len(rows)), squeeze=False)
    for row, (name, images) in zip(axes, rows.items(), strict=True):
        for ax, image in zip(row, images, strict=True):
            show(ax, image)
        row[0].set_axis_on()
        row[0].set(xticks=[], yticks=[])
        row[0].set_ylabel(name, rotation=0, ha="right", va="center")
        for spine in row[0].spines.values():
            spine.set_visible(False)
    figure.subplots_adjust(wspace=0.05, hspace=0.05)
    return figure


def image_grid(images: np.ndarray, title: str) -> Figure:
    """Images [n, H, W, C] in a square."""
    side = int(np.ceil(np.sqrt(len(images))))
    figure, ax = subplots(figsize=(6, 6))
    show(ax, mosaic(images, side))
    ax.set_title(title)
    return figure


def mosaic(images: np.ndarray, side: int, gap: int = 1) -> np.ndarray:
    """Images [n, H, W, C] side by side, `side` in a row, with a gap in pixels."""
    n, h, w, c = images.shape
    rows = -(-n // side)
    padded = np.ones((rows * side, h + gap, w + gap, c), np.float32)
    padded[:n, :h, :w] = unit(images)
    return padded.reshape(rows, side, h + gap, w + gap, c).swapaxes(1, 2).reshape(rows * (h + gap), -1, c)


def show(ax: Axes, image: np.ndarray, **kwargs: Any) -> None:
    """One image [H, W, C]: grey for one channel, colours for three, else the mean of the channels."""
    image = np.clip(unit(image), 0, 1)
    image = image if image.shape[-1] == 3 else image.mean(-1)
    ax.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest", **kwargs)
    ax.set_axis_off()


def unit(images: np.ndarray) -> np.ndarray:
    return images / np.float32(255) if images.dtype == np.uint8 else images


def filters(kernel: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The weights [D, units] of at most 100 units as images, each scaled about grey = 0."""
    weights = kernel.T[:100].reshape(-1, *shape)
    return 0.5 + 0.5 * weights / np.maximum(np.abs(weights).max(axis=(1, 2, 3), keepdims=True), 1e-12)


def code_maps(
    codes: np.ndarray, scores: np.ndarray, labels: np.ndarray | None, classes: Sequence[str]
) -> Figure | None:
    """The codes in two dimensions, coloured by label, beside PCA of the examples."""
    if min(codes.shape) < 2 or scores.shape[1] < 2:  # one unit, or one example
        return None
    title, axis = "code", "code"
    if codes.shape[1] > 2:
        title, axis = f"code: first 2 of {codes.shape[1]} components", "component"
        codes = PCA(2, random_state=0).fit_transform(codes)
    figure, axes = subplots(1, 2, figsize=(11, 5))
    shown = ((codes, title, axis), (scores[:, :2], "PCA of the examples", "component"))
    for ax, (points, name, axis) in zip(axes, shown, strict=True):
        if labels is None:
            ax.scatter(*points[:, :2].T, s=4, linewidths=0)
        else:
            colours = colour_map("tab10" if len(classes) <= 10 else "tab20")
            unlabelled = points[labels == -1]
            ax.scatter(*unlabelled[:, :2].T, s=4, linewidths=0, color="0.7")
            for k, label in enumerate(classes):
                chosen = points[labels == k]
                ax.scatter(*chosen[:, :2].T, s=4, linewidths=0, color=colours(k % colours.N), label=label)
        # A few far points would press the others together.
        low, high = np.percentile(points[:, :2], (0.5, 99.5), axis=0)
        margin = 0.05 * (high - low) + 1e-6
        limits = np.stack([low - margin, high + margin], axis=1)
        ax.set(title=name, xlim=limits[0], ylim=limits[1], xlabel=f"{axis} 1", ylabel=f"{axis} 2")
    if labels is not None and 0 < len(classes) <= 20:
        axes[1].legend(markerscale=3, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def encode(figure: Figure, path: Path) -> bytes:
    """The figure in the format of the path's suffix; raises InputError."""
    form = path.suffix.removeprefix(".").lower()
    if form not in ("png", "pdf", "svg"):
        raise InputError(f"{path}: a figure's file must end in .png, .pdf or .svg")
    buffer = io.BytesIO()
    figure.savefig(buffer, format=form, dpi=120, bbox_inches="tight")
    return buffer.getvalue()


def table_scatter(x: np.ndarray, made: Mapping[str, np.ndarray], columns: Sequence[str]) -> Figure:
    """Share of each column's variance that each of the reconstructions `made` leaves unexplained."""
    names = columns or [str(i) for i in range(x.shape[1])]
    variance = np.maximum(x.var(0), 1e-12)
    left = {name: ((x - r) ** 2).mean(0) / variance for name, r in made.items()}
    shown = np.argsort(-left["reconstruction"])[:40]
    figure, ax = subplots(figsize=(6, 1 + 0.25 * len(shown)))
    for offset, (name, values) in zip((-0.2, 0.2), left.items(), strict=False):
        ax.barh(np.arange(len(shown)) + offset, values[shown], height=0.4, label=name)
    ax.set_yticks(np.arange(len(shown)), [names[i] for i in shown])
    ax.invert_yaxis()
    ax.set_xlabel("squared error / variance, test split")
    ax.legend()
    return figure
