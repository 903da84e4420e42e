"""Figures of the use `sequence`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from aejax.data import tokens
from aejax.data.spec import PIXELS, Field
from aejax.data.tokens import LEVELS
from aejax.plots import INK, WIDTH, mosaic, show, subplots
from aejax.uses.sequence.writer import Writer

FRAMES = 10  # of a video, evenly spaced
WRONG = "#c0392b"


def sequences(field: Field, x: Any, true: Sequence[str], written: Sequence[str]) -> Figure:
    """Each example, the true sequence, and the written one, in red where it differs."""
    figure, axes = subplots(len(true), figsize=(WIDTH, 0.95 * len(true)), squeeze=False)
    texts = tokens.decode(x, field.classes, field.level) if field.kind == "tokens" else [""] * len(true)
    for ax, example, text, ours, theirs in zip(axes[:, 0], x, texts, written, true, strict=True):
        if field.kind in PIXELS:
            frames = example if field.kind == "video" else example[None]
            frames = frames[np.linspace(0, len(frames) - 1, min(FRAMES, len(frames))).astype(int)]
            show(ax, mosaic(frames / np.float32(255) if frames.dtype == np.uint8 else frames, len(frames)))
        elif field.kind == "series":
            ax.plot(example, linewidth=1)
        else:
            ax.text(0, 0.3, text, fontsize="medium", family="monospace", transform=ax.transAxes)
        ax.set_axis_off()
        ax.set_title(f"true: {theirs}", loc="left", fontsize="small", pad=15, color=INK)
        colour = INK if ours == theirs else WRONG
        ax.text(0, 1.08, f"written: {ours}", fontsize="small", color=colour, transform=ax.transAxes)
    return figure


def attention(writer: Writer, x: Any) -> Figure:
    """The weight of each step of the input (columns) where each token is written (rows); dark is large."""
    weights = writer.model.map(writer.attention, x)
    written, _ = writer.write(x)
    field, columns = writer.model.spec.x, 2
    rows = -(-len(x) // columns)
    figure, axes = subplots(rows, columns, figsize=(WIDTH, 3.1 * rows), squeeze=False)
    for ax in axes.ravel()[len(x) :]:
        ax.axis("off")
    for ax, example, text, weight in zip(axes.ravel(), x, written, weights, strict=False):
        out = list(LEVELS[writer.field.level].split(text))
        if field.kind == "video":  # of all places of a frame
            weight = weight.reshape(len(weight), len(example), -1).sum(-1)
        steps = int(tokens.lengths(example)) - 1 if field.kind == "tokens" else weight.shape[1]
        ax.imshow(weight[: len(out), :steps], cmap="Greys", vmin=0, aspect="auto")
        ax.set_yticks(range(len(out)), out, fontsize="x-small")
        if field.kind == "tokens":
            ax.set_xticks(range(steps), [field.classes[i] for i in example[:steps].tolist()], fontsize="x-small")
        else:
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            ax.set_xlabel({"image": "place in the last map", "video": "frame"}.get(field.kind, "step"))
    return figure
