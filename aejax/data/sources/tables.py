"""Tables in CSV and parquet files: read once, a batch of rows at a time."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from aejax.data import lazy
from aejax.data.sources.arrow import (
    Table,
    check_columns,
    check_flat,
    existing,
    is_parquet,
    place_of,
    reported,
    row_number,
)
from aejax.data.sources.categories import Categories
from aejax.errors import InputError
from aejax.fields import Allowed, Field, one_of

SEPARATOR = Allowed("be auto, tab or one character", lambda v: v in ("auto", "tab") or len(v) == 1)


@dataclasses.dataclass(frozen=True)
class Fields:
    label_column: Annotated[str, Field('csv, parquet, text, series: name of the column of labels; "" = no labels')] = ""
    id_column: Annotated[
        str,
        Field(
            'csv, parquet: column with the ids of the rows in outputs, "" = row numbers; series: column that names the '
            'series of a row, "" = one series'
        ),
    ] = ""
    columns: Annotated[
        tuple,
        Field("csv, parquet, series: columns to train on, in this order; () = all columns that have no other role"),
    ] = ()
    drop_columns: Annotated[tuple, Field("csv, parquet, series: columns to leave out")] = ()
    categorical: Annotated[
        str,
        Field("columns of text, categories or booleans: error | onehot", one_of(("error", "onehot"))),
    ] = "error"
    separator: Annotated[str, Field("csv: sign between cells; auto = detected and reported", SEPARATOR)] = "auto"
    decimal: Annotated[str, Field("csv: decimal sign of numbers; auto = detected", one_of(("auto", ".", ",")))] = "auto"
    encoding: Annotated[
        str, Field("csv: encoding of the file, such as utf-8 or cp1252; auto = detected and reported")
    ] = "auto"
    header: Annotated[str, Field("csv: whether the first line names the columns", one_of(("auto", "yes", "no")))] = (
        "auto"
    )


def read(argument: str, config: ConfigDict) -> dict[str, Any]:
    """A table in a CSV file, a parquet file or a folder of parquet files.

    x: float64 [rows, columns], NaN for an empty cell, category indices in a categorical column. Also `columns`,
    `categories`, `notes`, and `y` if config.data.label_column is set.
    """
    return read_table(Table(argument, config))


def streamed(argument: str, config: ConfigDict) -> dict[str, Any]:
    """The same, with the numbers in a temporary file, read on demand."""
    return read_table(Table(argument, config), lambda batches: lazy.spooled(batches, argument))


def read_table(
    table: Table, gather: Callable[[Iterator[np.ndarray]], Any] = lambda batches: np.concatenate(list(batches))
) -> dict[str, Any]:
    """The raw arrays of a table; `gather` joins its batches."""
    columns = table.features()
    categories = Categories(table, columns)
    label, values = table.config.data.label_column, list[Any]()

    def batches() -> Iterator[np.ndarray]:
        for x, other in table.batches(columns, categories, label):
            values.extend(other or ())
            yield x

    parts = batches()
    first = next(parts, None) if columns else None
    if first is None:
        raise InputError(f"{table.argument}: no rows of numbers")
    x = gather(itertools.chain([first], parts))
    categories.check_few()
    x = categories.sort(x)
    onehot = ", ".join(f"{name} ({len(values)})" for name, values in categories.named().items())
    roles = {"ids": table.config.data.id_column, "labels": label, "one-hot": onehot}
    notes = [*table.notes, *(f"{role} {names}" for role, names in roles.items() if names)]
    raw: dict[str, Any] = {"x": x, "columns": columns, "categories": categories.named(), "notes": notes}
    if label:
        if None in values:
            raise InputError(f"{table.argument}: {row_number(values.index(None))}: column {label} is empty or NA")
        raw["y"] = labels(values)
    return raw


class Rows(NamedTuple):
    """Rows of a table with their ids."""

    ids: list[Any]
    x: np.ndarray


def number_batches(
    table: Table, columns: Sequence[str], known: Mapping[str, Sequence[str]], ids: str = ""
) -> Iterator[Rows]:
    """Batches of the run's columns in the run's order, float64, with row ids.

    After the last batch `table.notes` also tells of texts that are none of the run's categories.
    """
    check_columns(table.names, columns, table.argument)
    table.check_types(columns)
    categories = Categories(table, columns, known)
    start = 0
    for x, names in table.batches(columns, categories, ids):
        yield Rows(names if names is not None else list(range(start, start + len(x))), x)
        start += len(x)
    table.notes.extend(categories.unknown())


def text_batches(table: Table, names: Sequence[str]) -> Iterator[list[list[str]]]:
    """The columns `names` as strings, a batch of rows at a time; raises InputError for an empty cell."""
    import pyarrow

    check_columns(table.names, names, table.argument)
    start = 0
    for batch in table.arrow(dict.fromkeys(names, pyarrow.string()), documents=True):
        columns = []
        for name, column in zip(names, batch.columns, strict=True):
            check_flat(column.type, name, table.argument)
            if column.null_count:
                row = column.is_null().to_pylist().index(True)
                raise InputError(f"{table.argument}: {place_of(start, row)}: column {name} is empty")
            columns.append([str(value) for value in column.to_pylist()])
        yield columns
        start += batch.num_rows


def size(argument: str, config: ConfigDict) -> int:
    """Approximate bytes of a table: the size of a CSV file, or of a parquet file's values when decompressed."""
    from pyarrow import parquet

    if Path(argument).is_dir():
        return sum(4 * size(str(path), config) for path in Path(argument).rglob("*.parquet"))
    path = existing(argument, config)
    if not is_parquet(argument):
        return path.stat().st_size
    with reported(argument), parquet.ParquetFile(path) as file:
        return 4 * int(file.metadata.num_rows) * int(file.metadata.num_columns)


def labels(values: Sequence[Any]) -> np.ndarray:
    """Labels as an array; strings that are all integers become integers, so that 9 comes before 10."""
    return np.array([int(v) if isinstance(v, str) and _is_integer(v) else v for v in values])


def _is_integer(text: str) -> bool:
    """Whether the text is a canonical 64-bit integer; 01 is not."""
    return len(text) < 19 and text.removeprefix("-").isdecimal() and str(int(text)) == text
