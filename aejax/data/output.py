"""Rows written one batch at a time, to a file that is there whole or not at all."""

import contextlib
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aejax.errors import InputError

Write = Callable[[np.ndarray], None]
VALUES = 2**22  # of a row group of a parquet file


@contextlib.contextmanager
def opened(path: str | Path, name: str, columns: Sequence[str] | None = None) -> Iterator[Write]:
    """Within, a function that appends rows [n, ...] to `path`: .npy, .npz (one array, `name`), .csv or .parquet.

    CSV and parquet hold each value of a row in a column of its own, named by `columns`, or NAME_0, NAME_1, ...;
    just NAME for one number a row. At an error nothing is left. Raises InputError.
    """
    path = Path(path)
    if path.suffix not in WRITERS:
        raise InputError(f"--output={path}: must end in {', '.join(WRITERS)}")
    if not path.parent.is_dir():
        raise InputError(f"--output={path}: cannot be written: there is no folder {path.parent}")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with contextlib.ExitStack() as stack:
            stack.callback(temporary.unlink, missing_ok=True)
            with WRITERS[path.suffix](temporary, name, columns) as write:
                yield write
            os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"--output={path}: cannot be written: {error.strerror or error}") from error


@contextlib.contextmanager
def _npy(path: Path, name: str, columns: Sequence[str] | None) -> Iterator[Write]:
    shape: list[Any] = []

    def header() -> dict[str, Any]:
        return {
            "descr": np.lib.format.dtype_to_descr(np.dtype(np.float32)),
            "fortran_order": False,
            "shape": tuple(shape),
        }

    with open(path, "wb") as file:

        def write(x: np.ndarray) -> None:
            if not shape:
                shape.extend((0, *x.shape[1:]))
                np.lib.format.write_array_header_1_0(file, header())  # with room for any number of rows
            shape[0] += len(x)
            file.write(np.ascontiguousarray(x, np.float32).data)

        yield write
        file.seek(0)
        np.lib.format.write_array_header_1_0(file, header())


@contextlib.contextmanager
def _npz(path: Path, name: str, columns: Sequence[str] | None) -> Iterator[Write]:
    part = path.with_name(path.name + ".npy")
    try:
        with _npy(part, name, columns) as write:
            yield write
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(part, f"{name}.npy")
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def _csv(path: Path, name: str, columns: Sequence[str] | None) -> Iterator[Write]:
    from pyarrow import csv

    with contextlib.ExitStack() as stack:
        writer: Any = None

        def write(x: np.ndarray) -> None:
            nonlocal writer
            table = _table(x, name, columns)
            writer = writer or stack.enter_context(csv.CSVWriter(path, table.schema))
            writer.write_table(table)

        yield write


@contextlib.contextmanager
def _parquet(path: Path, name: str, columns: Sequence[str] | None) -> Iterator[Write]:
    from pyarrow import parquet

    with contextlib.ExitStack() as stack:
        writer: Any = None
        pending: list[np.ndarray] = []

        def flush() -> None:
            nonlocal writer
            table = _table(np.concatenate(pending), name, columns)
            pending.clear()
            writer = writer or stack.enter_context(parquet.ParquetWriter(path, table.schema))
            writer.write_table(table)

        def write(x: np.ndarray) -> None:
            pending.append(x)
            if sum(part.size for part in pending) >= VALUES:
                flush()

        yield write
        if pending:
            flush()


def _table(x: np.ndarray, name: str, columns: Sequence[str] | None) -> Any:
    import pyarrow

    flat = x.reshape(len(x), -1).astype(np.float32, copy=False)
    if not columns:
        columns = [name] if x.ndim == 1 else [f"{name}_{j}" for j in range(flat.shape[1])]
    return pyarrow.table([np.ascontiguousarray(column) for column in flat.T], names=list(columns))


WRITERS = {".npz": _npz, ".npy": _npy, ".csv": _csv, ".parquet": _parquet}
