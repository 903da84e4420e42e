"""Tables in CSV and parquet files: read whole, or a batch of rows at a time."""

import functools
import itertools
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from aejax.config import fail
from aejax.data import lazy
from aejax.errors import InputError

Place = Callable[[int], str]  # number of a row, from 0 -> where it stands in the file
Scale = Callable[[int, np.ndarray], np.ndarray]  # number of a column, float64 values -> float32
VALUES = 2**21  # of a batch of rows, at most
THREADS, DECODED = 2, 4  # that decode a parquet file, and columns that each decodes at a time


def read(argument: str, config: ConfigDict) -> dict[str, Any]:
    """A table in a CSV file, with a header line, or a parquet file; all columns are numbers but the label's."""
    return _read(argument, config, lambda batches: np.concatenate(list(batches)))


def streamed(argument: str, config: ConfigDict) -> dict[str, Any]:
    """The same, of which the numbers lie in a temporary file and are read when they are asked for."""
    return _read(argument, config, lambda batches: lazy.spooled(batches, argument))


def _read(argument: str, config: ConfigDict, gather: Callable[[Iterator[np.ndarray]], Any]) -> dict[str, Any]:
    import pyarrow

    label, names = config.data.label_column, column_names(argument, config)
    if label and label not in names:
        raise fail("data.label_column", label, f"must be a column of {argument}: {_listed(names)}")
    columns = [name for name in names if name != label]
    first = next(batches := number_batches(argument, config, columns), None) if columns else None
    if first is None:
        raise InputError(f"{argument}: no rows of numbers")
    raw: dict[str, Any] = {"x": gather(itertools.chain([first], batches)), "columns": columns}
    if label:
        parts, place = arrow_batches(argument, config, [label], pyarrow.string())
        values: list[Any] = []
        for batch in parts:
            check_flat(batch.column(0).type, label, argument)
            values += batch.column(0).to_pylist()
        if None in values:
            raise InputError(f"{argument}: {place(values.index(None))}: column {label} is empty or NA")
        raw["y"] = labels(values)
    return raw


def text_batches(argument: str, config: ConfigDict, names: Sequence[str]) -> Iterator[list[list[str]]]:
    """The columns `names` as strings, a batch of rows at a time; raises InputError for an empty cell."""
    import pyarrow

    batches, place = arrow_batches(argument, config, names, pyarrow.string(), documents=True)
    begin = 0
    for batch in batches:
        columns = []
        for name, column in zip(names, batch.columns, strict=True):
            check_flat(column.type, name, argument)
            if column.null_count:
                row = column.is_null().to_pylist().index(True)
                raise InputError(f"{argument}: {place(begin + row)}: column {name} is empty")
            columns.append([str(value) for value in column.to_pylist()])
        yield columns
        begin += batch.num_rows


def number_batches(argument: str, config: ConfigDict, names: Sequence[str]) -> Iterator[np.ndarray]:
    """The columns `names` of a CSV or parquet file as float64 [rows, columns], some rows at a time."""
    import pyarrow

    batches, place = arrow_batches(argument, config, names, pyarrow.float64())
    begin = 0
    try:
        for batch in batches:
            columns = [
                _column(column, name, argument, lambda row: place(begin + row))  # noqa: B023  (called at once)
                for name, column in zip(names, batch.columns, strict=True)
            ]
            yield np.stack(columns, axis=1)
            begin += batch.num_rows
    except InputError as error:
        if isinstance(error.__cause__, pyarrow.ArrowInvalid):  # it names no line
            begin = 0
            for texts in text_batches(argument, config, names):
                for name, column in zip(names, texts, strict=True):
                    _check_numbers(column, name, argument, lambda row: place(begin + row))  # noqa: B023
                begin += len(texts[0])
        raise


