"""Plots of retrieval."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from aejax.plots import INK, WIDTH, label_colour, legend, mosaic, show, subplots, window


def query_map(
    codes: np.ndarray, labels: np.ndarray, classes: Sequence[str], query: np.ndarray, found: np.ndarray, title: str
) -> Figure:
    """Codes [N, 2] coloured by label, a query [2] and the rows `found` nearest to it."""
    figure, ax = subplots(figsize=(WIDTH, WIDTH + 0.3))
    limits = window(np.concatenate([codes, query[None]]))
    colours = [label_colour(label, classes) for label in labels]
    ax.scatter(*codes.T, s=np.clip(7000 / len(codes), 3, 30), c=colours, linewidths=0, alpha=0.7)
    ax.scatter(*codes[found].T, s=60, facecolors="none", edgecolors=INK, label=f"{len(found)} nearest")
    ax.scatter(*query, s=160, marker="*", color="black", edgecolors="white", label="query")
    ax.set(xlim=limits[0], ylim=limits[1], xlabel="unit 1", ylabel="unit 2", title=title)
    legend(ax)
    return figure


def neighbour_rows(queries: np.ndarray, found: Mapping[str, np.ndarray]) -> Figure:
    """Queries [n, H, W, C] in the first column, and beside them neighbours [n, k, H, W, C] by each search."""
    count, k = next(iter(found.values())).shape[:2]
    gap = -(-queries.shape[2] // 10)
    figure, axes = subplots(len(found), figsize=(WIDTH, len(found) * (WIDTH * count / (k + 1.3) + 0.25)), squeeze=False)
    for ax, (name, images) in zip(axes[:, 0], found.items(), strict=True):
        first, rest = mosaic(queries, 1, gap), mosaic(images.reshape(-1, *images.shape[2:]), k, gap)
        between = np.full((len(first), 3 * gap, first.shape[2]), np.nan, np.float32)
        show(ax, np.concatenate([first, between, rest], axis=1))
        ax.set_title(name, loc="left", fontsize="medium", pad=3, color=INK)
    return figure
