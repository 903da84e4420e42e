"""Figure of the use `restoration`."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from aejax.plots import INK, WIDTH, legend, subplots


def level_curves(table: Mapping[str, Sequence[Any]], level: float, label: str) -> Figure:
    """PSNR over the level of the damage, by method, of a table of columns; the trained level is marked."""
    figure, ax = subplots(figsize=(WIDTH, 3.4))
    for name, values in table.items():
        if name.endswith("psnr") and "hidden" not in name:
            own = name == "psnr"
            method = "model" if own else name.removesuffix("_psnr").replace("_", " ")
            ax.plot(table["level"], values, marker="o", markersize=3, linewidth=1.8 if own else 1.0, label=method)
    ax.axvline(level, color=INK, linewidth=0.8, linestyle="--", label="trained level")
    ax.set(xlabel=label, ylabel="PSNR, dB", xlim=(0, None))
    ax.grid(alpha=0.3)
    legend(ax)
    return figure