def parquet_batches(
    argument: str, config: ConfigDict, names: Sequence[str], scale: Scale, rows: int
) -> Iterator[np.ndarray]:
    """The columns `names` of a parquet file as float32 [rows, columns], each put through scale(number, values).

    Few columns are decoded at a time: a decoder holds megabytes for each column that it is in, and a file
    of a million rows may be a single row group. What a row group has more than memory should hold waits in a
    temporary file, in columns.
    """
    from pyarrow import parquet

    check_columns(column_names(argument, config), names, argument)
    opened = functools.partial(parquet.ParquetFile, argument, buffer_size=1 << 20, pre_buffer=False)

    def place(begin: int, row: int) -> str:
        return row_number(begin + row)

    def lay(into: int, group: int, n: int, begin: int, first: int) -> None:
        """Put the columns from `first` on of a row group, which has n rows and begins at row `begin`, into a file."""
        some, done = list(names[first : first + DECODED]), 0
        with opened(metadata=file.metadata) as own:
            for batch in own.iter_batches(1 << 17, [group], some, use_threads=False):
                for j, name in enumerate(some, first):
                    values = _column(batch.column(name), name, argument, functools.partial(place, begin + done))
                    os.pwrite(into, scale(j, values).data, 4 * (j * n + done))
                done += batch.num_rows

    begin = 0
    with reported(argument), opened() as file, ThreadPoolExecutor(THREADS) as pool:
        for group in range(file.metadata.num_row_groups):
            n = file.metadata.row_group(group).num_rows
            with tempfile.TemporaryFile(dir=lazy.folder()) as scratch:
                laid = functools.partial(lay, scratch.fileno(), group, n, begin)
                list(pool.map(laid, range(0, len(names), DECODED)))
                for start in range(0, n, rows):
                    yield _block(scratch.fileno(), n, len(names), start, min(start + rows, n))
            begin += n


def _block(file: int, n: int, columns: int, begin: int, end: int) -> np.ndarray:
    """Rows begin..end-1 of the float32 columns of n rows that lie in a file one after the other, [rows, columns]."""
    lying = np.empty((columns, end - begin), np.float32)
    for j in range(columns):
        os.preadv(file, [lying[j].data], 4 * (j * n + begin))
    standing = np.empty((end - begin, columns), np.float32)
    for i in range(0, end - begin, 64):  # by copies whose columns do not share the lines of the cache
        standing[i : i + 64] = lying[:, i : i + 64].copy().T
    return standing


