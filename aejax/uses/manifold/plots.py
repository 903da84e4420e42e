"""Plots of tangent planes and of the graph of nearest neighbours."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from sklearn.decomposition import PCA

from aejax.plots import INK, WIDTH, label_colour, legend, mosaic, outside, short, show, subplots, window

SPECTRUM = 40  # most singular values in a figure
NAMES = {"local_pca": "local PCA", "two_nn": "TwoNN", "mle": "maximum likelihood"}
PATHS = ("black", "tab:red", "tab:blue")  # colours


def kept_directions(values: np.ndarray, dimension: float, others: Mapping[str, float]) -> Figure:
    """Singular values [n, r] of ∂r/∂x, with the model's dimension; the other estimates by name."""
    figure, ax = subplots(figsize=(WIDTH, 3.6))
    shown = values[:, :SPECTRUM]
    index, (low, middle, high) = np.arange(1, shown.shape[1] + 1), np.percentile(shown, (10, 50, 90), axis=0)
    ax.plot(index, middle, marker="o", markersize=3, label="median")
    ax.fill_between(index, low, high, alpha=0.2, label="10 to 90 % of the examples")
    ax.axhline(0.5, color=INK, linewidth=0.8, linestyle=":")
    ax.axvline(dimension + 0.5, color="tab:red", linewidth=1.2, linestyle="--", label="dimension of the model")
    ax.set(xlabel="direction", ylabel="singular value of ∂r/∂x", ylim=(0, None))
    said = [f"{NAMES[name]} {value:.3g}" for name, value in others.items()]
    ax.set_title(f"dimension {dimension:g}\n{', '.join(said)}", fontsize="medium")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(alpha=0.3)
    legend(figure, loc="outside lower center", ncols=2, fontsize="small", columnspacing=1)
    return figure


def neighbour_graph(
    points: np.ndarray,
    edges: np.ndarray,
    paths: Sequence[np.ndarray],
    labels: np.ndarray | None,
    classes: Sequence[str],
) -> Figure:
    """Codes [n, d] with the edges [e, 2] between neighbours, and paths with the straight lines between their ends; in
    two principal components if d > 2."""
    axis = "unit" if points.shape[1] == 2 else "component"
    points = points if points.shape[1] == 2 else PCA(2, random_state=0).fit_transform(points)
    names = [short(name) for name in classes] if labels is not None and len(classes) <= 20 else []
    room = max(1, 44 // (4 + max(map(len, names), default=0)))
    lines = -(-len(names) // room)
    figure, ax = subplots(figsize=(WIDTH, WIDTH + 0.3 + 0.2 * lines))
    limits = window(points)
    ax.add_collection(LineCollection(list(points[edges]), colors="0.6", linewidths=0.3, alpha=0.5, zorder=1))
    colours = "0.7" if labels is None else [label_colour(int(label), classes) for label in labels]
    ax.scatter(*points.T, s=np.clip(5000 / len(points), 3, 20), c=colours, linewidths=0, zorder=2)
    edge = [withStroke(linewidth=3, foreground="white")]  # seen on any background
    for colour, path in zip(PATHS, paths, strict=False):
        ax.plot(*points[path].T, color=colour, linewidth=1.6, marker="o", markersize=2.5, zorder=4, path_effects=edge)
        ax.plot(*points[path[[0, -1]]].T, color=colour, linewidth=1.2, linestyle="--", zorder=3, path_effects=edge)
    ax.set(xlim=limits[0], ylim=limits[1], xlabel=f"{axis} 1", ylabel=f"{axis} 2")
    note = outside(points, limits)
    about = "solid: shortest paths; dashed: straight lines"
    ax.set_title("\n".join([about, *([note] if note else [])]), fontsize="medium")
    if names:
        dots = [Line2D([], [], linestyle="", marker="o", color=label_colour(k, classes)) for k in range(len(names))]
        legend(figure, handles=dots, labels=names, ncols=-(-len(names) // lines), loc="outside lower center",
               handletextpad=0)  # fmt: skip
    return figure


def path_images(paths: Sequence[Mapping[str, np.ndarray]]) -> Figure:
    """For each path the rows of its images [n, H, W, C] by name."""
    names = list(paths[0])
    n, _, w, _ = paths[0][names[0]].shape
    gap = -(-w // 10)
    tiled = [[mosaic(path[name], n, gap) for path in paths] for name in names]
    height, width = len(paths) * tiled[0][0].shape[0] + (len(paths) - 1) * gap, tiled[0][0].shape[1]
    figure, axes = subplots(len(names), figsize=(WIDTH, len(names) * (WIDTH * height / width + 0.25)), squeeze=False)
    for ax, name, rows in zip(axes[:, 0], names, tiled, strict=True):
        between = np.full((gap, *rows[0].shape[1:]), np.nan, np.float32)
        show(ax, np.concatenate([part for row in rows for part in (row, between)][:-1]))
        ax.set_title(name, loc="left", fontsize="medium", pad=3, color=INK)
    return figure
