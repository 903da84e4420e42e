"""Rows written one batch at a time to a file that appears only when it is complete."""

import contextlib
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aejax.errors import InputError

Columns = Mapping[str, Any]  # name -> values of any type, one for each row
Write = Callable[[Sequence[Any], np.ndarray | Columns], None]  # ids of rows, and the rows
VALUES = 2**22  # values per row group of a parquet file


@contextlib.contextmanager
def opened(
    path: str | Path, name: str, columns: Sequence[str] | None = None, id_name: str = "row", *, several: bool = False
) -> Iterator[Write]:
    """Context manager that gives write(ids, rows [n, ...]); `path` ends in .npy, .npz, .csv or .parquet.

    Rows are float32; if `several`, they are columns of several types by name.

    CSV and parquet have the row id in the first column, `id_name`, and one column per value, named by `columns`, else
    NAME_0, NAME_1, ..., or NAME if a row is one number. .npz holds the arrays `name` (or one for each
    of the columns) and `id_name`; .npy holds no ids and no columns of several types.
    After an error no file is left. Raises InputError.
    """
    path = Path(path)
    check(path, several=several)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with contextlib.ExitStack() as stack:
            stack.callback(temporary.unlink, missing_ok=True)
            with WRITERS[path.suffix](temporary, name, columns, id_name) as write:
                yield write
            os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"--output={path}: cannot be written: {error.strerror or error}") from error


def check(path: Path, *, several: bool = False) -> None:
    """Raise InputError unless `opened` can write to the path."""
    known = [suffix for suffix in WRITERS if suffix != ".npy" or not several]
    if path.suffix not in known:
        raise InputError(f"--output={path}: must end in {', '.join(known)}")
    if not path.parent.is_dir():
        raise InputError(f"--output={path}: cannot be written: there is no folder {path.parent}")


@contextlib.contextmanager
def _npy(path: Path, name: str, columns: Sequence[str] | None, id_name: str) -> Iterator[Write]:
    shape: list[Any] = []

    def header() -> dict[str, Any]:
        return {
            "descr": np.lib.format.dtype_to_descr(np.dtype(np.float32)),
            "fortran_order": False,
            "shape": tuple(shape),
        }

    with open(path, "wb") as file:

        def write(ids: Sequence[Any], x: np.ndarray | Columns) -> None:
            assert not isinstance(x, Mapping)
            if not shape:
                shape.extend((0, *x.shape[1:]))
                np.lib.format.write_array_header_1_0(file, header())  # with room for any number of rows
            shape[0] += len(x)
            file.write(np.ascontiguousarray(x, np.float32).data)

        yield write
        file.seek(0)
        np.lib.format.write_array_header_1_0(file, header())


@contextlib.contextmanager
def _npz(path: Path, name: str, columns: Sequence[str] | None, id_name: str) -> Iterator[Write]:
    part, ids = path.with_name(path.name + ".npy"), list[Any]()
    several: dict[str, list[Any]] = {}
    try:
        with _npy(part, name, columns, id_name) as write:

            def both(some: Sequence[Any], x: np.ndarray | Columns) -> None:
                ids.extend(_plain(some))
                if not isinstance(x, Mapping):
                    return write(some, x)
                for column, values in x.items():
                    several.setdefault(column, []).extend(_plain(values))

            yield both
        with zipfile.ZipFile(path, "w") as archive:
            if not several:
                archive.write(part, f"{name}.npy")
            for column, values in (several | {id_name: ids}).items():
                with archive.open(f"{column}.npy", "w") as file:
                    np.lib.format.write_array(file, np.array(values), allow_pickle=False)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def _csv(path: Path, name: str, columns: Sequence[str] | None, id_name: str) -> Iterator[Write]:
    from pyarrow import csv

    with contextlib.ExitStack() as stack:
        writer: Any = None

        def write(ids: Sequence[Any], x: np.ndarray | Columns) -> None:
            nonlocal writer
            table = _table(ids, x, name, columns, id_name)
            writer = writer or stack.enter_context(csv.CSVWriter(path, table.schema))
            writer.write_table(table)

        yield write


@contextlib.contextmanager
def _parquet(path: Path, name: str, columns: Sequence[str] | None, id_name: str) -> Iterator[Write]:
    import pyarrow
    from pyarrow import parquet

    with contextlib.ExitStack() as stack:
        writer: Any = None
        pending: list[Any] = []

        def flush() -> None:
            nonlocal writer
            table = pyarrow.concat_tables(pending)
            pending.clear()
            writer = writer or stack.enter_context(parquet.ParquetWriter(path, table.schema))
            writer.write_table(table)

        def write(ids: Sequence[Any], x: np.ndarray | Columns) -> None:
            pending.append(_table(ids, x, name, columns, id_name))
            if sum(part.num_rows * (part.num_columns - 1) for part in pending) >= VALUES:
                flush()

        yield write
        if pending:
            flush()


def _table(ids: Sequence[Any], x: np.ndarray | Columns, name: str, columns: Sequence[str] | None, id_name: str) -> Any:
    import pyarrow

    if isinstance(x, Mapping):
        # An array of Arrow has a type even if it is empty.
        return pyarrow.table({id_name: ids if isinstance(ids, pyarrow.Array) else pyarrow.array(list(ids)), **x})
    flat = x.reshape(len(x), -1).astype(np.float32, copy=False)
    if not columns:
        columns = [name] if x.ndim == 1 else [f"{name}_{j}" for j in range(flat.shape[1])]
    id_name = id_name if id_name not in columns else f"{id_name}_id"
    arrays = [pyarrow.array(list(ids)), *(np.ascontiguousarray(column) for column in flat.T)]
    return pyarrow.table(arrays, names=[id_name, *columns])


def _plain(values: Any) -> Any:
    """The elements of an array of Arrow as those of Python; other values unchanged."""
    return values.to_pylist() if hasattr(values, "to_pylist") else values


def parquet(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """The bytes of a Parquet file; a row that lacks a column has null there."""
    import pyarrow
    from pyarrow.parquet import write_table

    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: pyarrow.array([row.get(name) for row in rows]) for name in names}
    columns = {n: c.cast(pyarrow.string()) if pyarrow.types.is_null(c.type) else c for n, c in columns.items()}
    sink = pyarrow.BufferOutputStream()
    write_table(pyarrow.table(columns), sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content


WRITERS = {".npz": _npz, ".npy": _npy, ".csv": _csv, ".parquet": _parquet}
