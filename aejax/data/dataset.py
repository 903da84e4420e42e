"""A data set: its splits as the model takes them, and what is known of it besides its values."""

import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from scipy import sparse

from aejax.config import fail
from aejax.data import bags
from aejax.data.lazy import Lazy, chunks
from aejax.errors import InputError

SPLITS = ("train", "validation", "test")
Arrays = dict[str, Any]  # x [N, ...], in a sparse table CSR; and where there are labels y [N] int32, -1 = none


@dataclasses.dataclass(frozen=True)
class Spec:
    """What is known of a data set besides its values; saved with the run as data.json."""

    kind: str  # image | table
    shape: tuple[int, ...]  # of one example: (height, width, channels) or (columns,)
    dtype: str  # of the stored examples: uint8 (0..255), float32, or uint16 (counts of a sparse table)
    train: int  # examples of each split
    validation: int
    test: int
    low: float  # smallest and largest value, as the model sees it
    high: float
    classes: tuple[str, ...] = ()  # names of the labels 0, 1, ...
    columns: tuple[str, ...] = ()  # of a table; of text the vocabulary
    mean: tuple[float, ...] = ()  # of a table's training columns, in their own units
    deviation: tuple[float, ...] = ()
    sparse: bool = False  # a table kept as sparse rows, and never standardised
    text: str = ""  # how documents are weighted: counts | tfidf | binary; "" = the examples are no documents
    idf: tuple[float, ...] = ()  # tfidf: weight of each word
    digest: str = ""  # of every value of every split

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> "Spec":
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(text).items()}
        return cls(**fields)

    def apply(self, x: Any) -> Any:
        """Raw examples [N, ...] of a caller -> what the model takes; raises InputError.

        Of a model of text the strings of documents, or their rows as the model takes them.
        """
        if self.text and bags.is_documents(x):
            return bags.count(x, self.text, self.columns, self.idf)
        if not sparse.issparse(x):
            x = np.asarray(x)
        elif not self.sparse:
            x = x.toarray()
        if self.kind == "image":
            x = _image_array(x, "the input")
            if x.shape[1:] != self.shape:
                raise InputError(f"the input: shape {x.shape[1:]} of an example must be {self.shape}")
            return x
        if x.ndim != 2 or x.shape[1:] != self.shape:
            raise InputError(f"the input: shape {x.shape} must be (rows, {self.shape[0]})")
        if sparse.issparse(x):
            return bags.checked(x, "the input")
        return self.scale(_table_array(x, "the input"))

    def scale(self, table: np.ndarray, column: int | slice = slice(None)) -> np.ndarray:
        """Standardise the columns of a table, or one column; a table that is not standardised is unchanged."""
        scaled = table
        with np.errstate(over="ignore", invalid="ignore"):  # reported below
            if self.mean:
                scaled = (table - np.asarray(self.mean)[column]) / np.asarray(self.deviation)[column]
            scaled = scaled.astype(np.float32)
            finite = np.isfinite(scaled.sum())  # cheaper than a look at each value
        if not finite:
            _report(~np.isfinite(scaled), table, "x", "too far from the training mean, in its deviations, for float32")
        return scaled

    def unscale(self, x: np.ndarray) -> np.ndarray:
        """The inverse of `scale`, for reconstructions; images are unchanged."""
        return x * np.asarray(self.deviation) + np.asarray(self.mean) if self.mean else x


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Splits as the model takes them: images uint8 or float32 in [0, 1], tables float32."""

    train: Arrays
    validation: Arrays
    test: Arrays
    spec: Spec


def build(raw: Mapping[str, Any], config: ConfigDict, of: str = "") -> Dataset:
    """{x, y} or {x_train, y_train, x_test, y_test} (+ columns) -> checked, split and scaled Dataset.

    `of` stands before an array's name where something is wrong with it.
    """
    data = config.data
    if "x" in raw:
        everything = _pair(raw, "x", "y", of)
        train, test = _hold_out(everything, data.test_fraction, data.split_seed, "data.test_fraction")
    else:
        train, test = (_pair(raw, f"x_{split}", f"y_{split}", of) for split in ("train", "test"))
        if sparse.issparse(train["x"]) and sparse.issparse(test["x"]):
            common = np.promote_types(train["x"].dtype, test["x"].dtype)
            train, test = ({**split, "x": split["x"].astype(common)} for split in (train, test))
        if train["x"].shape[1:] != test["x"].shape[1:] or train["x"].ndim != test["x"].ndim:
            raise InputError(f"{data.source}: x_train {train['x'].shape} and x_test {test['x'].shape} differ in shape")
        if train["x"].dtype != test["x"].dtype:
            raise InputError(f"{data.source}: x_train is {train['x'].dtype}, x_test is {test['x'].dtype}")
    classes = _number_labels(train, test, data.source)
    validation: Arrays = {name: values[:0] for name, values in train.items()}
    if data.validation_fraction:
        train, validation = _hold_out(train, data.validation_fraction, data.split_seed + 1, "data.validation_fraction")
    names: tuple[str, ...] = tuple(raw.get("columns", ()))
    idf: tuple[float, ...] = ()
    text = data.text if train["x"].dtype == object else ""
    if text:
        names, idf = bags.vocabulary(train["x"], config)
        train, validation, test = (
            {**split, "x": bags.count(split["x"], text, names, idf)} for split in (train, validation, test)
        )
    kind = "table" if train["x"].ndim == 2 else "image"
    is_sparse = sparse.issparse(train["x"])
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()
    # The training examples alone may be more than memory holds.
    validation, test = (
        {**s, "x": np.asarray(s["x"]) if isinstance(s["x"], Lazy) else s["x"]} for s in (validation, test)
    )
    columns = None if kind == "image" or is_sparse else _Columns()
    digest = _digest(train, validation, test, columns=columns)
    if columns and data.standardize:
        spread = np.sqrt(columns.squares / columns.n)
        # A column whose spread is rounding error alone is constant.
        constant = spread <= 1e-12 * np.maximum(np.abs([columns.low, columns.high]).max(axis=0), 1e-300)
        mean = tuple(columns.mean.tolist())
        deviation = tuple(np.where(constant, 1.0, spread).tolist())
    spec = Spec(
        kind=kind,
        shape=tuple(train["x"].shape[1:]),
        dtype=_dtype(train["x"], kind),
        train=train["x"].shape[0],
        validation=validation["x"].shape[0],
        test=test["x"].shape[0],
        low=0.0,
        high=1.0,
        classes=classes,
        columns=names if kind == "table" else (),
        mean=mean,
        deviation=deviation,
        sparse=is_sparse,
        text=text,
        idf=idf,
        digest=digest,
    )
    if kind == "table":
        values = [s["x"] for s in (train, validation, test) if s["x"].shape[0]]
        if columns:
            scale = spec.scale
            train, validation, test = (
                {**s, "x": _map(lambda x, _: scale(x), s["x"])} for s in (train, validation, test)
            )
            # Scaling keeps the order, so that the extremes stay the extremes.
            values = [
                spec.scale(np.stack([columns.low, columns.high])),
                *(s["x"] for s in (validation, test) if len(s["x"])),
            ]
        spec = dataclasses.replace(
            spec, low=float(min(x.min() for x in values)), high=float(max(x.max() for x in values))
        )
    return Dataset(train, validation, test, spec)


def _map(function: Callable[[np.ndarray, np.ndarray], np.ndarray], x: np.ndarray | Lazy) -> np.ndarray | Lazy:
    """function(values, numbers of their rows)."""
    return x.map(function) if isinstance(x, Lazy) else function(x, np.arange(len(x)))


class _Columns:
    """Mean, summed squares about it, and extremes of each column of rows that come a part at a time.

    Chan, Golub & LeVeque (1983).
    """

    def __init__(self) -> None:
        self.n, self.mean, self.squares = 0, np.zeros(1), np.zeros(1)
        self.low, self.high = np.full(1, np.inf), np.full(1, -np.inf)

    def add(self, x: np.ndarray) -> None:
        n, mean = len(x), x.mean(axis=0)
        apart = mean - self.mean
        self.squares = self.squares + ((x - mean) ** 2).sum(axis=0) + apart**2 * (self.n * n / (self.n + n))
        self.mean = self.mean + apart * (n / (self.n + n))
        self.low, self.high = np.minimum(self.low, x.min(axis=0)), np.maximum(self.high, x.max(axis=0))
        self.n += n


def _dtype(x: Any, kind: str) -> str:
    if sparse.issparse(x):
        return str(x.dtype)
    return "uint8" if x.dtype == np.uint8 and kind == "image" else "float32"


def _pair(raw: Mapping[str, Any], x_name: str, y_name: str, of: str) -> Arrays:
    x, name = raw[x_name], of + x_name
    if bags.is_documents(x):
        x = np.array(x, object)
    elif sparse.issparse(x):
        x = bags.checked(x, name)
    elif x.ndim == 2:
        x = _map(lambda x, rows: _table_array(x, name, rows), x)
    elif x.ndim in (3, 4):
        x = _map(lambda x, rows: _image_array(x, name, rows), x)
    else:
        raise InputError(f"{name}: rank must be 2 (a table), 3 (grey images) or 4 (NHWC), found shape {x.shape}")
    if not math.prod(x.shape):
        raise InputError(f"{name}: no examples in an array of shape {x.shape}")
    split = {"x": x}
    if y_name in raw:
        y = np.asarray(raw[y_name])
        if y.shape != x.shape[:1]:
            raise InputError(f"{of}{y_name}: shape must be ({x.shape[0]},), one label an example, found {y.shape}")
        split["y"] = y
    return split


def _image_array(x: np.ndarray, name: str, rows: np.ndarray | None = None) -> np.ndarray:
    # Reserved: floats of rank 3 beyond [0, 1] are series, which no model here takes yet.
    series = "; series [N, time, channels] are not supported yet" if x.ndim == 3 else ""
    if x.ndim == 3:
        x = x[..., None]
    if x.ndim != 4:
        raise InputError(f"{name}: images must have rank 3 (grey) or 4 (NHWC), found shape {x.shape}")
    if x.dtype == np.uint8:
        return x
    if x.dtype == bool:
        return x.astype(np.float32)
    if x.dtype.kind != "f":
        raise InputError(f"{name}: images must be uint8 or floats in [0, 1], found {x.dtype}")
    # Negated, so that NaN is caught too.
    _report(~((x >= 0) & (x <= 1)), x, name, f"images given as floats must lie in [0, 1]{series}", rows)
    return x.astype(np.float32)


def _table_array(x: np.ndarray, name: str, rows: np.ndarray | None = None) -> np.ndarray:
    if x.dtype.kind not in "buif":
        raise InputError(f"{name}: a table must hold numbers, found dtype {x.dtype}")
    # Negated, so that NaN is caught too.
    finite = np.abs(x.astype(np.float64)) <= np.finfo(np.float32).max
    _report(~finite, x, name, "a table must be finite in float32", rows)
    return x.astype(np.float64)


def _report(wrong: np.ndarray, x: np.ndarray, name: str, allowed: str, rows: np.ndarray | None = None) -> None:
    """Raise InputError for the first value that is wrong; `rows`: the numbers of its rows, where not 0, 1, ..."""
    if wrong.any():
        place = tuple(int(i) for i in np.unravel_index(int(wrong.argmax()), wrong.shape))
        row = place[0] if rows is None else int(rows[place[0]])
        raise InputError(f"{name}{[row, *place[1:]]} = {x[place]}: {allowed}")


def members(config: ConfigDict, spec: Spec, *, split: bool) -> np.ndarray:
    """Of each row of a run's source the index in SPLITS, [n]; `split`: the source has a test split, after the other."""
    data = config.data
    train, n = spec.train + spec.validation, spec.train + spec.validation + spec.test
    test = np.arange(n) >= train if split else _held_out(n, data.test_fraction, data.split_seed, "data.test_fraction")
    member = np.where(test, SPLITS.index("test"), SPLITS.index("train"))
    if spec.validation:
        held = _held_out(train, data.validation_fraction, data.split_seed + 1, "data.validation_fraction")
        member[np.flatnonzero(~test)[held]] = SPLITS.index("validation")
    return member


