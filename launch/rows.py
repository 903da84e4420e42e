"""The rows of a measurement, kept in a folder: a stopped measurement continues after the last row."""

import csv
import json
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import numpy as np

Row = dict[str, float]


class Rows:
    """Rows by name in FOLDER/rows.json; `finish` writes their means to FOLDER/results.json, and all to table.csv.

    given: the arguments of the command, without which no row can be told from that of another measurement.
    """

    def __init__(self, folder: Path, given: Namespace):
        self.folder, self.file = folder, folder / "rows.json"
        self.settings = {name: str(value) for name, value in vars(given).items() if name != "workdir"}
        folder.mkdir(parents=True, exist_ok=True)
        kept = json.loads(self.file.read_text()) if self.file.exists() else {"settings": self.settings, "rows": {}}
        if kept.get("settings") != self.settings:
            sys.exit(f"{folder}: holds rows of another measurement, {kept.get('settings')}; name another --workdir")
        self.rows: dict[str, Row] = kept["rows"]

    def measure(self, name: str, function: Callable[[], Row]) -> Row:
        """The row `name`, measured unless it is kept, and printed."""
        if name not in self.rows:
            self.rows[name] = function()
            temporary = self.file.with_suffix(".tmp")
            temporary.write_text(json.dumps({"settings": self.settings, "rows": self.rows}, indent=1))
            temporary.replace(self.file)
        print(f"{name}:", ", ".join(f"{n} {value:.2f}" for n, value in self.rows[name].items()), flush=True)
        return self.rows[name]

    def finish(self, results: dict[str, float]) -> None:
        """Print and write the means, with further results."""
        mean = {n: float(np.mean([row[n] for row in self.rows.values()])) for n in next(iter(self.rows.values()))}
        print("mean:", ", ".join(f"{n} {value:.2f}" for n, value in mean.items()))
        with open(self.folder / "table.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["row", *mean])
            writer.writerows([name, *row.values()] for name, row in (*self.rows.items(), ("mean", mean)))
        (self.folder / "results.json").write_text(json.dumps(mean | results, indent=2) + "\n")