def arrow_batches(
    argument: str, config: ConfigDict, names: Sequence[str], kind: Any, *, documents: bool = False
) -> tuple[Iterator[Any], Place]:
    """Record batches of the columns `names`, in CSV read as the Arrow type `kind`; and where a row stands.

    Of `documents` only a cell with nothing in it is empty: NA is a word, and "" a document without words.
    """
    import pyarrow

    schema = _schema(argument, config)
    check_columns(schema.names, names, argument)
    if is_parquet(argument):
        return _parquet_batches(argument, names, min(max(VALUES // len(names), 1), 8192)), row_number
    above = lines_above(Path(argument))
    types = dict.fromkeys(names, kind)
    if kind != pyarrow.string():  # true and false are numbers, too
        types |= {name: pyarrow.bool_() for name in names if schema.field(name).type == pyarrow.bool_()}
    return _csv_batches(argument, types, documents, above), lambda row: f"line {line(argument, row + above)}"


def _parquet_batches(argument: str, names: Sequence[str], rows: int) -> Iterator[Any]:
    from pyarrow import parquet

    with reported(argument), parquet.ParquetFile(argument, buffer_size=1 << 20, pre_buffer=False) as file:
        for batch in file.iter_batches(rows, columns=list(names)):
            yield batch.select(list(names))


def _csv_batches(argument: str, types: dict[str, Any], documents: bool, above: int) -> Iterator[Any]:
    import pyarrow
    from pyarrow import csv

    options = csv.ReadOptions(autogenerate_column_names=not above, block_size=1 << 22)
    parse = csv.ParseOptions(newlines_in_values=pyarrow.string() in types.values())  # in quotes; a block may end there
    empty = {"null_values": [""], "quoted_strings_can_be_null": False} if documents else {}
    convert = csv.ConvertOptions(include_columns=list(types), column_types=types, strings_can_be_null=True, **empty)
    with reported(argument), csv.open_csv(argument, options, parse, convert) as reader:
        yield from reader


def column_names(argument: str, config: ConfigDict) -> list[str]:
    """The names of a file's columns, by its beginning alone; raises InputError."""
    return list(_schema(argument, config).names)


def _schema(argument: str, config: ConfigDict) -> Any:
    """The Arrow schema of a file, of CSV by its first block; raises InputError."""
    from pyarrow import csv, parquet

    path, source = existing(argument, config), config.data.source
    if source.startswith("parquet:") and not is_parquet(argument):
        raise fail("data.source", source, "is no parquet file")
    if source.startswith("csv:") and is_parquet(argument):
        raise fail("data.source", source, "is a parquet file; write parquet:FILE")
    with reported(argument):
        if is_parquet(argument):
            with parquet.ParquetFile(path) as file:
                schema = file.schema_arrow
        else:
            options = csv.ReadOptions(autogenerate_column_names=not lines_above(path), block_size=1 << 22)
            parse = csv.ParseOptions(newlines_in_values=True)  # the first block may end within quotes
            with csv.open_csv(path, options, parse) as reader:
                schema = reader.schema
        names = list(schema.names)  # decoded here
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{argument}: column {twice!r} stands twice in the header")
    return schema


def size(argument: str, config: ConfigDict) -> int:
    """Bytes of a table, about: of a CSV file, or of a parquet file's values, which lie there compressed."""
    from pyarrow import parquet

    path = existing(argument, config)
    if not is_parquet(argument):
        return path.stat().st_size
    with reported(argument), parquet.ParquetFile(path) as file:
        return 4 * int(file.metadata.num_rows) * int(file.metadata.num_columns)


def is_parquet(argument: str) -> bool:
    """Whether a file begins as parquet files do."""
    with open(argument, "rb") as file:
        return file.read(4) == b"PAR1"


class reported:
    """Within, what pyarrow cannot read is an InputError of one line that names the file."""

    def __init__(self, argument: str):
        self.argument = argument

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        import pyarrow

        if isinstance(error, pyarrow.ArrowException | OSError | UnicodeDecodeError):
            raise InputError(f"{self.argument}: {' '.join(str(error).split())}") from error


def labels(values: Sequence[Any]) -> np.ndarray:
    """Labels as an array; strings that are all integers become integers, so that 9 comes before 10."""
    return np.array([int(v) if isinstance(v, str) and _is_integer(v) else v for v in values])


def _column(column: Any, name: str, path: str, place: Place) -> np.ndarray:
    """A column as float64; raises InputError that says where it is no finite number."""
    import pyarrow

    check_flat(column.type, name, path)
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise InputError(f"{path}: {place(row)}: column {name} is empty or NaN; fill or drop such rows")
    if pyarrow.types.is_decimal(column.type):
        column = column.cast(pyarrow.float64())
    if not (pyarrow.types.is_integer(column.type) or pyarrow.types.is_floating(column.type)
            or pyarrow.types.is_boolean(column.type)):  # fmt: skip
        texts = [str(value) for value in column.to_pylist()]
        _check_numbers(texts, name, path, place)
        raise InputError(f"{path}: {place(0)}: column {name} holds {texts[0]!r}, which is no number")
    values = column.to_numpy(zero_copy_only=False).astype(np.float64, copy=False)
    # The sum is finite unless a value is not, or in rare cases; cheaper than a look at each.
    with np.errstate(over="ignore", invalid="ignore"):
        if not np.isfinite(values.sum()) and not (finite := np.isfinite(values)).all():
            row = int(finite.argmin())
            raise InputError(f"{path}: {place(row)}: column {name} is {values[row]}")
    return values


def _check_numbers(texts: Sequence[str], name: str, path: str, place: Place) -> None:
    for row, text in enumerate(texts):
        if not _is_number(text):
            raise InputError(
                f"{path}: {place(row)}: column {name} holds {text!r}, which is no number; "
                "if it is the label, name it in config.data.label_column"
            )


def check_flat(kind: Any, name: str, path: str) -> None:
    import pyarrow

    if pyarrow.types.is_nested(kind):
        raise InputError(f"{path}: column {name} is nested ({kind}); give each number a column of its own")


def check_columns(found: Sequence[str], names: Sequence[str], argument: str) -> None:
    """Raise InputError where a column is missing."""
    missing = [name for name in names if name not in found]
    if missing:
        listed = ", ".join(map(repr, missing[:5])) + (", ..." if len(missing) > 5 else "")
        raise InputError(f"{argument}: has no column {listed}; its columns: {_listed(found)}")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) + (f", ... ({len(names)} in all)" if len(names) > 20 else "")


def lines_above(path: Path) -> int:
    """Lines above the first row of a CSV file: names stand alone in a header, a first line of numbers is a row."""
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        first = file.readline().strip().split(",")
    return 0 if first and all(_is_number(cell) for cell in first) else 1


def line(path: str, index: int) -> int:
    """Number, from 1, of the line at `index` of those that are not empty: an empty line holds no row."""
    with open(path, "rb") as file:
        full = (number for number, text in enumerate(file, 1) if text.strip(b"\r\n"))
        return next(itertools.islice(full, index, None))


def row_number(row: int) -> str:
    return f"row {row}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text.isascii() and "_" not in text  # which Python reads, and Arrow does not


def _is_integer(text: str) -> bool:
    """Whether this is how an integer of 64 bits is written: 01 is a name."""
    return len(text) < 19 and text.removeprefix("-").isdecimal() and str(int(text)) == text


def existing(argument: str, config: ConfigDict) -> Path:
    """The path of a file that is there; raises InputError."""
    if not Path(argument).is_file():
        raise fail("data.source", config.data.source, "is a folder" if Path(argument).is_dir() else "no such file")
    return Path(argument)
