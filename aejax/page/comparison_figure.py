"""The figure of several runs: learning curves, a result against a field, and the result of each."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aejax.errors import InputError, did_you_mean
from aejax.page.comparison import Group, describe, differing, labels, measured, shown, spread
from aejax.plots import INK, WIDTH, colour_map, focus, legend, subplots

FEW = 10  # largest number of values of a field that are all written on its axis
WIDE = 20  # smallest ratio of largest to smallest value that makes the axis of a field logarithmic


def figure(groups: Sequence[Group], name: str, against: str | None = None, *, stacked: bool = False) -> Figure:
    """A result of groups of runs, in their order: over the epochs if it was logged, against a field if one is given,
    and at the end of training.

    Curves and points are means over the runs of a group. Bands and bars are one sample standard deviation (n - 1).
    stacked: one panel below the other, as on a page; of many groups the last panel then is the legend of the first.
    """
    split, _, metric = name.rpartition("/")
    curves = [_curve(group, split, metric) for group in groups]
    panels = [any(len(curve[0]) > 1 for curve in curves), against is not None, True]
    height = max(3.5, 1 + 0.3 * len(groups))
    size = (WIDTH, height * sum(panels)) if stacked else (5.5 * sum(panels), height)
    drawn, axes = subplots(*((sum(panels), 1) if stacked else (1, sum(panels))), figsize=size, squeeze=False)
    rest = list(axes.ravel())
    colours = colour_map("viridis")(np.linspace(0, 0.9, len(groups)))
    told = labels(groups)
    if panels[0]:
        _draw_curves(rest.pop(0), curves, [told[group.name] for group in groups], colours, name)
        beside = {"loc": "upper left", "bbox_to_anchor": (1, 1.02)}
        if not stacked or 1 < len(groups) <= FEW:
            legend(drawn.axes[0], fontsize="small", **({} if stacked else beside))
    if against is not None:
        _draw_against(rest.pop(0), groups, name, against)
    _draw_ends(rest[0], groups, [told[group.name] for group in groups], colours, name)
    return drawn


def metric(groups: Sequence[Group], asked: str) -> str:
    """The name of the result to draw; raises InputError."""
    known = measured(groups)
    if asked not in known:
        hint = did_you_mean(asked, known) or f"; must be one of {', '.join(known)}"
        raise InputError(f"--metric={asked}: no such result{hint}")
    return asked


def against(groups: Sequence[Group], asked: str | None) -> str | None:
    """The numeric field to draw against; default: the only one in which the groups differ. Raises InputError."""
    numeric = [name for name in differing(groups) if name != "seed" and _numeric(groups, name)]
    if asked is None:
        return numeric[0] if len(numeric) == 1 else None
    if asked not in numeric:
        hint = did_you_mean(asked, numeric) or f"; there are {', '.join(numeric) or 'none'}"
        raise InputError(f"--against={asked}: must be a field with numbers in which the runs differ{hint}")
    return asked


def _numeric(groups: Sequence[Group], name: str) -> bool:
    values = [group.fields[name] for group in groups if name in group.fields]
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _curve(group: Group, split: str, metric: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The epochs at which all runs of a group have logged a metric, its means, and its deviations (0 for one run)."""
    logged = [
        {line["epoch"]: line[metric] for line in run.metrics if line["split"] == split and metric in line}
        for run in group.runs
    ]
    begun = [values for values in logged if values] or [{}]
    epochs = sorted(set.intersection(*map(set, begun)))
    values = np.array([[run[epoch] for epoch in epochs] for run in begun])  # [runs, epochs]
    deviation = values.std(0, ddof=1) if len(begun) > 1 else np.zeros(len(epochs))
    return np.array(epochs), values.mean(0), deviation


def _draw_curves(ax: Axes, curves: Sequence[Any], told: Sequence[str], colours: np.ndarray, name: str) -> None:
    for (epochs, mean, deviation), label, colour in zip(curves, told, colours, strict=True):
        if len(epochs):
            ax.plot(epochs, mean, color=colour, linewidth=1.2, label=label)
        if deviation.any():
            ax.fill_between(epochs, mean - deviation, mean + deviation, color=colour, alpha=0.2, linewidth=0)
    ax.set(xlabel="epoch", title=name)
    ax.grid(alpha=0.3)
    focus(ax)


def _draw_against(ax: Axes, groups: Sequence[Group], name: str, field: str) -> None:
    """A curve for each combination of the other fields that differ."""
    others = [other for other in differing(groups) if other not in (field, "seed")]
    lines: dict[str, list[Group]] = {}
    for group in groups:
        if field in group.fields and group.mean(name) is not None:
            lines.setdefault(describe(group, others), []).append(group)
    for label, line in lines.items():
        line.sort(key=lambda group: group.fields[field])
        bars = [group.deviation(name) or 0 for group in line]
        ax.errorbar(
            [group.fields[field] for group in line],
            [group.value(name) for group in line],
            bars,
            marker="o",
            markersize=4,
            capsize=3,
            label=label,
        )
    values = sorted({group.fields[field] for line in lines.values() for group in line})
    if values and values[0] > 0 and values[-1] >= WIDE * values[0]:
        ax.set_xscale("log")
    if len(values) <= FEW:
        ax.set_xticks(values, [shown(value) for value in values])
        ax.set_xticks([], minor=True)
    ax.set(xlabel=field, title=f"{name} against {field.split('.')[-1]}")
    ax.grid(alpha=0.3)
    if len(lines) > 1:
        legend(ax, fontsize="small")


def _draw_ends(ax: Axes, groups: Sequence[Group], told: Sequence[str], colours: np.ndarray, name: str) -> None:
    known = [mean for group in groups if (mean := group.mean(name)) is not None]
    for i, (group, colour) in enumerate(zip(groups, colours, strict=True)):
        mean = group.mean(name)
        if mean is None:
            text, x = "no result", float(np.mean(known))
        else:
            text, x = spread(group, name), mean
            ax.errorbar(mean, i, xerr=group.deviation(name) or 0, marker="o", capsize=3, color=colour, zorder=2)
        ax.annotate(text, (x, i), xytext=(0, 6), textcoords="offset points", ha="center", fontsize="small", color=INK)
    ax.set_yticks(np.arange(len(groups)), told)
    several = any(group.deviation(name) is not None for group in groups)
    ax.set(
        title=f"{name}, at the end" + (": mean ± standard deviation" if several else ""), ylim=(len(groups) - 0.5, -0.5)
    )
    ax.margins(x=0.15)
    ax.locator_params(axis="x", nbins=4)
    ax.grid(alpha=0.3)
