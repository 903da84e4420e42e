"""Runs side by side: what differs in their configs, and their results.

  python -m aejax.compare RUN... [--sort=test/loss] [--csv=FILE] [--figure=FILE] [--allow_different_data]

RUN is a run directory. --sort names a result or a field of the config, with a minus before it from high to low:
  python -m aejax.compare runs/* --sort=test/squared_error --csv=runs.csv --figure=runs.png

Runs on different data are refused unless told otherwise; a run that is not finished has no results and comes last.
"""

import csv
import difflib
import io
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from aejax import cli, results, run_dir
from aejax import config as config_lib
from aejax.errors import InputError


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
        metrics = [line for line in run_dir.read_metrics(folder) if "stage" not in line]
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


def command() -> None:
    sort = flags.DEFINE_string(
        "sort", None, "result or field to sort by, test/loss where there is one; -NAME: from high to low"
    )
    csv_file = flags.DEFINE_string("csv", None, "file to write the table to")
    figure_file = flags.DEFINE_string("figure", None, "file to draw to: .png, .pdf or .svg")
    different = flags.DEFINE_bool("allow_different_data", False, "compare runs on different data")

    def main(*paths: str) -> None:
        runs = read(paths, allow_different_data=different.value)
        found = measured(runs)
        usual = "test/loss" if "test/loss" in found else found[0]
        key = sort.value or usual
        runs = ordered(runs, key)
        if figure_file.value:
            from aejax import figures  # here, so that bad input need not wait for what draws

            shown = key.removeprefix("-")
            shown = shown if shown in found else usual
            path = Path(figure_file.value)
            content = figures.encode(figures.comparison(runs, labels(runs), shown), path)
            run_dir.write_output(path, content)
        if csv_file.value:
            run_dir.write_output(Path(csv_file.value), to_csv(runs))
        print(table(runs, shutil.get_terminal_size((160, 24)).columns))

    cli.run(main, arguments=True)


if __name__ == "__main__":
    command()
