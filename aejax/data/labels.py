"""Labels as class indices."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from aejax.data.spec import report
from aejax.errors import FieldError, InputError

Arrays = dict[str, Any]


def number(train: Arrays, test: Arrays, source: str, notes: list[str]) -> tuple[str, ...]:
    """Replace the labels by class indices 0, 1, ..., or -1 for no label, and return the class names in order.

    One split may have no labels, or lack some classes. -1 means no label, unless -1 and 1 are the only labels.
    """
    if "y" not in train and "y" not in test:
        return ()
    for name, split in (("training", train), ("test", test)):
        if "y" not in split:
            notes.append(f"no labels in the {name} split")
            split["y"] = np.full(split["x"].shape[0], -1)
        split["y"] = _values(split["y"], source)
    mixed = {train["y"].dtype.kind in "U", test["y"].dtype.kind in "U"}
    if len(mixed) > 1:  # names in one split, numbers (perhaps all -1) in the other
        train["y"], test["y"] = (split["y"].astype(str) for split in (train, test))
    found = sorted({*np.unique(train["y"]).tolist(), *np.unique(test["y"]).tolist()})
    none = () if found == [-1, 1] else (-1, "-1")  # "-1" if labels are names
    values = [value for value in found if value not in none]
    if found == [-1, 1]:
        notes.append("labels -1 and 1 are two classes")
    elif unlabelled := sum(int(np.isin(split["y"], [v for v in found if v in none]).sum()) for split in (train, test)):
        total = len(train["y"]) + len(test["y"])
        notes.append(f"{unlabelled} of {total} examples have label -1, no label")
    numbers = {value: i for i, value in enumerate(values)} | dict.fromkeys(none, -1)
    for split in (train, test):
        unique, inverse = np.unique(split["y"], return_inverse=True)
        split["y"] = np.array([numbers[v] for v in unique.tolist()], np.int32)[inverse]
    return tuple(str(value) for value in values)


def _values(y: np.ndarray, source: str) -> np.ndarray:
    if y.dtype == object:
        y = np.array(y.tolist())
    if y.dtype.kind not in "biuUf":
        raise InputError(f"{source}: labels must be integers or strings, found dtype {y.dtype}")
    if y.dtype.kind == "f":
        whole = np.isfinite(y) & (y == np.round(y))
        report(~whole, y, f"{source}: y", "a label must be an integer or a string")
        y = y.astype(np.int64)
    return y.astype(np.int64) if y.dtype.kind == "b" else y


def keep(train: Arrays, classes: Sequence[str], wanted: Sequence[Any], notes: list[str]) -> Arrays:
    """The training examples of the classes that config.data.train_labels names."""
    names = [str(name) for name in wanted]
    for name in names:
        if name not in classes:
            allowed = f"must be names of classes: {', '.join(classes) or 'there are no labels'}"
            raise FieldError("data.train_labels", name, allowed)
    kept = np.isin(train["y"], [classes.index(name) for name in names])
    if not kept.any():
        raise FieldError("data.train_labels", tuple(wanted), "leaves no training example")
    notes.append(f"trained on the classes {', '.join(names)} alone: {int(kept.sum())} of {len(kept)} training examples")
    return {name: values[kept] for name, values in train.items()}


def chosen(raw: Mapping[str, Any], wanted: Sequence[Any], source: str) -> np.ndarray:
    """Whether each row of raw arrays is of the classes that config.data.train_labels names, bool [n].

    The rows of x_train come before those of x_test. Rows of a split without labels are of none.
    """
    parts = []
    for end in filter(lambda end: f"x{end}" in raw, ("", "_train", "_test")):
        x, y = raw[f"x{end}"], raw.get(f"y{end}")
        n = len(x) if isinstance(x, list) else x.shape[0]
        names = _values(np.asarray(y).reshape(n), source).astype(str) if y is not None else np.full(n, "-1")
        parts.append(np.isin(names, [str(name) for name in wanted]) & (y is not None))
    return np.concatenate(parts)
