"""Figures of the use `forecast`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from aejax.data.spec import Field
from aejax.plots import INK, WIDTH, image_rows, legend, subplots


def examples(field: Field, true: np.ndarray, made: np.ndarray, seen: int) -> Figure:
    """Examples [n, T, ...] and the output of the model, which has seen the first `seen` steps."""
    if field.kind == "video":
        rows: dict[str, np.ndarray] = {}
        for i, (ours, theirs) in enumerate(zip(np.clip(made, 0, 1), true, strict=True), 1):
            rows |= {f"video {i}; the model sees the first {seen} frames": theirs}
            rows |= {f"output for video {i}: {seen} frames reconstructed, {len(ours) - seen} predicted": ours}
        return image_rows(rows)
    figure, axes = subplots(len(true), figsize=(WIDTH, 0.4 + 1.8 * len(true)), squeeze=False, sharex=True)
    for ax, theirs, ours in zip(axes[:, 0], true, made, strict=True):
        ax.plot(theirs[:, 0], linewidth=1, label="true")
        ax.plot(ours[:, 0], linewidth=1, label="output")
        ax.axvline(seen - 0.5, color=INK, linewidth=0.8, linestyle="--", label="end of what is seen")
        ax.set_ylabel(field.columns[0] if field.columns else "channel 0")
    axes[-1, 0].set_xlabel("step")
    legend(axes[0, 0])
    return figure


def steps(table: Mapping[str, Sequence[Any]]) -> Figure:
    """The squared error of each predicted step, by method."""
    figure, ax = subplots(figsize=(WIDTH, 3.2))
    for name, values in table.items():
        if name != "step":
            width, label = 1.8 if name == "model" else 1.0, name.replace("_", " ")
            ax.plot(table["step"], values, marker="o", markersize=3, linewidth=width, label=label)
    ax.set(xlabel="predicted step", ylabel="squared error", ylim=(0, None))
    ax.grid(alpha=0.3)
    legend(ax)
    return figure
