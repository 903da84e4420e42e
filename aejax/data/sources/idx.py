"""The four files of MNIST's format."""

import gzip
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from aejax.errors import FieldError, InputError


def read(argument: str, config: ConfigDict) -> dict[str, Any]:
    """The four files of MNIST's format, gzip or not, of unsigned bytes."""
    folder = Path(argument)
    if not folder.is_dir():
        raise FieldError("data.source", config.data.source, "no such folder")
    parts = {
        "x_train": "train-images-idx3-ubyte",
        "y_train": "train-labels-idx1-ubyte",
        "x_test": "t10k-images-idx3-ubyte",
        "y_test": "t10k-labels-idx1-ubyte",
    }
    return {name: _file(folder, stem) for name, stem in parts.items()}


def _file(folder: Path, stem: str) -> np.ndarray:
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
