"""A dataset: its splits as the model takes them."""

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import numpy as np
from ml_collections import ConfigDict
from scipy import sparse

from aejax.data import bags, labels, preparation
from aejax.data import spec as spec_lib
from aejax.data.columns import Columns
from aejax.data.lazy import Lazy, chunks
from aejax.data.spec import PIXELS, Spec, series_array, table_array
from aejax.data.tokens import LEVELS
from aejax.data.windows import Part
from aejax.errors import FieldError, InputError
from aejax.fields import WIDTHS, Field, at_least, one_of, within

SPLITS = ("train", "validation", "test")
ARRAYS = PIXELS | {"table": table_array, "series": series_array}
RANKS = {"image": (3, 4), "video": (4, 5), "table": (2,), "series": (2, 3)}
# x [N, ...] (CSR for a sparse table); y [N] int32 if there are labels, -1 = no label; caption [N, tokens] int32
Arrays = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Fields:
    """The section `data` of the config, apart from the fields of the sources."""

    source: Annotated[str, Field("source of the examples: a name, or NAME:ARGUMENT")] = "digits"
    kind: Annotated[
        str,
        Field(
            "kind of the examples: image | table | series | video | tokens (of texts) | auto. Auto takes arrays of "
            "rank 2 as a table, of rank 4 as images, of rank 5 as videos. Rank 3 is images if the values are uint8 or "
            "lie in [0, 1]; else it is series",
            one_of(("auto", *ARRAYS, "tokens")),
        ),
    ] = "auto"
    tokens: Annotated[
        str,
        Field("captions, and texts of kind tokens: what they are sequences of: words | characters", one_of(LEVELS)),
    ] = "words"
    resident: Annotated[
        str,
        Field(
            "whether the training examples are kept on the devices: auto (by size) | true | false (streamed)",
            one_of(("auto", "true", "false")),
        ),
    ] = "auto"
    test_fraction: Annotated[
        float,
        Field(
            "fraction of the examples held out for testing, if the source has no test split",
            within(0, 1, brackets="()"),
        ),
    ] = 0.2
    validation_fraction: Annotated[
        float,
        Field(
            "fraction of the training split held out for validation; above 0 the best checkpoint is kept as well",
            within(0, 1, brackets="[)"),
        ),
    ] = 0.0
    split_seed: Annotated[
        int,
        Field(
            "seed that chooses the held-out examples; separate from `seed`, so that runs are comparable",
            within(0, 2**32 - 1, brackets="[)"),
        ),
    ] = 0
    standardize: Annotated[
        bool,
        Field("tables: subtract the training mean, divide by the standard deviation; sparse tables are left unchanged"),
    ] = True
    missing: Annotated[
        str,
        Field(
            "tables, empty cells: error | mean | median (of the training column) | indicator (the mean, and a column "
            "that marks the empty cells) | mask (weight 0 in the likelihood: the model fills them)",
            one_of(("error", "mean", "median", "indicator", "mask")),
        ),
    ] = "error"
    train_labels: Annotated[
        tuple, Field("classes whose examples are used for training and validation; () = all examples, labelled or not")
    ] = ()
    binarize: Annotated[
        str,
        Field(
            "images: none | dynamic (pixels are drawn as 0 or 1 at every step) | static (drawn once)",
            one_of(("none", "dynamic", "static")),
        ),
    ] = "none"
    labeled_examples: Annotated[
        tuple, Field("a classifier is trained with each of these numbers of labels in turn; () = all labels", WIDTHS)
    ] = ()
    label_draws: Annotated[
        int, Field("draws of labelled examples for each number, balanced over the classes", at_least(1))
    ] = 5


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Splits as the model takes them: images uint8 or float32 in [0, 1], tables float32."""

    train: Arrays
    validation: Arrays
    test: Arrays
    spec: Spec
    notes: tuple[str, ...] = ()  # what was found and decided while reading
    parts: Mapping[str, Part] = dataclasses.field(default_factory=dict)  # windows of long series: of each split

    def describe(self) -> str:
        """One line: what was read."""
        return "; ".join([self.spec.describe(), *self.notes])


def build(raw: Mapping[str, Any], config: ConfigDict, of: str = "") -> Dataset:
    """{x, y} or {x_train, y_train, x_test, y_test} (+ columns) -> checked, split and scaled Dataset.

    A source that holds out examples itself gives x_validation, and `parts` if they are windows of long series.

    `of` is the prefix of array names in error messages.
    """
    data = config.data
    wanted = raw.get("kind", "auto") if data.kind == "auto" else data.kind
    kind = _kind(raw["x"] if "x" in raw else raw["x_train"], wanted)
    if "x" in raw:
        everything = _read(raw, "", of, kind, data.missing)
        train, test = _hold_out(everything, data.test_fraction, data.split_seed, "data.test_fraction")
    else:
        train, test = (_read(raw, f"_{split}", of, kind, data.missing) for split in ("train", "test"))
        if sparse.issparse(train["x"]) and sparse.issparse(test["x"]):
            common = np.promote_types(train["x"].dtype, test["x"].dtype)
            train, test = ({**split, "x": split["x"].astype(common)} for split in (train, test))
        if train["x"].shape[1:] != test["x"].shape[1:] or train["x"].ndim != test["x"].ndim:
            raise InputError(f"{data.source}: x_train {train['x'].shape} and x_test {test['x'].shape} differ in shape")
        if train["x"].dtype != test["x"].dtype:
            raise InputError(f"{data.source}: x_train is {train['x'].dtype}, x_test is {test['x'].dtype}")
    notes = list(raw.get("notes", ()))
    if kind == "series" and wanted == "auto":
        notes.append("values beyond [0, 1], so these are series, not images (data.kind)")
    classes = labels.number(train, test, data.source, notes)
    if data.binarize != "none":
        when = "once" if data.binarize == "static" else "anew at every step"
        notes.append(f"grey values become 0 or 1 by a coin flip, {when}; data.binarize=none keeps them")
    if data.train_labels:
        train = labels.keep(train, classes, data.train_labels, notes)
    validation: Arrays = {name: values[:0] for name, values in train.items()}
    if "x_validation" in raw:
        validation = _read(raw, "_validation", of, kind, data.missing)
    elif data.validation_fraction:
        train, validation = _hold_out(train, data.validation_fraction, data.split_seed + 1, "data.validation_fraction")
    names: tuple[str, ...] = tuple(raw.get("columns", ()))
    idf: tuple[float, ...] = ()
    others: dict[str, spec_lib.Field] = {}  # of tokens
    for field in ("x", "caption"):
        if field in train and (field == "caption" or kind == "tokens"):
            level = raw.get("levels", {}).get(field, data.tokens)
            others[field] = preparation.number(field, level, config, notes, train, validation, test)
    text = data.text if train["x"].dtype == object else ""
    if text:
        names, idf = bags.vocabulary(train["x"], config)
        train, validation, test = (
            {**split, "x": bags.count(split["x"], text, names, idf)} for split in (train, validation, test)
        )
    is_sparse = sparse.issparse(train["x"])
    # Only the training examples may exceed memory.
    validation, test = (
        {**s, "x": np.asarray(s["x"]) if isinstance(s["x"], Lazy) else s["x"]} for s in (validation, test)
    )
    shape, dtype = tuple(train["x"].shape[1:]), _dtype(train["x"], kind)
    x = spec_lib.Field(
        kind,
        shape,
        dtype,
        columns=() if kind in PIXELS or kind == "tokens" else names,
        sparse=is_sparse,
        text=text,
        idf=idf,
        missing="mask" if kind == "series" else "error",
    )
    x = others.pop("x", x)
    columns = Columns() if kind in ("table", "series") and not is_sparse else None
    if kind == "table" and columns:
        x = preparation.fit(train["x"], config, names, raw.get("categories", {}))
        if data.missing != "error":
            empty = preparation.count_empty(train["x"], validation["x"], test["x"])
            notes.append(f"{empty:,} empty cells" + (f" ({data.missing})" if empty else ""))
        expand = x.expand
        train, validation, test = (
            {**s, "x": _map(lambda values, _: expand(values), s["x"])} for s in (train, validation, test)
        )
    digest = _digest(train, validation, test, columns=columns)
    if kind == "series" and columns:
        observed = np.round(np.broadcast_to(columns.n, shape[1:])).astype(int)
        empty = math.prod(train["x"].shape) - observed.sum() + preparation.count_empty(validation["x"], test["x"])
        notes += [f"{empty:,} values that were not observed have weight 0"] if empty else []
        for channel in np.flatnonzero(observed < 1)[:1]:
            name = names[channel] if names else f"number {channel}"
            raise InputError(f"{of}channel {name} has no observed value in the training split")
    if columns and data.standardize:
        mean, deviation = columns.moments(x)
        x = dataclasses.replace(x, mean=tuple(mean.tolist()), deviation=tuple(deviation.tolist()))
    if kind in ("table", "series"):
        values = [s["x"] for s in (train, validation, test) if s["x"].shape[0]]
        if columns:
            scale = x.scale
            train, validation, test = (
                {**s, "x": _map(lambda values, _: scale(values), s["x"])} for s in (train, validation, test)
            )
            # Scaling keeps the order, so that the extremes stay the extremes.
            values = [
                x.scale(np.stack([columns.low, columns.high])),
                *(s["x"] for s in (validation, test) if len(s["x"])),
            ]
        low, high = min(float(_extreme(v, "min")) for v in values), max(float(_extreme(v, "max")) for v in values)
        x = dataclasses.replace(x, low=low, high=high)
    sizes = {name: split["x"].shape[0] for name, split in zip(SPLITS, (train, validation, test), strict=True)}
    return Dataset(
        train, validation, test, Spec({"x": x} | spec_lib.labels(classes) | others, **sizes, digest=digest),
        tuple(notes), raw.get("parts", {}),
    )  # fmt: skip


def _map(function: Callable[[np.ndarray, np.ndarray], np.ndarray], x: np.ndarray | Lazy) -> np.ndarray | Lazy:
    """function(values, row numbers); for a lazy array, applied when it is read."""
    return x.map(function) if isinstance(x, Lazy) else function(x, np.arange(len(x)))


def _extreme(x: Any, name: str) -> Any:
    """The min or max of a dense or sparse array; masked cells (NaN) are ignored."""
    return getattr(x, name)() if sparse.issparse(x) else getattr(np, f"nan{name}")(x)


def _dtype(x: Any, kind: str) -> str:
    if sparse.issparse(x):
        return str(x.dtype)
    return "uint8" if x.dtype == np.uint8 and kind in PIXELS else "float32"


def _kind(x: Any, kind: str) -> str:
    """The kind of the examples: that of data.kind, or for auto the one that their rank and values suggest."""
    if kind != "auto":
        return kind
    if bags.is_documents(x) or x.ndim not in (3, 4, 5):
        return "table"
    if x.ndim == 5:
        return "video"
    parts = itertools.islice(chunks(x), 1 if isinstance(x, Lazy) else None)  # all values are checked later
    if x.ndim == 4 or x.dtype.kind != "f" or all(((part >= 0) & (part <= 1)).all() for part in parts):
        return "image"
    return "series"


def _read(raw: Mapping[str, Any], end: str, of: str, kind: str, missing: str) -> Arrays:
    """The arrays x, y and caption of a split, whose names have this end."""
    split = _pair(raw, f"x{end}", f"y{end}", of, kind, missing)
    if f"caption{end}" in raw:
        captions = np.array([str(text) for text in raw[f"caption{end}"]], object)
        if len(captions) != split["x"].shape[0]:
            raise InputError(f"{of}caption{end}: must be {split['x'].shape[0]:,} texts, found {len(captions):,}")
        split["caption"] = captions
    return split


def _pair(raw: Mapping[str, Any], x_name: str, y_name: str, of: str, kind: str, missing: str) -> Arrays:
    x, name = raw[x_name], of + x_name
    if kind == "tokens" and not bags.is_documents(x):
        raise FieldError("data.kind", kind, f"needs texts; {name} holds numbers")
    if kind not in ("table", "tokens") and (bags.is_documents(x) or sparse.issparse(x)):
        raise FieldError("data.kind", kind, "must be auto or table for documents and sparse rows")
    if bags.is_documents(x):
        x = np.array(x, object)
    elif sparse.issparse(x):
        x = bags.checked(x, name)
    elif x.ndim not in RANKS[kind]:
        ranks = "2 (a table), 3 (grey images or series) or 4 (NHWC)" if kind == "table" else f"{RANKS[kind]} of {kind}"
        raise InputError(f"{name}: rank must be {ranks}, found shape {x.shape}")
    else:
        more = {"missing": missing} if kind == "table" else {}
        x = _map(lambda x, rows: ARRAYS[kind](x, name, rows, **more), x)
    if not math.prod(x.shape):
        raise InputError(f"{name}: no examples in an array of shape {x.shape}")
    split = {"x": x}
    if y_name in raw:
        y = np.asarray(raw[y_name])
        y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
        if y.shape != x.shape[:1]:
            raise InputError(f"{of}{y_name}: shape must be ({x.shape[0]},), one label per example, found {y.shape}")
        split["y"] = y
    return split


def members(config: ConfigDict, spec: Spec, *, split: bool, kept: np.ndarray | None = None) -> np.ndarray:
    """The split of each row of a run's source, as an index into SPLITS, or -1 for none, [n].

    `split`: the source has a test split of its own, and its rows come last. `kept`: whether a row is of the classes
    of config.data.train_labels, [n]; rows of other classes are in the test split or in none.
    """
    data = config.data
    n = spec.train + spec.validation + spec.test if kept is None else len(kept)
    if split:
        test = np.arange(n) >= n - spec.test
    else:
        test = _held_out(n, data.test_fraction, data.split_seed, "data.test_fraction")
    train = np.flatnonzero(~test if kept is None else ~test & kept)
    member = np.full(n, -1)
    member[test], member[train] = SPLITS.index("test"), SPLITS.index("train")
    if spec.validation:
        held = _held_out(len(train), data.validation_fraction, data.split_seed + 1, "data.validation_fraction")
        member[train[held]] = SPLITS.index("validation")
    return member


def _held_out(n: int, fraction: float, seed: int, field: str) -> np.ndarray:
    """Which of n rows are held out, bool [n]."""
    held = round(n * fraction)
    if not 1 <= held < n:
        raise FieldError(field, fraction, f"leaves one side of the split of {n} examples empty")
    # RandomState's streams are frozen, so the split is the same in every version of NumPy.
    test = np.zeros(n, bool)
    test[np.random.RandomState(seed).permutation(n)[:held]] = True
    return test


def _hold_out(split: Arrays, fraction: float, seed: int, field: str) -> tuple[Arrays, Arrays]:
    test = _held_out(split["x"].shape[0], fraction, seed, field)
    return {k: v[~test] for k, v in split.items()}, {k: v[test] for k, v in split.items()}


def _digest(*splits: Arrays, columns: Columns | None) -> str:
    """Hash of all values; also adds x of the first split to `columns`."""
    state = hashlib.blake2b(digest_size=8)
    for split in splits:
        for name, values in sorted(split.items()):
            state.update(f"{name}{values.shape}{values.dtype}".encode())
            parts = (values.data, values.indices, values.indptr) if sparse.issparse(values) else (values,)
            for part in itertools.chain(*map(chunks, parts)):
                state.update(np.ascontiguousarray(part).data)
                if columns and name == "x" and split is splits[0]:
                    columns.add(part.reshape(-1, part.shape[-1]))
    return state.hexdigest()
