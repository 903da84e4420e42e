"""Plots of clusters."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from sklearn.decomposition import PCA

from aejax.plots import (
    INK,
    ROWS,
    WIDTH,
    label_colour,
    legend,
    mosaic,
    outside,
    short,
    show,
    subplots,
    window,
)

NAMED = 20  # most labels in the legend, and clusters that are named on the map


def cluster_map(
    points: np.ndarray,
    clusters: np.ndarray,
    labels: np.ndarray | None,
    classes: Sequence[str],
    pairs: Mapping[int, int],
    method: str,
) -> Figure:
    """Points [n, d] coloured by cluster (-1: grey), beside the same by label; in two principal components if d > 2.

    A cluster has the colour of its label in `pairs`; one without a label has a colour of its own. Its number stands at
    its median.
    """
    axis = "unit" if points.shape[1] == 2 else "component"
    points = points if points.shape[1] == 2 else PCA(2, random_state=0).fit_transform(points)
    limits, found = window(points), [int(k) for k in np.unique(clusters) if k >= 0]
    own = [k for k in found if k not in pairs]
    colours = {-1: -1} | {k: pairs[k] for k in found if k in pairs}
    colours |= {k: (len(classes) if pairs else 0) + i for i, k in enumerate(own)}
    many: Sequence[Any] = range(1 + max(colours.values(), default=0)) if own or labels is None else classes
    names = [short(name) for name in classes] if labels is not None and len(classes) <= NAMED else []
    room = max(1, 44 // (4 + max(map(len, names), default=0)))
    lines, panels = -(-len(names) // room), 1 if labels is None else 2
    figure, axes = subplots(1, panels, figsize=(WIDTH, (WIDTH if panels == 1 else 2.6) + 0.2 * lines), squeeze=False)
    shown = {f"clusters of {method}": [label_colour(colours[int(k)], many) for k in clusters]}
    if labels is not None:
        shown["labels"] = [label_colour(int(label), many) for label in labels]
    for ax, (title, values) in zip(axes[0], shown.items(), strict=True):
        ax.scatter(*points.T, s=np.clip(7000 / panels / len(points), 2, 30), c=values, linewidths=0)
        ax.set(xlim=limits[0], ylim=limits[1], xlabel=f"{axis} 1", ylabel=f"{axis} 2", title=title)
        ax.locator_params(nbins=4)
        ax.label_outer()
    for k in found if len(found) <= NAMED else ():
        x, y = np.median(points[clusters == k], axis=0)
        box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.75}
        axes[0, 0].text(x, y, str(k), ha="center", va="center", fontsize="small", color="black", bbox=box)
    note = outside(points, limits)
    if note:
        figure.suptitle(note, fontsize="small", color=INK)
    if names:
        dots = [Line2D([], [], linestyle="", marker="o", color=label_colour(k, many)) for k in range(len(names))]
        legend(figure, handles=dots, labels=names, ncols=-(-len(names) // lines), loc="outside lower center",
               handletextpad=0)  # fmt: skip
    return figure


def cluster_images(centres: np.ndarray | None, examples: Sequence[np.ndarray], titles: Sequence[str]) -> Figure:
    """A row for each cluster: its decoded centre [H, W, C], if there are any, and images [n, H, W, C] of it."""
    most = max(len(images) for images in examples)
    h, w, c = next(images.shape[1:] for images in examples if len(images))
    gap = -(-w // 10)
    padded = np.full((len(examples), most, h, w, c), np.nan, np.float32)
    for row, images in zip(padded, examples, strict=True):
        row[: len(images)] = images
    whole = mosaic(padded.reshape(-1, h, w, c), most, gap)
    if centres is not None:
        between = np.full((len(whole), 3 * gap, c), np.nan, np.float32)
        whole = np.concatenate([mosaic(centres, 1, gap), between, whole], axis=1)
    height, width = whole.shape[:2]
    figure, ax = subplots(figsize=(WIDTH, 0.85 * WIDTH * height / width + 0.3))
    show(ax, whole)
    for i, title in enumerate(titles):
        ax.text(-gap, i * (h + gap) + h / 2, title, ha="right", va="center", fontsize="small", color=INK)
    heads = (
        {"nearest test examples": 0.0} if centres is None else {"centre": 0.0, "nearest test examples": w + 4.0 * gap}
    )
    for head, x in heads.items():
        ax.text(x, -gap, head, ha="left", va="bottom", fontsize="small", color=INK)
    return figure


def cluster_columns(gaps: np.ndarray, titles: Sequence[str], columns: Sequence[str], what: str) -> Figure:
    """Clusters as rows of a heat map: values [K, D] in deviations, for the columns in which clusters differ most."""
    largest = np.sort(np.argsort(-np.ptp(gaps, axis=0), kind="stable")[:ROWS])
    figure, ax = subplots(figsize=(WIDTH, 1.6 + 0.27 * len(largest)))
    most = max(float(np.abs(gaps[:, largest]).max()), 1e-6)
    drawn = ax.imshow(gaps[:, largest].T, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto")
    ax.set_yticks(np.arange(len(largest)), [short(columns[j]) for j in largest])
    ax.set_xticks(np.arange(len(titles)), titles, rotation=90, fontsize="small")
    ax.set_xlabel("cluster: test examples, most frequent label")
    bar = figure.colorbar(drawn, label=f"{what}, in deviations from the mean")
    bar.ax.tick_params(colors=INK)
    bar.ax.yaxis.label.set_color(INK)
    return figure
