"""Where examples come from: one string each, read to arrays."""

import gzip
import itertools
import math
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from aejax.config import fail
from aejax.data.dataset import Dataset, build
from aejax.errors import InputError


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