def _held_out(n: int, fraction: float, seed: int, field: str) -> np.ndarray:
    """Which of n rows are held out, bool [n]."""
    held = round(n * fraction)
    if not 1 <= held < n:
        raise fail(field, fraction, f"leaves no example on one side of the {n}")
    # RandomState's streams are frozen: the split stays the same over NumPy's versions.
    test = np.zeros(n, bool)
    test[np.random.RandomState(seed).permutation(n)[:held]] = True
    return test


def _hold_out(split: Arrays, fraction: float, seed: int, field: str) -> tuple[Arrays, Arrays]:
    test = _held_out(split["x"].shape[0], fraction, seed, field)
    return {k: v[~test] for k, v in split.items()}, {k: v[test] for k, v in split.items()}


def _number_labels(train: Arrays, test: Arrays, source: str) -> tuple[str, ...]:
    """Replace the labels by 0, 1, ... (-1 stays: no label); returns the classes' names in order."""
    if "y" not in train:
        test.pop("y", None)
        return ()
    if "y" not in test:
        raise InputError(f"{source}: labels for the training split but none for the test split")
    for split in (train, test):
        if split["y"].dtype.kind not in "biuUf":
            raise InputError(f"{source}: labels must be integers or strings, found dtype {split['y'].dtype}")
        if split["y"].dtype.kind == "f":
            whole = np.isfinite(split["y"]) & (split["y"] == np.round(split["y"]))
            _report(~whole, split["y"], f"{source}: y", "a label must be an integer or a string")
            split["y"] = split["y"].astype(np.int64)
    none = (-1, "-1")  # among names it is a string, too
    values = [value for value in np.unique(train["y"]).tolist() if value not in none]
    unknown = [value for value in np.unique(test["y"]).tolist() if value not in (*none, *values)]
    if unknown:
        raise InputError(
            f"{source}: label {unknown[0]!r} of the test split is none of the {len(values)} classes of training"
        )
    numbers = {value: i for i, value in enumerate(values)} | dict.fromkeys(none, -1)
    for split in (train, test):
        unique, inverse = np.unique(split["y"], return_inverse=True)
        split["y"] = np.array([numbers[v] for v in unique.tolist()], np.int32)[inverse]
    return tuple(str(value) for value in values)


def _digest(*splits: Arrays, columns: _Columns | None) -> str:
    """Of all values; the first split's x is added to `columns`."""
    state = hashlib.blake2b(digest_size=8)
    for split in splits:
        for name, values in sorted(split.items()):
            state.update(f"{name}{values.shape}{values.dtype}".encode())
            parts = (values.data, values.indices, values.indptr) if sparse.issparse(values) else (values,)
            for part in itertools.chain(*map(chunks, parts)):
                state.update(np.ascontiguousarray(part).data)
                if columns and name == "x" and split is splits[0]:
                    columns.add(part)
    return state.hexdigest()
