"""Where examples come from: one string each, read to arrays, split, scaled, described."""

import dataclasses
import gzip
import hashlib
import itertools
import json
import math
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from aejax.config import fail
from aejax.errors import InputError

Arrays = dict[str, np.ndarray]  # x [N, ...], and where there are labels y [N] int32, -1 = none


@dataclasses.dataclass(frozen=True)
class Spec:
    """What is known of a data set besides its values; saved with the run as data.json."""

    kind: str  # image | table
    shape: tuple[int, ...]  # of one example: (height, width, channels) or (columns,)
    dtype: str  # of the stored examples: uint8 (0..255) or float32
    train: int  # examples of each split
    validation: int
    test: int
    low: float  # smallest and largest value, as the model sees it
    high: float
    classes: tuple[str, ...] = ()  # names of the labels 0, 1, ...
    columns: tuple[str, ...] = ()  # of a table
    mean: tuple[float, ...] = ()  # of a table's training columns, in their own units
    deviation: tuple[float, ...] = ()
    digest: str = ""  # of every value of every split

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> "Spec":
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(text).items()}
        return cls(**fields)

    def apply(self, x: np.ndarray) -> np.ndarray:
        """Raw examples [N, ...] of a caller -> what the model takes; raises InputError."""
        x = np.asarray(x)
        if self.kind == "image":
            x = _image_array(x, "the input")
            if x.shape[1:] != self.shape:
                raise InputError(f"the input: shape {x.shape[1:]} of an example must be {self.shape}")
            return x
        if x.ndim != 2 or x.shape[1:] != self.shape:
            raise InputError(f"the input: shape {x.shape} must be (rows, {self.shape[0]})")
        return self.scale(_table_array(x, "the input"))

    def scale(self, table: np.ndarray) -> np.ndarray:
        """Standardise the columns of a table; a table that is not standardised is unchanged."""
        scaled = table
        with np.errstate(over="ignore"):  # reported below
            if self.mean:
                scaled = (table - np.asarray(self.mean)) / np.asarray(self.deviation)
            scaled = scaled.astype(np.float32)
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


def load(config: ConfigDict) -> Dataset:
    """Read config.data.source; raises InputError with one line that names what was given."""
    source = config.data.source
    name, _, argument = source.partition(":")
    if name not in SOURCES:
        raise fail("data.source", source, f"must be one of {', '.join(USAGE[n] for n in SOURCES)}")
    if bool(argument) != (":" in USAGE[name]):
        raise fail("data.source", source, f"must be written {USAGE[name]}")
    return build(SOURCES[name](argument, config), config)


def from_array(x: Any, config: ConfigDict, y: Any = None) -> Dataset:
    """A data set from arrays in memory; splits as for a file without a test split."""
    arrays = {"x": np.asarray(x)} | ({} if y is None else {"y": np.asarray(y)})
    return build(arrays, config)


def build(raw: Mapping[str, Any], config: ConfigDict) -> Dataset:
    """{x, y} or {x_train, y_train, x_test, y_test} (+ columns) -> checked, split and scaled Dataset."""
    data = config.data
    if "x" in raw:
        everything = _pair(raw, "x", "y")
        train, test = _hold_out(everything, data.test_fraction, data.split_seed, "data.test_fraction")
    else:
        train, test = _pair(raw, "x_train", "y_train"), _pair(raw, "x_test", "y_test")
        if train["x"].shape[1:] != test["x"].shape[1:] or train["x"].ndim != test["x"].ndim:
            raise InputError(f"{data.source}: x_train {train['x'].shape} and x_test {test['x'].shape} differ in shape")
        if train["x"].dtype != test["x"].dtype:
            raise InputError(f"{data.source}: x_train is {train['x'].dtype}, x_test is {test['x'].dtype}")
    classes = _number_labels(train, test, data.source)
    validation: Arrays = {name: values[:0] for name, values in train.items()}
    if data.validation_fraction:
        train, validation = _hold_out(train, data.validation_fraction, data.split_seed + 1, "data.validation_fraction")
    kind = "table" if train["x"].ndim == 2 else "image"
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()
    if kind == "table" and data.standardize:
        columns = train["x"].astype(np.float64)
        spread = columns.std(axis=0)
        # A column whose spread is rounding error alone is constant.
        constant = spread <= 1e-12 * np.maximum(np.abs(columns).max(axis=0), 1e-300)
        mean = tuple(columns.mean(axis=0).tolist())
        deviation = tuple(np.where(constant, 1.0, spread).tolist())
    names = tuple(raw.get("columns", ())) if kind == "table" else ()
    spec = Spec(
        kind=kind,
        shape=tuple(train["x"].shape[1:]),
        dtype="uint8" if train["x"].dtype == np.uint8 and kind == "image" else "float32",
        train=len(train["x"]),
        validation=len(validation["x"]),
        test=len(test["x"]),
        low=0.0,
        high=1.0,
        classes=classes,
        columns=names,
        mean=mean,
        deviation=deviation,
        digest=_digest(train, validation, test),
    )
    if kind == "table":
        train, validation, test = ({**s, "x": spec.scale(s["x"])} for s in (train, validation, test))
        values = [s["x"] for s in (train, validation, test) if len(s["x"])]
        spec = dataclasses.replace(
            spec, low=float(min(x.min() for x in values)), high=float(max(x.max() for x in values))
        )
    return Dataset(train, validation, test, spec)


