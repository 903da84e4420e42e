"""NumPy's files of arrays."""

import zipfile
import zlib
from typing import Any, Literal

import numpy as np
from ml_collections import ConfigDict

from aejax.data import bags, lazy
from aejax.data.sources.arrow import existing
from aejax.errors import InputError

NAMES = ("x", "y", "caption")


def npz(argument: str, config: ConfigDict) -> dict[str, Any]:
    """Arrays x (and y), or x_train, x_test (and y_train, y_test).

    caption [N] (or caption_train, caption_test): texts.

    lengths [N] (or lengths_train, lengths_test) of series x [N, time, ...]: the steps beyond are NaN, not observed.

    A file of `scipy.sparse.save_npz` gives a sparse x. The parts of a CSR matrix, NAME_data, NAME_indices, NAME_indptr
    and NAME_shape, may take the place of an array NAME.
    """
    path, known = existing(argument, config), {f"{n}{end}" for n in NAMES for end in ("", "_train", "_test")}
    lengths: dict[str, np.ndarray] = {}
    if not zipfile.is_zipfile(path):
        raise InputError(f"{argument}: cannot be read as .npz: not a zip archive")
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = archive.files
            raw = {_lower(name): archive[name] for name in names if _lower(name) in known}
            lengths = {name.replace("lengths", "x"): archive[name] for name in names if name.split("_")[0] == "lengths"}
            for name in ("x", "x_train", "x_test"):
                parts = [f"{name}_{part}" for part in bags.PARTS]
                if name not in names and set(parts) <= set(names):
                    raw[name] = bags.from_parts(*(archive[part] for part in parts))
        if "format" in names and "x" not in raw:
            raw["x"] = bags.from_scipy(path)
    except InputError as error:
        raise InputError(f"{argument}: {error}") from error
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        pickled = "; it holds Python objects, which are never unpickled: save numbers" if "pickle" in str(error) else ""
        raise InputError(f"{argument}: cannot be read as .npz: {error}{pickled}") from error
    if not ("x" in raw or {"x_train", "x_test"} <= set(raw)):
        raise InputError(f"{argument}: must hold x, or x_train and x_test; found {', '.join(names) or 'nothing'}")
    for name, length in lengths.items():
        if name in raw:
            raw[name] = _cut(raw[name], length, f"{argument}: {name.replace('x', 'lengths', 1)}")
    return raw


def _cut(x: np.ndarray, length: np.ndarray, name: str) -> np.ndarray:
    """Series [N, T, ...] of these lengths [N]: NaN beyond; raises InputError."""
    if x.ndim not in (2, 3) or length.shape != x.shape[:1] or length.dtype.kind not in "iu":
        raise InputError(
            f"{name}: must be whole numbers of shape {x.shape[:1]}, one for each series, found {length.shape}"
        )
    if ((length < 1) | (length > x.shape[1])).any():
        row = int(((length < 1) | (length > x.shape[1])).argmax())
        raise InputError(f"{name}[{row}] = {length[row]}: must lie in [1, {x.shape[1]}], the steps of a series")
    beyond = np.arange(x.shape[1])[None] >= length[:, None]
    series = x.astype(np.float32 if x.dtype != np.float64 else np.float64)
    series[beyond] = np.nan
    return series


def mat(argument: str, config: ConfigDict) -> dict[str, Any]:
    """The arrays of a MATLAB file of version 7 or earlier, with the names of `npz`."""
    from scipy import io

    path, known = existing(argument, config), ("x", "y", "x_train", "y_train", "x_test", "y_test")
    try:
        found = {name: value for name, value in io.loadmat(path).items() if not name.startswith("__")}
    except NotImplementedError as error:
        raise InputError(f"{argument}: is a .mat file of version 7.3; save it with -v7") from error
    except (ValueError, OSError, TypeError) as error:
        raise InputError(f"{argument}: cannot be read as .mat: {error}") from error
    raw = {_lower(name): np.asarray(value) for name, value in found.items() if _lower(name) in known}
    raw |= {name: value.reshape(-1) for name, value in raw.items() if name.startswith("y") and 1 in value.shape}
    if not ("x" in raw or {"x_train", "x_test"} <= set(raw)):
        raise InputError(f"{argument}: must hold x, or x_train and x_test; found {', '.join(found) or 'nothing'}")
    return raw


def _lower(name: str) -> str:
    """X as x, X_train as x_train."""
    return name.lower()


def npy(argument: str, config: ConfigDict, mmap_mode: Literal["r"] | None = None) -> dict[str, Any]:
    """One array of examples."""
    path = existing(argument, config)
    if zipfile.is_zipfile(path):
        raise InputError(f"{argument}: cannot be read as .npy: it is an archive; write npz:FILE")
    try:
        return {"x": np.load(path, mmap_mode, allow_pickle=False)}
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{argument}: cannot be read as .npy: {error}") from error


def npy_streamed(argument: str, config: ConfigDict) -> dict[str, Any]:
    try:
        return {"x": lazy.npy(existing(argument, config))}
    except (ValueError, OSError, EOFError):  # Fortran order, objects, or no array: `npy` reads or rejects it
        return npy(argument, config)
