"""Plots from arrays, as matplotlib figures of their own: no window, no global state.

A figure has no background, and its text has a grey that is read on white and on a dark page.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from sklearn.decomposition import PCA

from aejax.errors import InputError

INK = "#767c88"  # of text and axes: contrast 4.2 with white, 4.0 with the page's dark cards
WIDTH = 4.4  # inches, the same for every figure of the page, so that their text has one size: 10 pixels on a phone
DPI = 200
SERIES = 6  # most series in a figure
ROWS, FAR = 20, 2  # most columns of a table in a figure, and the largest share of their variance


class InlineFigure(Figure):
    """A figure that a notebook shows without pyplot."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png", bbox_inches="tight")
        return file.getvalue()


def subplots(rows: int = 1, columns: int = 1, *, figsize: tuple[float, float], **fields: Any) -> tuple[Figure, Any]:
    """A figure and its axes, as pyplot's function of this name returns them."""
    figure = InlineFigure(figsize=figsize, facecolor="none", layout="constrained")
    axes = figure.subplots(rows, columns, **fields)
    for ax in figure.axes:
        ax.set_facecolor("none")
        ax.tick_params(colors=INK)
        for text in (ax.title, ax.xaxis.label, ax.yaxis.label):
            text.set_color(INK)
        for spine in ax.spines.values():
            spine.set_color(INK)
    return figure, axes


def legend(of: Axes | Figure, **fields: Any) -> None:
    of.legend(labelcolor=INK, frameon=False, **fields)


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
    legend(axes[0])
    return figure


def stage_curves(metrics: Sequence[Mapping[str, Any]]) -> Figure:
    """Reconstruction of each stage of pretraining over its epochs: the target of a stage is the code below it."""
    names = sorted({line["stage"] for line in metrics if "stage" in line})
    columns, rows = min(len(names), 2), -(-len(names) // 2)
    figure, grid = subplots(rows, columns, figsize=(WIDTH, 2.4 * rows), squeeze=False)
    axes = grid.ravel()
    for ax in axes[len(names) :]:
        ax.axis("off")
    for ax, name in zip(axes, names, strict=False):
        for split in ("train", "validation", "test"):
            lines = [line for line in metrics if line.get("stage") == name and line["split"] == split]
            if lines:
                ax.plot(*zip(*[(line["epoch"], line["reconstruction"]) for line in lines], strict=True), label=split)
        ax.set(xlabel="epoch", title=name.replace("_", " "))
        ax.grid(alpha=0.3)
        focus(ax)
    axes[0].set_ylabel("reconstruction")
    legend(axes[0])
    return figure


def focus(ax: Axes) -> None:
    """Limit the axis so that the first steps of training do not flatten the rest."""
    values = np.concatenate([line.get_ydata() for line in ax.lines]) if ax.lines else np.zeros(0)
    if len(values) > 20:
        low, high = np.min(values), np.percentile(values, 98)
        ax.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low)) if high > low else None


