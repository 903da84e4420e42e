"""Runs side by side: the fields of their configs that differ, and their results."""

import csv
import difflib
import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from aejax import config as config_lib
from aejax.errors import InputError
from aejax.page import results
from aejax.page.plots import colour_map, focus, subplots
from aejax.storage import metrics as metrics_lib
from aejax.storage import run_dir


class Run(NamedTuple):
    """What is read of a run directory."""

    name: str
    fields: dict[str, Any]  # of the config: all that determines the run's numbers
    results: dict[str, float]  # empty where the run is not finished
    metrics: list[dict[str, Any]]
    digest: str  # of the data


def read(paths: Sequence[str | Path], *, allow_different_data: bool = False) -> list[Run]:
    """The runs, each directory once, named by it or, where two share a name, by the path; raises InputError."""
    folders = {Path(path).resolve(): Path(path) for path in paths}
    if len(folders) < 2:
        raise InputError(f"compare: needs at least two run directories, found {len(folders)}")
    names = [folder.name for folder in folders]
    runs = []
    for folder, given in folders.items():
        config, spec = run_dir.read(folder)
        name = folder.name if names.count(folder.name) == 1 else str(given)
        measured = run_dir.read_results(folder) or {}
        metrics = [line for line in metrics_lib.read(folder) if "stage" not in line]
        runs.append(Run(name, config_lib.identity(config), measured, metrics, spec.digest))
        if spec.digest != runs[0].digest and not allow_different_data:
            raise InputError(
                f"compare: {name} is on other data (digest {spec.digest}) than {runs[0].name} ({runs[0].digest}); "
                "--allow_different_data compares them all the same"
            )
    if not any(run.results for run in runs):
        raise InputError("compare: none of these runs is finished")
    return runs


def differing(runs: Sequence[Run]) -> list[str]:
    """The fields of the config that are not the same in all runs that have them: not all have stages."""
    names = dict.fromkeys(name for run in runs for name in run.fields)
    values = {name: [run.fields[name] for run in runs if name in run.fields] for name in names}
    return [name for name, found in values.items() if any(value != found[0] for value in found)]


def measured(runs: Sequence[Run]) -> list[str]:
    """The results of any run: the test split's first."""
    names = {name for run in runs for name in run.results}
    return sorted(names, key=lambda name: (not name.startswith("test/"), name))


def ordered(runs: Sequence[Run], key: str) -> list[Run]:
    """From the smallest value of a result or field to the largest, or the other way for "-NAME"; raises InputError."""
    name, reverse = key.removeprefix("-"), key.startswith("-")
    known = [*measured(runs), *dict.fromkeys(name for run in runs for name in run.fields)]
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"must be one of {', '.join(known)}"
        raise InputError(f"--sort={key}: no such result or field; {hint}")
    having = [run for run in runs if _value(run, name) is not None]
    numbers = all(isinstance(_value(run, name), int | float) for run in having)
    having.sort(key=lambda run: _value(run, name) if numbers else str(_value(run, name)), reverse=reverse)
    return having + [run for run in runs if _value(run, name) is None]


def _value(run: Run, name: str) -> Any:
    return run.results.get(name, run.fields.get(name))


def to_csv(runs: Sequence[Run]) -> str:
    """A row for each run, a column for each differing field and each result, in full precision."""
    columns = [*differing(runs), *measured(runs)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", *columns])
    writer.writerows([run.name, *(_value(run, name) for name in columns)] for run in runs)
    return text.getvalue()


def table(runs: Sequence[Run], width: int) -> str:
    """The same to read: blocks of as many columns as `width` characters hold, each with the runs' names."""
    names = ["run", *(run.name for run in runs)]
    left = max(map(len, names))
    blocks: list[list[list[str]]] = []  # of columns, of lines
    room = 0
    for name in [*differing(runs), *measured(runs)]:
        # A name such as model.bottleneck.size stands in three lines.
        column = [*re.findall(r"[^./]+[./]?", name), *(_shown(_value(run, name)) for run in runs)]
        wide = max(map(len, column))
        if wide + 2 > room:
            blocks.append([])
            room = width - left
        blocks[-1].append(column)
        room -= wide + 2
    return "\n\n".join(_block(block, names[1:], left) for block in blocks)


def _block(columns: Sequence[Sequence[str]], names: Sequence[str], left: int) -> str:
    lines = max(map(len, columns))
    first = ["run" if i == lines - len(names) - 1 else "" for i in range(lines - len(names))] + list(names)
    padded = [[""] * (lines - len(column)) + list(column) for column in columns]
    widths = [max(map(len, column)) for column in padded]
    rows = zip(first, *padded, strict=True)
    return "\n".join(
        "  ".join([row[0].ljust(left), *(cell.rjust(w) for cell, w in zip(row[1:], widths, strict=True))]).rstrip()
        for row in rows
    )


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return results.number(value)
    return (",".join(map(str, value)) or "()") if isinstance(value, list) else str(value)


def labels(runs: Sequence[Run]) -> Mapping[str, str]:
    """Name of a run -> what tells it from the others, in a line: its differing fields where they are few."""
    fields = differing(runs)
    if not 1 <= len(fields) <= 3:
        return {run.name: run.name for run in runs}
    short = {field: ".".join(field.split(".")[-2:]) for field in fields}
    told = {run.name: ", ".join(f"{short[f]} {_shown(run.fields[f])}" for f in fields) for run in runs}
    return told if len(set(told.values())) == len(told) else {run.name: run.name for run in runs}


def comparison(runs: Sequence[Run], labels: Mapping[str, str], name: str) -> Figure:
    """A result of several runs, in their order: over the epochs where it was logged, and at the end."""
    split, _, metric = name.rpartition("/")
    curves = {
        run.name: [(m["epoch"], m[metric]) for m in run.metrics if m["split"] == split and metric in m] for run in runs
    }
    drawn = any(len(curve) > 1 for curve in curves.values())
    height = max(2.5, 1 + 0.3 * len(runs))
    figure, axes = subplots(1, 1 + drawn, figsize=(6 + 5 * drawn, height), squeeze=False)
    colours = colour_map("viridis")(np.linspace(0, 0.9, len(runs)))
    for run, colour in zip(runs, colours, strict=True):
        if drawn and curves[run.name]:
            axes[0][0].plot(*zip(*curves[run.name], strict=True), color=colour, linewidth=1.2)
    if drawn:
        axes[0][0].set(xlabel="epoch", title=name)
        axes[0][0].grid(alpha=0.3)
        focus(axes[0][0])
    ax = axes[0][-1]
    values = [run.results.get(name, math.nan) for run in runs]
    ax.scatter(values, np.arange(len(runs)), c=colours, zorder=2)
    for i, value in enumerate(values):
        text, x = (f"{value:.4g}", value) if math.isfinite(value) else ("no result", np.nanmean(values))
        ax.annotate(text, (x, i), xytext=(6, 0), textcoords="offset points", va="center", fontsize="small")
    ax.set_yticks(np.arange(len(runs)), [labels[run.name] for run in runs])
    ax.set(title=f"{name}, at the end", ylim=(len(runs) - 0.5, -0.5))
    ax.margins(x=0.15)
    ax.grid(alpha=0.3)
    return figure
