"""Arrays that are read on demand, for datasets larger than memory."""

import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from aejax.errors import InputError

Read = Callable[[np.ndarray], np.ndarray]  # rows int64 [k] -> their values [k, ...]
CHUNK = 2**22  # bytes per read when a whole array is read


def limit() -> int:
    """Bytes above which a dataset is streamed: half of a device's memory; on the CPU, an eighth of the host's."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats and jax.default_backend() != "cpu":
        return int(stats["bytes_limit"]) // 2
    return _host() // 8


def _host() -> int:
    """Bytes of memory that this process may use: the machine's, or its control group's."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(machine, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no control group, or no limit
        return machine


class Lazy:
    """An array [n, ...] that is read on demand: indexing its rows gives a lazy array, `numpy.asarray` the values."""

    def __init__(self, read: Read, rows: np.ndarray, shape: tuple[int, ...], dtype: Any):
        self.shape, self.dtype, self.ndim = (len(rows), *shape), np.dtype(dtype), 1 + len(shape)
        self.reader, self._rows = read, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, chosen: Any) -> "Lazy":
        return Lazy(self.reader, self._rows[chosen], self.shape[1:], self.dtype)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        values = self.reader(self._rows) if len(self) else np.empty(self.shape, self.dtype)
        return values if dtype is None else values.astype(dtype, copy=False)

    @property
    def nbytes(self) -> int:
        return len(self) * int(np.prod(self.shape[1:])) * self.dtype.itemsize

    def map(self, function: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> "Lazy":
        """Apply function(values, rows) whenever values are read; rows: their numbers in the source.

        The function may change the values, their shape and their dtype.
        """
        first = function(np.asarray(self[:1]), self._rows[:1])
        return Lazy(lambda rows: function(self.reader(rows), rows), self._rows, first.shape[1:], first.dtype)


def loaded(x: Any) -> Any:
    """The values of a lazy array; other arrays unchanged."""
    return np.asarray(x) if isinstance(x, Lazy) else x


def chunks(x: Any) -> Iterator[np.ndarray]:
    """The values of an array in order, in blocks of rows; the blocks of a lazy array are the same."""
    rows = max(CHUNK * len(x) // max(x.nbytes, 1), 1)
    for begin in range(0, len(x), rows):
        yield np.asarray(x[begin : begin + rows])


def npy(path: Path) -> Lazy:
    """The rows of a .npy file; raises ValueError, OSError or EOFError unless it holds an array in C order.

    The file is not memory-mapped: pages that were read would count as memory in use.
    """
    mapped = np.lib.format.open_memmap(path, mode="r")
    if mapped.ndim < 2 or not mapped.flags.c_contiguous:
        raise ValueError(f"{path}: not an array of contiguous rows")
    return _File(os.open(path, os.O_RDONLY), mapped.offset, mapped.shape, mapped.dtype, str(path)).all()


def folder() -> str:
    """The folder of temporary files: TMPDIR, or the system's if it is not set; raises InputError if not writable."""
    try:
        found, given = tempfile.gettempdir(), os.environ.get("TMPDIR")
    except FileNotFoundError as error:
        raise InputError("no folder for temporary files is writable; set TMPDIR to one that is") from error
    if given and os.path.abspath(given) != found:
        raise InputError(f"TMPDIR = {given!r}: must be a writable folder")
    return found


def kept(x: Lazy, source: str) -> Lazy:
    """The values of `source` cached in a temporary file, so that they are decoded once.

    Returns x unchanged if it is read from such rows already, or if `folder()` has less than twice its bytes free.
    """
    if isinstance(x.reader, _File) or shutil.disk_usage(folder()).free < 2 * x.nbytes:
        return x
    return spooled(chunks(x), source)


def spooled(batches: Iterable[np.ndarray], source: str) -> Lazy:
    """Write batches of rows of `source` to a temporary file in `folder()`; returns them as a lazy array.

    Raises InputError if there are no rows or no room for them.
    """
    n, place = 0, folder()
    where = f"its temporary file in {place} (set TMPDIR to use another)"
    with tempfile.TemporaryFile(dir=place, buffering=0) as file:
        for batch in batches:
            left = np.ascontiguousarray(batch).reshape(-1).view(np.uint8).data
            try:
                while left:
                    left = left[file.write(left) :]
            except OSError as error:
                raise InputError(f"{source}: {where}: {error.strerror}") from error
            n += len(batch)
        if not n:
            raise InputError(f"{source}: no rows of numbers")
        return _File(os.dup(file.fileno()), 0, (n, *batch.shape[1:]), batch.dtype, where).all()


class _File:
    """Reads rows of a file; the file is closed when no array needs it any more."""

    def __init__(self, descriptor: int, offset: int, shape: tuple[int, ...], dtype: np.dtype, name: str):
        self.descriptor, self.offset, self.shape, self.dtype, self.name = descriptor, offset, shape, dtype, name
        weakref.finalize(self, os.close, descriptor)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        values = np.empty((len(rows), *self.shape[1:]), self.dtype)
        into, size = values.reshape(-1).view(np.uint8).data, values.nbytes // len(rows)
        first = np.flatnonzero(np.diff(rows, prepend=rows[0] - 2) != 1)  # consecutive rows are read at once
        begins, offsets = (first * size).tolist(), (self.offset + rows[first].astype(np.int64) * size).tolist()
        # One call per row of a batch, so the loop does as little as possible.
        for begin, end, offset in zip(begins, [*begins[1:], len(into)], offsets, strict=True):
            while (count := os.preadv(self.descriptor, (into[begin:end],), offset)) < end - begin:
                if not count:
                    raise InputError(f"{self.name}: ends before its last row; it was longer when the run began")
                begin, offset = begin + count, offset + count
        return values

    def all(self) -> Lazy:
        return Lazy(self, np.arange(self.shape[0]), self.shape[1:], self.dtype)
