"""Where examples come from: one string each, read to arrays."""

import gzip
import importlib.metadata
import math
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ml_collections import ConfigDict
from scipy import sparse

from aejax.config import fail
from aejax.data import bags, images, lazy, tables, tfds
from aejax.data.dataset import Dataset, build
from aejax.data.tables import existing
from aejax.errors import InputError


def load(config: ConfigDict) -> Dataset:
    """Read config.data.source; raises InputError with one line that names what was given."""
    return build(raw(config), config, f"{config.data.source}: ")


def raw(config: ConfigDict) -> dict[str, Any]:
    """The arrays of config.data.source as they stand there: x (and y), or x_train, x_test (and y_train, y_test)."""
    name, argument = parse(config.data.source)
    resident = config.data.resident
    if resident == "false" and name not in STREAMED:
        raise fail("data.resident", resident, f"needs one of the sources {', '.join(USAGE[n] for n in STREAMED)}")
    if name in STREAMED and resident != "true":
        # A table is put into a temporary file before it can be streamed: not to know its size.
        small = name in ("csv", "parquet") and tables.size(argument, config) <= lazy.limit()
        if resident == "false" or not small:
            found = STREAMED[name](argument, config)
            unread = {name: x for name, x in found.items() if isinstance(x, lazy.Lazy)}
            if resident == "false" or sum(x.nbytes for x in unread.values()) > lazy.limit():
                if config.data.binarize == "static":
                    raise fail(
                        "data.binarize", "static", "needs config.data.resident = 'true': it is drawn once for all"
                    )
                return found | {name: lazy.kept(x, config.data.source) for name, x in unread.items()}
    return SOURCES[name](argument, config)


def parse(source: str) -> tuple[str, str]:
    """NAME:ARGUMENT -> its two parts; raises InputError."""
    name, _, argument = source.partition(":")
    if name not in SOURCES:
        raise fail("data.source", source, f"must be one of {', '.join(USAGE[n] for n in SOURCES)}")
    if bool(argument) != (":" in USAGE[name]):
        raise fail("data.source", source, f"must be written {USAGE[name]}")
    return name, argument


def from_array(x: Any, config: ConfigDict, y: Any = None) -> Dataset:
    """A data set from an array, a sparse matrix or a list of documents; splits as for a file without a test split."""
    given = x if sparse.issparse(x) or bags.is_documents(x) else np.asarray(x)
    arrays = {"x": given} | ({} if y is None else {"y": np.asarray(y)})
    return build(arrays, config)


def _digits(argument: str, config: ConfigDict) -> dict[str, Any]:
    """scikit-learn's 1797 digits of 8x8 pixels, 0..16 divided by 16; 360 are the test split."""
    # Its file alone: to import the library takes a second.
    file = importlib.metadata.distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    table = np.loadtxt(str(file), delimiter=",", dtype=int)
    x, y = (table[:, :-1].reshape(-1, 8, 8, 1) / 16).astype(np.float32), table[:, -1]
    test = np.zeros(len(x), bool)
    test[np.random.RandomState(0).permutation(len(x))[:360]] = True
    return {
        "x_train": x[~test],
        "y_train": y[~test],
        "x_test": x[test],
        "y_test": y[test],
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
    """Arrays x (and y), or x_train, x_test (and y_train, y_test).

    Sparse: a file of `scipy.sparse.save_npz` is x, or in place of an array NAME the parts of a CSR matrix,
    NAME_data, NAME_indices, NAME_indptr and NAME_shape.
    """
    path, known = existing(argument, config), ("x", "y", "x_train", "y_train", "x_test", "y_test")
    if not zipfile.is_zipfile(path):
        raise InputError(f"{argument}: cannot be read as .npz: not a zip archive")
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = archive.files
            raw = {name: archive[name] for name in names if name in known}
            for name in ("x", "x_train", "x_test"):
                parts = [f"{name}_{part}" for part in bags.PARTS]
                if name not in names and set(parts) <= set(names):
                    raw[name] = bags.from_parts(*(archive[part] for part in parts))
        if "format" in names and "x" not in raw:
            raw["x"] = bags.from_scipy(path)
    except InputError as error:
        raise InputError(f"{argument}: {error}") from error
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{argument}: cannot be read as .npz: {error}") from error
    if not ("x" in raw or {"x_train", "x_test"} <= set(raw)):
        raise InputError(f"{argument}: must hold x, or x_train and x_test; found {', '.join(names) or 'nothing'}")
    return raw


def read_npy(argument: str, config: ConfigDict, mmap_mode: Literal["r"] | None = None) -> dict[str, Any]:
    """One array of examples."""
    path = existing(argument, config)
    if zipfile.is_zipfile(path):
        raise InputError(f"{argument}: cannot be read as .npy: it is an archive; write npz:FILE")
    try:
        return {"x": np.load(path, mmap_mode, allow_pickle=False)}
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{argument}: cannot be read as .npy: {error}") from error


def _npy_streamed(argument: str, config: ConfigDict) -> dict[str, Any]:
    try:
        return {"x": lazy.npy(existing(argument, config))}
    except (ValueError, OSError, EOFError):  # in Fortran order, or not numbers, or no array: read, or reported
        return read_npy(argument, config)


def _images_streamed(argument: str, config: ConfigDict) -> dict[str, Any]:
    return images.streamed(images.folder(argument, config), config)


def _tfds_streamed(argument: str, config: ConfigDict) -> dict[str, Any]:
    return images.streamed(tfds.parts(argument, config), config)


def _images(argument: str, config: ConfigDict) -> dict[str, Any]:
    return images.arrays(images.folder(argument, config), config)


def _tfds(argument: str, config: ConfigDict) -> dict[str, Any]:
    return images.arrays(tfds.parts(argument, config), config)


SOURCES: dict[str, Callable[[str, ConfigDict], dict[str, Any]]] = {
    "digits": _digits,
    "tinted_digits": _tinted_digits,
    "idx": _idx,
    "npz": _npz,
    "npy": read_npy,
    "csv": tables.read,
    "parquet": tables.read,
    "images": _images,
    "text": bags.text,
    "tfds": _tfds,
}
# Sources that are read while training, where they are larger than what is kept in memory.
STREAMED: dict[str, Callable[[str, ConfigDict], dict[str, Any]]] = {
    "npy": _npy_streamed,
    "csv": tables.streamed,
    "parquet": tables.streamed,
    "images": _images_streamed,
    "tfds": _tfds_streamed,
}
USAGE = {
    "digits": "digits",
    "tinted_digits": "tinted_digits",
    "idx": "idx:DIR",
    "npz": "npz:FILE.npz",
    "npy": "npy:FILE.npy",
    "csv": "csv:FILE.csv",
    "parquet": "parquet:FILE.parquet",
    "images": "images:DIR",
    "text": "text:FILE",
    "tfds": "tfds:NAME[@DATA_DIR]",
}
