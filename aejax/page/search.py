"""What a search has tried: the settings with their curves, a table, and the best one."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from aejax.page import results
from aejax.page.command import reproduce
from aejax.storage import metrics as metrics_lib
from aejax.storage import run_dir
from aejax.training import search


class Tried(NamedTuple):
    """A setting of a search."""

    members: list[int]
    values: dict[str, Any]  # of each field of a range
    epochs: np.ndarray  # of its evaluations
    losses: np.ndarray  # on the validation split, of a classifier errors: means over the seeds
    steps: int  # that it was trained for
    why: str  # it ended before the end; "" = it did not


def read(path: Path) -> list[Tried]:
    """The settings of a finished search, in the order in which they were drawn."""
    from pyarrow import parquet

    config, _ = run_dir.read(path)
    fields = [own.field for own in search.ranges(config)]
    settings: dict[str, list[dict[str, Any]]] = {}
    for row in parquet.read_table(path / run_dir.TABLE).to_pylist():
        settings.setdefault(repr([row[field] for field in fields]), []).append(row)
    found = []
    for rows in settings.values():
        curves = [_curve(path / run_dir.MEMBERS / str(row["member"])) for row in rows]
        epochs = sorted(set.intersection(*map(set, curves)))
        losses = np.array([np.mean([curve[epoch] for curve in curves]) for epoch in epochs])
        why = next((row["ended"] for row in rows if row["ended"]), "")
        values = {field: rows[0][field] for field in fields}
        steps = min(row["steps"] for row in rows)
        found.append(Tried([row["member"] for row in rows], values, np.array(epochs), losses, steps, why))
    return found


def _curve(path: Path) -> dict[float, float]:
    lines = [line for line in metrics_lib.read(path) if line["split"] == "validation"]
    return {line["epoch"]: line.get("error", line["loss"]) for line in lines}


def measure(path: Path) -> str:
    """What a search chooses by: "validation loss", or "validation error" of a classifier."""
    return f"validation {'error' if 'validation/error' in (run_dir.read_results(path) or {}) else 'loss'}"


def table(path: Path) -> str:
    """The settings for a terminal: those that were trained longest first, then by validation loss."""
    tried = sorted(read(path), key=lambda own: (bool(own.why), -own.steps, _last(own)))
    fields = list(tried[0].values)
    rows = [["members" if len(tried[0].members) > 1 else "member", *fields, "steps", measure(path), ""]]
    for own in tried:
        reason = own.why.partition(":")[0] if own.why else "to the end"
        values = [f"{v:.4g}" if isinstance(v, float) else str(v) for v in own.values.values()]
        rows.append([_named(own), *values, str(own.steps), results.number(_last(own)), reason])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [[cell.rjust(w) for cell, w in zip(row[:-1], widths, strict=False)] + [row[-1]] for row in rows]
    return "\n".join("  ".join(line).rstrip() for line in lines)


def best(path: Path) -> str:
    """The best setting of a finished search, and the command that trains it alone."""
    number = int((run_dir.read_results(path) or {})["best_member"])
    own = next(own for own in read(path) if number in own.members)
    config, _ = run_dir.read(path / run_dir.MEMBERS / str(number))
    values = "".join(f", {field} = {value}" for field, value in own.values.items())
    seeds = f" (mean of {len(own.members)} seeds)" if len(own.members) > 1 else ""
    text = f"best: member {number}{values}: {measure(path)} {results.number(_last(own))}{seeds}"
    command = reproduce(config)
    return f"{text}; train it alone by: {command}" if command and "\n" not in command else text


def _last(own: Tried) -> float:
    return float(own.losses[-1]) if len(own.losses) else np.inf


def _named(own: Tried) -> str:
    return f"{own.members[0]}-{own.members[-1]}" if len(own.members) > 1 else str(own.members[0])
