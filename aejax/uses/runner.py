"""Run uses on a trained model and write what they measured."""

import csv
import dataclasses
import functools
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aejax import fields
from aejax.storage import run_dir
from aejax.trained import Trained
from aejax.training import classifier, progress
from aejax.uses import USES, Result, Skip
from aejax.uses.data import Data


def run(
    trained: Trained | Sequence[Trained], data: Data, names: Sequence[str], path: Path, sections: Mapping[str, Any]
) -> dict[str, float]:
    """Run these uses and return their numbers; each writes uses/NAME of the run directory. `sections`: fields by use.

    Several models are those of a population, for uses that are an `ensemble`; their numbers are USE/ensemble/METRIC.

    A use that cannot be computed, or fails, is skipped with a line that says why.
    """
    numbers: dict[str, float] = {}
    first = trained if isinstance(trained, Trained) else trained[0]
    for name in names:
        use, folder = USES[name], path / run_dir.USES / name
        data.classifier = functools.partial(classifier.load_or_train, data.dataset, first.config, folder / "classifier")
        try:
            with progress.said(f"use {name}"):
                result = use.measure(trained, data, **fields.chosen(use.measure, sections[name]))
            if not isinstance(trained, Trained):  # beside the mean of the members
                named = {name.replace("/", "/ensemble/", 1): value for name, value in result.numbers.items()}
                result = dataclasses.replace(result, numbers=named)
            files = texts(result)
        except Skip as reason:
            print(f"use {name}: left out: {reason}", flush=True)
            continue
        except Exception as error:  # a use never costs the results of a run
            print(f"use {name}: left out: {type(error).__name__}: {' '.join(str(error).split())[:200]}", flush=True)
            continue
        for note in result.notes:
            print(f"use {name}: {note}", flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            run_dir.write_output(folder / file, text)
        for file, arrays in result.arrays.items():
            run_dir.write_output(folder / f"{file}.npz", _npz(arrays))
        if first.config.figures.enabled:
            draw(result, folder)
        numbers |= json.loads(files[run_dir.RESULTS])
    return numbers


def texts(result: Result) -> dict[str, str]:
    """The text of each file of a use: results.json, and a CSV file for each table."""
    numbers = {name: float(value) for name, value in result.numbers.items()}  # JSON takes no numbers of NumPy or JAX
    files = {run_dir.RESULTS: json.dumps(numbers, indent=2) + "\n"}
    for name, table in result.tables.items():
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(table)
        writer.writerows(zip(*table.values(), strict=True))
        files[f"{name}.csv"] = text.getvalue()
    return files


def _npz(arrays: Mapping[str, Any]) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def draw(result: Result, folder: Path) -> None:
    """figures/*.png of a use."""
    if result.figures:
        from aejax.page import figures as figures_lib  # here, since matplotlib takes a second

        (folder / run_dir.FIGURES).mkdir(exist_ok=True)
        for name, make in result.figures.items():
            figures_lib.save(name, make, folder / run_dir.FIGURES)
