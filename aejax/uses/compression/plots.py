"""Plots of compression."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from aejax.plots import INK, WIDTH, legend, subplots

COLOURS = ("#3b6fd4", "#d98032", "#8a6fb0")


def sizes(rows: Mapping[str, float]) -> Figure:
    """Bits per value of the same examples by each code, as bars; a grey pixel is one value."""
    figure, ax = subplots(figsize=(WIDTH, 0.8 + 0.3 * len(rows)))
    names = list(rows)[::-1]
    ax.barh(names, [rows[name] for name in names], color=[COLOURS[0] if n == "this model" else INK for n in names])
    for i, name in enumerate(names):
        ax.text(rows[name], i, f" {rows[name]:.3f}", va="center", fontsize="small", color=INK)
    ax.set(xlabel="bits per value", xlim=(0, 1.15 * max(rows.values())))
    return figure


def rate_distortion(points: Mapping[str, Sequence[tuple[float, float]]], marks: Mapping[str, float]) -> Figure:
    """Squared error against bits per value, by code; a line joins the points that no other one is better than.

    marks: horizontal lines, name -> squared error.
    """
    figure, ax = subplots(figsize=(WIDTH, 3.2))
    for (name, own), colour in zip(points.items(), COLOURS, strict=False):
        if own:
            ax.plot(*zip(*own, strict=True), ".", color=colour, alpha=0.3, markersize=4)
            ax.plot(*zip(*envelope(own), strict=True), "-o", color=colour, label=name, markersize=3, linewidth=1.2)
    for name, error in marks.items():
        ax.axhline(error, color=INK, linewidth=0.8, linestyle=":", label=name)
    ax.set(xlabel="bits per value, of the file", ylabel="squared error", xscale="log", yscale="log")
    ax.tick_params(which="both", colors=INK)
    ax.grid(alpha=0.3)
    legend(ax)
    return figure


def prefixes(units: Sequence[int], errors: Mapping[str, Sequence[float]]) -> Figure:
    """Squared error by the number of units that are kept."""
    figure, ax = subplots(figsize=(WIDTH, 3.0))
    for (name, values), colour in zip(errors.items(), COLOURS, strict=False):
        ax.plot(units, values, "-o", color=colour, label=name, markersize=3, linewidth=1.2)
    ax.set(xlabel="units of the code that are kept", ylabel="squared error")
    ax.set_ylim(bottom=0)
    ax.grid(alpha=0.3)
    legend(ax)
    return figure


def envelope(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Pairs of rate and error of which no other has both less."""
    best: list[tuple[float, float]] = []
    for rate, error in sorted(points):
        if not best or error < best[-1][1]:
            best.append((rate, error))
    return best
