"""Examples that are read when they are asked for: sets that do not fit into memory."""

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
CHUNK = 2**22  # bytes that are read at a time where everything is


def limit() -> int:
    """Bytes of a set above which it is not kept on the devices: half of one's memory; of a host's an eighth."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats and jax.default_backend() != "cpu":
        return int(stats["bytes_limit"]) // 2
    return _host() // 8


def _host() -> int:
    """Bytes of memory that this process may use: the machine's, or its control group's."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(machine, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # there is none, or it says max
        return machine


class Lazy:
    """An array [n, ...] whose first index gives another such array, and of which `numpy.asarray` reads the values."""

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
        """function(values, rows), applied to what is read, with the rows' numbers in the source; it may change the
        values, their shape and their type."""
        first = function(np.asarray(self[:1]), self._rows[:1])
        return Lazy(lambda rows: function(self.reader(rows), rows), self._rows, first.shape[1:], first.dtype)


def loaded(x: Any) -> Any:
    """The values of a lazy array; any other as it is."""
    return np.asarray(x) if isinstance(x, Lazy) else x


def chunks(x: Any) -> Iterator[np.ndarray]:
    """The values of an array, lazy or not, in order, some rows at a time: as many for both."""
    rows = max(CHUNK * len(x) // max(x.nbytes, 1), 1)
    for begin in range(0, len(x), rows):
        yield np.asarray(x[begin : begin + rows])


def npy(path: Path) -> Lazy:
    """The rows of a .npy file; raises ValueError, OSError or EOFError where it is none in C order.

    Not mapped into memory, where what has been read would count as used.
    """
    mapped = np.lib.format.open_memmap(path, mode="r")
    if mapped.ndim < 2 or not mapped.flags.c_contiguous:
        raise ValueError(f"{path}: no rows that lie one after the other")
    return _File(os.open(path, os.O_RDONLY), mapped.offset, mapped.shape, mapped.dtype, str(path)).all()


def folder() -> str:
    """Where temporary files lie: TMPDIR, or the system's folder; raises InputError, and never takes another."""
    try:
        found, given = tempfile.gettempdir(), os.environ.get("TMPDIR")
    except FileNotFoundError as error:
        raise InputError("no folder for temporary files can be written; TMPDIR names one") from error
    if given and os.path.abspath(given) != found:
        raise InputError(f"TMPDIR = {given!r}: must be a folder that can be written")
    return found


def kept(x: Lazy, source: str) -> Lazy:
    """The values of `source` as rows of a temporary file, which are not decoded again each time they are read.

    x itself where they are rows of a file already, and where the file's folder has no room for twice their bytes.
    """
    if isinstance(x.reader, _File) or shutil.disk_usage(folder()).free < 2 * x.nbytes:
        return x
    return spooled(chunks(x), source)


def spooled(batches: Iterable[np.ndarray], source: str) -> Lazy:
    """Rows of `source` that come in order, kept in a temporary file of the process; its folder is $TMPDIR's.

    Raises InputError where there are no rows, or no room for them.
    """
    n, place = 0, folder()
    where = f"its temporary file in {place} (TMPDIR names another place)"
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
    """Reads rows of a file, which is closed with the last array that needs it."""

    def __init__(self, descriptor: int, offset: int, shape: tuple[int, ...], dtype: np.dtype, name: str):
        self.descriptor, self.offset, self.shape, self.dtype, self.name = descriptor, offset, shape, dtype, name
        weakref.finalize(self, os.close, descriptor)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        values = np.empty((len(rows), *self.shape[1:]), self.dtype)
        into, size = values.reshape(-1).view(np.uint8).data, values.nbytes // len(rows)
        first = np.flatnonzero(np.diff(rows, prepend=rows[0] - 2) != 1)  # rows that follow each other are read at once
        begins, offsets = (first * size).tolist(), (self.offset + rows[first].astype(np.int64) * size).tolist()
        # A call for each row of a batch: as little Python as can be.
        for begin, end, offset in zip(begins, [*begins[1:], len(into)], offsets, strict=True):
            while (count := os.preadv(self.descriptor, (into[begin:end],), offset)) < end - begin:
                if not count:
                    raise InputError(f"{self.name}: ends before its last row; it was longer when the run began")
                begin, offset = begin + count, offset + count
        return values

    def all(self) -> Lazy:
        return Lazy(self, np.arange(self.shape[0]), self.shape[1:], self.dtype)
