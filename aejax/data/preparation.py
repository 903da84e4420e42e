"""Preparation of a table before standardisation: fill empty cells, encode categories; fitted on the training split."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from aejax.data import tokens
from aejax.data.lazy import Lazy, chunks
from aejax.data.spec import Field
from aejax.errors import FieldError, InputError


def fit(x: Any, config: ConfigDict, columns: Sequence[str], categories: Mapping[str, Sequence[str]]) -> Field:
    """The field of a raw table x, float64 [N, columns]; mean and deviation are not set yet."""
    missing, width = config.data.missing, x.shape[1]
    fill: tuple[float, ...] = ()
    indicators: tuple[int, ...] = ()
    if missing != "error":
        n, total, gaps = np.zeros(width), np.zeros(width), np.zeros(width, bool)
        for part in chunks(x):
            empty = np.isnan(part)
            n, gaps = n + (~empty).sum(0), gaps | empty.any(0)
            total = total + np.where(empty, 0, part).sum(0)
        _refuse_empty(n, columns)
        if missing != "mask":
            fill = tuple(_fill(x, config, columns, categories, total / n))
        if missing == "indicator":
            indicators = tuple(np.flatnonzero(gaps).tolist())
    size = width + sum(len(names) - 1 for names in categories.values()) + len(indicators)
    return Field(
        "table",
        (size,),
        "float32",
        columns=tuple(columns),
        categories={name: tuple(values) for name, values in categories.items()},
        missing=missing,
        fill=fill,
        indicators=indicators,
    )


def count_empty(*splits: Any) -> int:
    """The number of empty cells of raw tables."""
    return sum(int(np.isnan(part).sum()) for x in splits for part in chunks(x))


def _fill(
    x: Any, config: ConfigDict, columns: Sequence[str], categories: Mapping[str, Sequence[str]], mean: np.ndarray
) -> list[float]:
    """The value that fills an empty cell of each column: mean or median; of a category the most frequent one."""
    if isinstance(x, Lazy) and (config.data.missing == "median" or categories):
        raise FieldError("data.missing", config.data.missing, "needs config.data.resident=true, or data.missing=mask")
    values = np.nanmedian(x, axis=0) if config.data.missing == "median" else mean
    found = values.tolist()
    for j, name in enumerate(columns):
        if name in categories:
            known = x[:, j][~np.isnan(x[:, j])].astype(int)
            found[j] = float(np.bincount(known).argmax())
    return found


def _refuse_empty(n: np.ndarray, columns: Sequence[str]) -> None:
    if (n == 0).any():
        j = int((n == 0).argmax())
        name = columns[j] if columns else f"number {j}"
        way = f": config.data.drop_columns={name} leaves it out" if columns else ""
        raise InputError(f"column {name} has no value in the training split{way}")


def number(name: str, level: str, config: ConfigDict, notes: list[str], *splits: dict[str, Any]) -> Field:
    """Replace the texts of a field by the numbers of their tokens; the vocabulary is that of the first split."""
    texts = [split[name].tolist() for split in splits]
    found = tokens.vocabulary(texts[0], level, config.data.vocabulary)
    length = max(tokens.longest(some, level) for some in texts if some)
    for split, some in zip(splits, texts, strict=True):
        split[name] = tokens.encode(some, found, level, length, f"{config.data.source}: {name}")
    unknown = sum(int((split[name] == tokens.UNKNOWN).sum()) for split in splits)
    if unknown:
        notes.append(f"{name}: {unknown:,} {level} are not in the vocabulary (data.vocabulary) and become one token")
    return Field("tokens", (length,), "int32", high=float(len(found) - 1), classes=found, level=level)
