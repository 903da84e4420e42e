"""The figure of a search: learning curves of the settings, and their loss against each field."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aejax.page.comparison_figure import WIDE
from aejax.page.search import Tried, measure, read
from aejax.plots import INK, WIDTH, colour_map, legend, subplots
from aejax.storage import run_dir
from aejax.training import search

HEIGHT = 2.8  # inches of a panel
MARGIN = 0.04  # beside a range, as a share of it
LOST = "#c0504d"  # of settings that were not finite


def figure(path: Path) -> Figure:
    """Validation loss of each setting of a finished search: over the epochs, then against each field; one panel below
    the other. The colour is how long a setting was trained."""
    tried, name = read(path), measure(path)
    ranges = search.ranges(run_dir.read(path)[0])
    whole = [own for own in tried if len(own.losses) and not own.why.startswith("not finite")]
    # The longer a setting was trained, the later it is drawn and the darker it is.
    lengths = sorted({(own.why == "", own.steps) for own in whole})
    shades = colour_map("viridis_r")(np.linspace(0.15, 0.9, len(lengths)))
    drawn, axes = subplots(1 + len(ranges), 1, figsize=(WIDTH, HEIGHT * (1 + len(ranges))), squeeze=False)
    first, *rest = axes.ravel()
    for (finished, steps), shade in zip(lengths, shades, strict=True):
        own = [one for one in whole if (one.why == "", one.steps) == (finished, steps)]
        label = f"{len(own)} {'to the end' if finished else f'stopped at epoch {own[0].epochs[-1]:g}'}"
        for k, one in enumerate(own):
            marker = "o" if len(one.epochs) == 1 else ""
            first.plot(
                one.epochs, one.losses, color=shade, linewidth=1.2, marker=marker, markersize=3,
                label=label if not k else None,
            )  # fmt: skip
        for ax, field in zip(rest, ranges, strict=True):
            ax.scatter(_places(own, field), [one.losses[-1] for one in own], color=shade, s=22, zorder=2)
    lost = [own for own in tried if own not in whole]
    for ax, field in zip(rest, ranges, strict=True):
        _axis(ax, field)
        if lost:  # at the upper edge
            top = ax.get_xaxis_transform()
            ax.scatter(_places(lost, field), [0.97] * len(lost), color=LOST, marker="x", s=22, transform=top)
    if lost:
        first.plot([], [], color=LOST, marker="x", linestyle="", label=f"{len(lost)} not finite")
    first.set(xlabel="epoch", title=name)
    legend(first, fontsize="small")
    values = np.concatenate([own.losses for own in whole]) if whole else np.ones(1)
    for ax in (first, *rest):
        if values.min() > 0 and values.max() >= WIDE * values.min():
            ax.set_yscale("log")
        ax.tick_params(which="both", colors=INK)
        ax.grid(alpha=0.3)
    for ax in rest:
        ax.set_ylabel(name)
        ax.yaxis.label.set_color(INK)
    return drawn


def _places(tried: Sequence[Tried], field: search.Range | search.Choice) -> list[Any]:
    """Where the settings lie on the axis of a field."""
    values = [own.values[field.field] for own in tried]
    if isinstance(field, search.Range):
        return values
    shown = list(map(_text, field.values))
    return [shown.index(_text(value)) for value in values]


def _text(value: Any) -> str:
    return str(tuple(value) if isinstance(value, list) else value)


def _axis(ax: Axes, field: search.Range | search.Choice) -> None:
    if isinstance(field, search.Choice):
        ax.set_xticks(range(len(field.values)), list(map(_text, field.values)))
        ax.set_xlim(-0.5, len(field.values) - 0.5)
    elif field.log:
        margin = (field.high / field.low) ** MARGIN
        ax.set_xscale("log")
        ax.set_xlim(field.low / margin, field.high * margin)
    else:
        margin = (field.high - field.low) * MARGIN
        ax.set_xlim(field.low - margin, field.high + margin)
    ax.set(xlabel=field.field)
