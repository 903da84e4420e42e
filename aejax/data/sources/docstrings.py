"""Docstrings of NumPy and SciPy, labelled by subpackage: documents that come with the package.

launch/docstrings.py wrote the file; docstrings.LICENSE.txt holds its licences.
"""

import csv
import gzip
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

FILE = Path(__file__).with_name("docstrings.csv.gz")


def read(argument: str, config: ConfigDict) -> dict[str, Any]:
    """Docstrings of 2037 public functions and classes of NumPy and SciPy; 407 are the test split.

    x_train and x_test are lists of strings, 1630 and 407; y_train [1630] and y_test [407] are strings, each
    one of 18 subpackages, such as scipy.stats. The function ignores both arguments.
    """
    with gzip.open(FILE, "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    test = np.zeros(len(rows), bool)
    test[np.random.RandomState(0).permutation(len(rows))[: round(0.2 * len(rows))]] = True
    x, y = [row["text"] for row in rows], np.array([row["label"] for row in rows])
    return {
        "x_train": [text for text, held in zip(x, test, strict=True) if not held],
        "y_train": y[~test],
        "x_test": [text for text, held in zip(x, test, strict=True) if held],
        "y_test": y[test],
    }