def image_rows(rows: Mapping[str, np.ndarray]) -> Figure:
    """Rows of images [n, H, W, C], the name of each above it."""
    tiled = {name: mosaic(images, len(images), gap=-(-images.shape[2] // 10)) for name, images in rows.items()}
    height, width, _ = next(iter(tiled.values())).shape
    figure, axes = subplots(len(rows), figsize=(WIDTH, len(rows) * (WIDTH * height / width + 0.25)), squeeze=False)
    for ax, (name, image) in zip(axes[:, 0], tiled.items(), strict=True):
        show(ax, image)
        ax.set_title(name, loc="left", fontsize="medium", pad=3, color=INK)
    return figure


def series_rows(x: np.ndarray, made: Mapping[str, np.ndarray], channels: Sequence[str] = ()) -> Figure:
    """Series [n, T, C] with others of their shape by name, such as reconstructions; the k-th row shows one channel of
    the k-th series, up to its last observed step. A value that was not observed (NaN) leaves a gap."""
    rows = min(len(x), SERIES)
    figure, axes = subplots(rows, figsize=(WIDTH, 0.4 + 1.1 * rows), squeeze=False, sharex=True)
    for k, ax in enumerate(axes[:, 0]):
        channel = k % x.shape[2]
        end = int(np.flatnonzero(~np.isnan(x[k]).all(1)).max(initial=0)) + 1
        ax.plot(x[k, :end, channel], color=INK, linewidth=1.0, label="series")
        for name, values in made.items():
            ax.plot(values[k, :end, channel], linewidth=1.0, label=name)
        if x.shape[2] > 1:
            name = channels[channel] if channels else f"channel {channel}"
            ax.set_title(name, loc="left", fontsize="medium", pad=2, color=INK)
    axes[-1, 0].set_xlabel("step")
    legend(figure, loc="outside upper center", ncols=1 + len(made), handles=axes[0, 0].get_lines())
    return figure


def image_grid(images: np.ndarray) -> Figure:
    """Images [n, H, W, C] in a square."""
    image = mosaic(images, int(np.ceil(np.sqrt(len(images)))))
    figure, ax = subplots(figsize=(WIDTH, WIDTH * image.shape[0] / image.shape[1]))
    show(ax, image)
    return figure


def mosaic(images: np.ndarray, side: int, gap: int = 1) -> np.ndarray:
    """Images [n, H, W, C] side by side, `side` in a row; between them a gap in pixels, which is NaN."""
    n, h, w, c = images.shape
    rows = -(-n // side)
    padded = np.full((rows * side, h + gap, w + gap, c), np.nan, np.float32)
    padded[:n, :h, :w] = unit(images)
    whole = padded.reshape(rows, side, h + gap, w + gap, c).swapaxes(1, 2).reshape(rows * (h + gap), -1, c)
    return whole[: len(whole) - gap, : whole.shape[1] - gap]


def show(ax: Axes, image: np.ndarray, **kwargs: Any) -> None:
    """One image [H, W, C]: grey for one channel, colours for three, else the mean of the channels; NaN is clear."""
    image = np.clip(unit(image), 0, 1)
    if image.shape[-1] == 3:
        image = np.concatenate([np.nan_to_num(image), ~np.isnan(image[..., :1])], -1)
    else:
        image = image.mean(-1)
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
    """The codes in two dimensions, coloured by label, above PCA of the examples."""
    if min(codes.shape) < 2 or scores.shape[1] < 2:  # one unit, or one example
        return None
    title, axis = "codes", "unit"
    if codes.shape[1] > 2:
        title, axis = f"codes of {codes.shape[1]} units: first 2 principal components", "component"
        codes = PCA(2, random_state=0).fit_transform(codes)
    shown = (
        (codes, title, axis),
        (scores[:, :2], "examples: first 2 principal components", "component"),
    )
    names = [short(name) for name in classes] if labels is not None and len(classes) <= 20 else []
    room = max(1, 44 // (4 + max(map(len, names), default=0)))
    lines = -(-len(names) // room)
    figure, axes = subplots(2, figsize=(WIDTH, 6.4 + 0.2 * lines), gridspec_kw={"hspace": 0.06})
    for ax, (points, name, axis) in zip(axes, shown, strict=True):
        limits = window(points)
        colours: Any = None if labels is None else [label_colour(label, classes) for label in labels]
        ax.scatter(*points.T, s=np.clip(7000 / len(points), 3, 30), c=colours, linewidths=0)
        ax.set(xlim=limits[0], ylim=limits[1], xlabel=f"{axis} 1", ylabel=f"{axis} 2")
        note = outside(points, limits)
        ax.set_title("\n".join([name, *([note] if note else [])]), fontsize="medium")
    if names:
        dots = [Line2D([], [], linestyle="", marker="o", color=label_colour(k, classes)) for k in range(len(names))]
        columns = -(-len(names) // lines)
        legend(figure, handles=dots, labels=names, ncols=columns, loc="outside lower center", handletextpad=0)
    return figure


def label_colour(label: int, classes: Sequence[Any]) -> Any:
    colours = colour_map("tab10" if len(classes) <= 10 else "tab20")
    return colours(label % colours.N) if label >= 0 else "0.7"


def short(name: str, most: int = 22) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def window(points: np.ndarray) -> np.ndarray:
    """[[x0, x1], [y0, y1]] of points [n, 2], without the few far ones that would compress the others.

    A far point lies outside the middle 98 % by more than a quarter of their range.
    """
    low, high = np.percentile(points, (1, 99), axis=0, method="inverted_cdf")
    reach = 0.25 * (high - low)
    near = points[((points >= (low - reach)[None]) & (points <= (high + reach)[None])).all(1)]
    low, high = near.min(0), near.max(0)
    margin = np.maximum(0.05 * (high - low), 1e-3 * np.maximum(np.abs(low), 1))
    return np.stack([low - margin, high + margin], axis=1)


def outside(points: np.ndarray, limits: np.ndarray) -> str:
    """The number of points [n, 2] that the window leaves out, in words; "" for none."""
    count = int(((points < limits[:, 0][None]) | (points > limits[:, 1][None])).any(1).sum())
    return f"{count:,} of {len(points):,} points {'lies' if count == 1 else 'lie'} outside" if count else ""


def encode(figure: Figure, path: Path) -> bytes:
    """The figure in the format of the path's suffix; raises InputError."""
    form = path.suffix.removeprefix(".").lower()
    if form not in ("png", "pdf", "svg"):
        raise InputError(f"{path}: a figure's file must end in .png, .pdf or .svg")
    buffer = io.BytesIO()
    figure.savefig(buffer, format=form, dpi=DPI, bbox_inches="tight", facecolor="white")
    return buffer.getvalue()


def column_errors(x: np.ndarray, made: Mapping[str, np.ndarray], columns: Sequence[str]) -> Figure | None:
    """Share of a column's variance that each of the reconstructions `made` leaves unexplained.

    Shows at most ROWS columns, those with the largest squared error. A constant column has no share and is left out.
    """
    names = columns or [str(i) for i in range(x.shape[1])]
    variance = x.var(0)
    varying = np.flatnonzero(variance > 1e-10 * variance.max())  # except for rounding
    errors = {name: ((x - r) ** 2).mean(0) for name, r in made.items()}
    first = next(iter(errors.values()))
    largest = varying[np.argsort(-first[varying], kind="stable")[:ROWS]]
    if not len(largest):
        return None
    chosen = largest[np.argsort(-first[largest] / variance[largest], kind="stable")]
    shares = {name: error[chosen] / variance[chosen] for name, error in errors.items()}
    figure, ax = subplots(figsize=(WIDTH, 1.3 + 0.27 * len(chosen)))
    for i, (name, values) in enumerate(shares.items()):
        at, height = np.arange(len(chosen)) - 0.4, 0.8 / len(shares)
        ax.barh(at + (i + 0.5) * height, values, height=height, label=name)
    ax.axvline(1, color=INK, linewidth=0.8, linestyle=":")
    ax.set_yticks(np.arange(len(chosen)), [short(names[i]) for i in chosen])
    ax.set(xlabel="squared error / variance", ylim=(len(chosen) - 0.5, -0.5))
    notes = [f"{len(chosen)} of {len(names):,} columns: largest errors"] if len(varying) > ROWS else []
    far = sum(int((values > FAR).sum()) for values in shares.values())
    if far:
        ax.set_xlim(0, FAR)
        notes.append(f"bars beyond {FAR}: {far} of {len(shares) * len(chosen)}")
    ax.set_title("\n".join(notes), fontsize="medium")
    if len(shares) > 1:
        legend(figure, loc="outside lower center", ncols=len(shares))
    return figure
