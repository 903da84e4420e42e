"""Runs side by side: the fields of their configs that differ, and their results."""

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from aejax import config as config_lib
from aejax.errors import InputError, did_you_mean
from aejax.page import results
from aejax.storage import metrics as metrics_lib
from aejax.storage import run_dir


class Run(NamedTuple):
    """The contents of a run directory."""

    name: str
    fields: dict[str, Any]  # of the config: those that determine the run's numbers
    results: dict[str, float]  # empty if the run is not finished
    metrics: list[dict[str, Any]]
    digest: str  # of the data


def read(paths: Sequence[str | Path], *, allow_different_data: bool = False) -> list[Run]:
    """The runs, each directory once, and for a population its members that have finished. Named by the directory, or by
    its path if two share a name. Raises InputError."""
    folders = {own.resolve(): (own, Path(path)) for path in paths for own in _members(Path(path))}
    if len(folders) < 2:
        raise InputError(f"compare: needs at least two run directories, found {len(folders)}")
    names = [given.resolve().name for _, given in {given: (own, given) for own, given in folders.values()}.values()]
    runs = []
    for folder, (own, given) in folders.items():
        config, spec = run_dir.read(folder)
        name = given.resolve().name if names.count(given.resolve().name) == 1 else str(given)
        name += f"/{own.name}" if own != given else ""
        measured = run_dir.read_results(folder) or {}
        metrics = [line for line in metrics_lib.read(folder) if "stage" not in line]
        runs.append(Run(name, config_lib.identity(config), measured, metrics, spec.digest))
        if spec.digest != runs[0].digest and not allow_different_data:
            raise InputError(
                f"compare: {name} is on other data (digest {spec.digest}) than {runs[0].name} ({runs[0].digest}); "
                "--allow_different_data compares them anyway"
            )
    if not any(run.results for run in runs):
        raise InputError("compare: none of these runs is finished")
    return runs


def _members(path: Path) -> list[Path]:
    """The run directories of the finished members of a population; of a run itself."""
    found = [own for own in (path / run_dir.MEMBERS).glob("*") if (own / run_dir.RESULTS).is_file()]
    return sorted(found, key=lambda own: int(own.name)) or [path]


class Group(NamedTuple):
    """Runs that differ only by their seed, in one row; n is the number of finished ones."""

    runs: tuple[Run, ...]
    fields: dict[str, Any]  # that the runs share; `seed` is a list if there are several

    @property
    def name(self) -> str:
        """The name of the first run, and the number of the others."""
        more = len(self.runs) - 1
        return self.runs[0].name + (f" +{more}" if more else "")

    @property
    def n(self) -> int:
        return sum(bool(run.results) for run in self.runs)

    def mean(self, name: str) -> float | None:
        """The mean of a result over the runs that have it; None if none has."""
        values = self._values(name)
        return values[0] if len(values) == 1 else float(np.mean(values)) if values else None

    def deviation(self, name: str) -> float | None:
        """The sample standard deviation of a result, with n - 1; None for fewer than two runs."""
        values = self._values(name)
        return float(np.std(values, ddof=1)) if len(values) > 1 else None

    def value(self, name: str) -> Any:
        """The mean of a result, or a field."""
        found = self.mean(name)
        return self.fields.get(name) if found is None else found

    def _values(self, name: str) -> list[float]:
        return [run.results[name] for run in self.runs if name in run.results]


def grouped(runs: Sequence[Run]) -> list[Group]:
    """The runs, grouped if they differ only by their seed; each group is ordered by seed."""
    groups: list[list[Run]] = []
    for run in runs:
        same = next((group for group in groups if _key(group[0]) == _key(run)), None)
        groups.append([run]) if same is None else same.append(run)
    found = []
    for group in groups:
        group.sort(key=lambda run: run.fields["seed"])
        seeds = [run.fields["seed"] for run in group]
        found.append(Group(tuple(group), group[0].fields | {"seed": seeds if len(seeds) > 1 else seeds[0]}))
    return found


def _key(run: Run) -> tuple[str, dict[str, Any]]:
    return run.digest, {name: value for name, value in run.fields.items() if name != "seed"}