def _pair(raw: Mapping[str, Any], x_name: str, y_name: str) -> Arrays:
    x = raw[x_name]
    if x.ndim == 2:
        x = _table_array(x, x_name)
    elif x.ndim in (3, 4):
        x = _image_array(x, x_name)
    else:
        raise InputError(f"{x_name}: rank must be 2 (a table), 3 (grey images) or 4 (NHWC), found shape {x.shape}")
    if not len(x) or not x[0].size:
        raise InputError(f"{x_name}: no examples in an array of shape {x.shape}")
    split = {"x": x}
    if y_name in raw:
        y = np.asarray(raw[y_name])
        if y.shape != (len(x),):
            raise InputError(f"{y_name}: shape must be ({len(x)},), one label an example, found {y.shape}")
        split["y"] = y
    return split


def _image_array(x: np.ndarray, name: str) -> np.ndarray:
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
    _report(~((x >= 0) & (x <= 1)), x, name, "images given as floats must lie in [0, 1]")
    return x.astype(np.float32)


def _table_array(x: np.ndarray, name: str) -> np.ndarray:
    if x.dtype.kind not in "buif":
        raise InputError(f"{name}: a table must hold numbers, found dtype {x.dtype}")
    # Negated, so that NaN is caught too.
    _report(~(np.abs(x.astype(np.float64)) <= np.finfo(np.float32).max), x, name, "a table must be finite in float32")
    return x.astype(np.float64)


def _report(wrong: np.ndarray, x: np.ndarray, name: str, allowed: str) -> None:
    if wrong.any():
        place = tuple(int(i) for i in np.unravel_index(int(wrong.argmax()), wrong.shape))
        raise InputError(f"{name}{list(place)} = {x[place]}: {allowed}")


def _hold_out(split: Arrays, fraction: float, seed: int, field: str) -> tuple[Arrays, Arrays]:
    n = len(split["x"])
    held = round(n * fraction)
    if not 1 <= held < n:
        raise fail(field, fraction, f"leaves no example on one side of the {n}")
    # RandomState's streams are frozen: the split stays the same over NumPy's versions.
    order = np.random.RandomState(seed).permutation(n)
    kept, test = np.sort(order[held:]), np.sort(order[:held])
    return {k: v[kept] for k, v in split.items()}, {k: v[test] for k, v in split.items()}


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
    values = [value for value in np.unique(train["y"]).tolist() if value != -1]
    unknown = [value for value in np.unique(test["y"]).tolist() if value != -1 and value not in values]
    if unknown:
        raise InputError(
            f"{source}: label {unknown[0]!r} of the test split is none of the {len(values)} classes of training"
        )
    numbers = {value: i for i, value in enumerate(values)} | {-1: -1}
    for split in (train, test):
        unique, inverse = np.unique(split["y"], return_inverse=True)
        split["y"] = np.array([numbers[v] for v in unique.tolist()], np.int32)[inverse]
    return tuple(str(value) for value in values)


def _digest(*splits: Arrays) -> str:
    state = hashlib.blake2b(digest_size=8)
    for split in splits:
        for name, values in sorted(split.items()):
            state.update(f"{name}{values.shape}{values.dtype}".encode())
            state.update(np.ascontiguousarray(values).data)
    return state.hexdigest()


# --- the sources --------------------------------------------------------------------------------