def differing(groups: Sequence[Group]) -> list[str]:
    """The fields of the config that differ between the groups that have them (not all have stages)."""
    names = dict.fromkeys(name for group in groups for name in group.fields)
    values = {name: [group.fields[name] for group in groups if name in group.fields] for name in names}
    return [name for name, found in values.items() if any(value != found[0] for value in found)]


def measured(groups: Sequence[Group]) -> list[str]:
    """The names of all results of the runs, those of the test split first."""
    names = {name for group in groups for run in group.runs for name in run.results}
    return sorted(names, key=lambda name: (not name.startswith("test/"), name))


def usual(groups: Sequence[Group]) -> str:
    """The result that is shown unless another is asked for."""
    found = measured(groups)
    return "test/loss" if "test/loss" in found else found[0]


def ordered(groups: Sequence[Group], key: str) -> list[Group]:
    """The groups by increasing value of a result or field, or decreasing for "-NAME"; raises InputError."""
    name, reverse = key.removeprefix("-"), key.startswith("-")
    known = [*measured(groups), *dict.fromkeys(name for group in groups for name in group.fields)]
    if name not in known:
        hint = did_you_mean(name, known) or f"; must be one of {', '.join(known)}"
        raise InputError(f"--sort={key}: no such result or field{hint}")
    having = [group for group in groups if group.value(name) is not None]
    numbers = all(isinstance(group.value(name), int | float) for group in having)
    having.sort(key=lambda group: group.value(name) if numbers else str(group.value(name)), reverse=reverse)
    return having + [group for group in groups if group.value(name) is None]


def to_csv(groups: Sequence[Group]) -> str:
    """A row for each group: the names of its runs, each differing field, n, each result's METRIC_mean and METRIC_std.

    In full precision. METRIC_std is the sample standard deviation (n - 1), empty where n = 1.
    """
    fields, names = differing(groups), measured(groups)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", *fields, "n", *(f"{name}_{part}" for name in names for part in ("mean", "std"))])
    for group in groups:
        numbers = [value for name in names for value in (group.mean(name), group.deviation(name))]
        values = [group.fields.get(name) for name in fields]
        writer.writerow([" ".join(run.name for run in group.runs), *values, group.n, *numbers])
    return text.getvalue()


def table(groups: Sequence[Group], width: int, only: Sequence[str] = ()) -> str:
    """The same for a terminal: blocks of columns that fit into `width` characters, each with the groups' names.

    only: results to show, by default all.
    """
    names = ["run", *(group.name for group in groups)]
    left = max(map(len, names))
    blocks: list[list[list[str]]] = []  # of columns, of lines
    room = 0
    columns = {name: [shown(group.fields.get(name)) for group in groups] for name in differing(groups)}
    columns |= {"n": [str(group.n) for group in groups]}
    columns |= {name: [spread(group, name) for group in groups] for name in only or measured(groups)}
    for name, cells in columns.items():
        column = [*re.findall(r"[^./]+[./]?", name), *cells]  # model.bottleneck.size takes three lines
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


def spread(group: Group, name: str) -> str:
    """The mean of a result, with ± its deviation if the runs differ."""
    mean = group.mean(name)
    return shown(None) if mean is None else results.spread(mean, group.deviation(name))


def shown(value: Any) -> str:
    """A field or a number, to read."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return results.number(value)
    return (",".join(map(str, value)) or "()") if isinstance(value, list) else str(value)


def labels(groups: Sequence[Group]) -> dict[str, str]:
    """Name of a group -> its label: the differing fields except the seed if they are few, else its name."""
    fields = [name for name in differing(groups) if name != "seed"]
    told = {group.name: describe(group, fields) for group in groups}
    unique = len(set(told.values())) == len(told)
    return told if 1 <= len(fields) <= 3 and unique else {group.name: group.name for group in groups}


def describe(group: Group, fields: Sequence[str]) -> str:
    """The values of these fields, each with the end of its name that no other field has: "size 2, pair denoise"."""
    parts = {field: field.removesuffix(".name").split(".") for field in fields}
    told = []
    for field, own in parts.items():
        others = [other for name, other in parts.items() if name != field]
        short = next((own[-k:] for k in range(1, len(own)) if all(o[-k:] != own[-k:] for o in others)), own)
        told.append(f"{'.'.join(short)} {shown(group.fields.get(field))}")
    return ", ".join(told)