def _digits(argument: str, config: ConfigDict) -> dict[str, Any]:
    """scikit-learn's 1797 digits of 8x8 pixels, 0..16 divided by 16; 360 are the test split."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = (digits.images / 16).astype(np.float32)[..., None]
    test = np.zeros(len(x), bool)
    test[np.random.RandomState(0).permutation(len(x))[:360]] = True
    return {
        "x_train": x[~test],
        "y_train": digits.target[~test],
        "x_test": x[test],
        "y_test": digits.target[test],
    }


def _tinted_digits(argument: str, config: ConfigDict) -> dict[str, Any]:
    """The digits in colour, [8, 8, 3] uint8, drawn once for all: paper (1 − v) + ink v for a grey value v.

    The ink's hue is digit / 10 plus a normal deviate of 0.02 turns: the shape tells the colour, but for
    the noise. The paper's hue is uniform: nothing tells it. Luma is 0.6 in all inks and 0.15 in all papers,
    so that the grey image is the digit's and no hint of a hue.
    """
    raw = _digits(argument, config)
    random = np.random.RandomState(1)
    for split in ("train", "test"):
        v, digit = raw[f"x_{split}"], raw[f"y_{split}"]  # [N, 8, 8, 1]
        ink = _tint(digit / 10 + 0.02 * random.standard_normal(len(v)), luma=0.6, chroma=1.0)[:, None, None]
        paper = _tint(random.uniform(size=len(v)), luma=0.15, chroma=0.3)[:, None, None]
        raw[f"x_{split}"] = np.round(255 * (paper * (1 - v) + ink * v)).astype(np.uint8)
    return raw


def _tint(hue: np.ndarray, *, luma: float, chroma: float) -> np.ndarray:
    """Hues [N] in turns -> colours [N, 3] in [0, 1] of one luma (ITU-R BT.601): the full colour mixed with
    black where it is too light, with white where it is too dark; then with grey, of which chroma 0 is all."""
    k = (np.array([5.0, 3.0, 1.0]) + 6 * hue[:, None]) % 6
    full = 1 - np.clip(np.minimum(k, 4 - k), 0, 1)
    own = full @ np.array([[0.299], [0.587], [0.114]])  # [N, 1]
    colour = np.where(own > luma, full * luma / own, 1 - (1 - full) * (1 - luma) / (1 - own))
    return luma + chroma * (colour - luma)


def _idx(argument: str, config: ConfigDict) -> dict[str, Any]:
    """The four files of MNIST's format, gzip or not, of unsigned bytes."""
    folder = Path(argument)
    if not folder.is_dir():
        raise fail("data.source", config.data.source, "no such folder")
    parts = {
        "x_train": "train-images-idx3-ubyte",
        "y_train": "train-labels-idx1-ubyte",
        "x_test": "t10k-images-idx3-ubyte",
        "y_test": "t10k-labels-idx1-ubyte",
    }
    return {name: _read_idx(folder, stem) for name, stem in parts.items()}


def _read_idx(folder: Path, stem: str) -> np.ndarray:
    names = [stem, stem + ".gz", stem.replace("-idx", ".idx"), stem.replace("-idx", ".idx") + ".gz"]
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        raise InputError(f"{folder}: no file {stem} or {stem}.gz")
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    rank = int(stem[stem.index("idx") + 3])
    if len(content) < 4 + 4 * rank or content[:4] != bytes([0, 0, 8, rank]):
        raise InputError(f"{path}: not an IDX file of unsigned bytes of rank {rank}")
    shape = tuple(np.frombuffer(content, ">u4", rank, offset=4).tolist())
    found, expected = len(content) - 4 - 4 * rank, math.prod(shape)
    if found != expected:
        raise InputError(f"{path}: header says {shape}, {expected} bytes, found {found}")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


def _npz(argument: str, config: ConfigDict) -> dict[str, Any]:
    """Arrays x (and y), or x_train, x_test (and y_train, y_test)."""
    path, known = _file(argument, config), ("x", "y", "x_train", "y_train", "x_test", "y_test")
    if not zipfile.is_zipfile(path):
        raise InputError(f"{argument}: cannot be read as .npz: not a zip archive")
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = archive.files
            raw = {name: archive[name] for name in names if name in known}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{argument}: cannot be read as .npz: {error}") from error
    if not ("x" in raw or {"x_train", "x_test"} <= set(raw)):
        raise InputError(f"{argument}: must hold x, or x_train and x_test; found {', '.join(names) or 'nothing'}")
    return raw


def _npy(argument: str, config: ConfigDict) -> dict[str, Any]:
    """One array of examples."""
    path = _file(argument, config)
    if zipfile.is_zipfile(path):
        raise InputError(f"{argument}: cannot be read as .npy: it is an archive; write npz:FILE")
    try:
        return {"x": np.load(path, allow_pickle=False)}
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{argument}: cannot be read as .npy: {error}") from error


def _csv(argument: str, config: ConfigDict) -> dict[str, Any]:
    """A table with a header line; all columns are numbers but the label's."""
    import pyarrow
    from pyarrow import csv

    label = config.data.label_column
    # Names stand alone in a header; a first line of numbers is a row.
    with open(_file(argument, config), encoding="utf-8-sig", errors="replace") as file:
        first = file.readline().strip().split(",")
    headless = bool(first) and all(_is_number(cell) for cell in first)
    options = csv.ReadOptions(autogenerate_column_names=headless)
    convert = csv.ConvertOptions(column_types={label: pyarrow.string()} if label else {}, strings_can_be_null=True)
    try:
        table = csv.read_csv(argument, read_options=options, convert_options=convert)
        names = table.column_names
    except (pyarrow.ArrowInvalid, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{argument}: {' '.join(str(error).split())}") from error
    if label and label not in names:
        raise fail("data.label_column", label, f"must be a column of {argument}: {', '.join(names)}")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{argument}: column {twice!r} stands twice in the header")
    raw: dict[str, Any] = {}
    above = 0 if headless else 1  # lines above the first row
    columns = [name for name in names if name != label]
    if not columns or not table.num_rows:
        raise InputError(f"{argument}: no rows of numbers")
    raw["x"] = np.stack([_column(table[name], name, argument, above) for name in columns], axis=1)
    raw["columns"] = columns
    if label:
        values = table[label].to_pylist()
        if None in values:
            raise InputError(f"{argument}: line {_line(argument, values.index(None) + above)}: column {label} is empty")
        raw["y"] = np.array([int(v) if _is_integer(v) else v for v in values])
    return raw


def _column(column: Any, name: str, path: str, above: int) -> np.ndarray:
    import pyarrow

    if column.null_count:
        line = _line(path, column.is_null().to_pylist().index(True) + above)
        raise InputError(f"{path}: line {line}: column {name} is empty or NaN; fill or drop such rows")
    if not (pyarrow.types.is_integer(column.type) or pyarrow.types.is_floating(column.type)
            or pyarrow.types.is_boolean(column.type)):  # fmt: skip
        texts = [str(value) for value in column.to_pylist()]
        row = next((i for i, text in enumerate(texts) if not _is_number(text)), 0)
        raise InputError(
            f"{path}: line {_line(path, row + above)}: column {name} holds {texts[row]!r}, which is no number; "
            "if it is the label, name it in config.data.label_column"
        )
    values = column.to_numpy().astype(np.float64)
    wrong = ~np.isfinite(values)
    if wrong.any():
        line = _line(path, int(wrong.argmax()) + above)
        raise InputError(f"{path}: line {line}: column {name} is {values[wrong][0]}")
    return values


def _line(path: str, index: int) -> int:
    """Number, from 1, of the line at `index` of those that are not empty: an empty line holds no row."""
    with open(path, "rb") as file:
        full = (number for number, text in enumerate(file, 1) if text.strip(b"\r\n"))
        return next(itertools.islice(full, index, None))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_integer(text: str) -> bool:
    return text.removeprefix("-").isdecimal()


def _file(argument: str, config: ConfigDict) -> Path:
    if not Path(argument).is_file():
        raise fail("data.source", config.data.source, "no such file")
    return Path(argument)


SOURCES: dict[str, Callable[[str, ConfigDict], dict[str, Any]]] = {
    "digits": _digits,
    "tinted_digits": _tinted_digits,
    "idx": _idx,
    "npz": _npz,
    "npy": _npy,
    "csv": _csv,
}
USAGE = {
    "digits": "digits",
    "tinted_digits": "tinted_digits",
    "idx": "idx:DIR",
    "npz": "npz:FILE.npz",
    "npy": "npy:FILE.npy",
    "csv": "csv:FILE.csv",
}
