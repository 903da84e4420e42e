"""A table in a file, read by Arrow: its columns, and batches of rows."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from ml_collections import ConfigDict

from aejax.data.sources.dialect import Dialect, detect, is_number, opened
from aejax.errors import FieldError, InputError

Place = Callable[[int], str]  # row number, from 0 -> its place in the file, for messages
VALUES = 2**21  # values per batch, at most


class Encoder(Protocol):
    """The categories of some columns."""

    columns: list[str]

    def __contains__(self, name: str) -> bool: ...
    def encode(self, name: str, column: Any, place: Place) -> np.ndarray: ...


class Table:
    """A table in a file: its columns and how it is read."""

    def __init__(self, argument: str, config: ConfigDict):
        self.argument, self.config = argument, config
        source = config.data.source
        self.path = Path(argument)
        self.folder = self.path.is_dir() and source.startswith("parquet:")
        if not self.folder:
            existing(argument, config)
        self.parquet = self.folder or is_parquet(argument)
        if source.startswith("parquet:") and not self.parquet:
            raise FieldError("data.source", source, "is not a parquet file")
        if source.startswith("csv:") and self.parquet:
            raise FieldError("data.source", source, "is a parquet file; write parquet:FILE")
        self.dialect: Dialect | None = None if self.parquet else detect(self.path, config)
        self.schema = self._schema()
        self.notes = list(self.dialect.notes) if self.dialect else []

    @property
    def names(self) -> list[str]:
        """All columns except one that only numbers the rows."""
        names = list(self.schema.names)
        if self.dialect and self.dialect.indexed:
            return names[1:]
        return [name for name in names if not (self.parquet and name.startswith("__index_level_"))]

    def features(self) -> list[str]:
        """The columns to train on; raises InputError if one does not exist or holds dates."""
        data, names = self.config.data, self.names
        for field in ("label_column", "id_column", "text_column"):
            if data[field] and data[field] not in names:
                raise FieldError(f"data.{field}", data[field], f"must be a column of {self.argument}: {listed(names)}")
        for field in ("columns", "drop_columns"):
            for name in data[field]:
                if name not in names:
                    raise FieldError(f"data.{field}", name, f"must be columns of {self.argument}: {listed(names)}")
        for name in filter(None, (data.label_column, data.id_column)):
            check_flat(self.schema.field(name).type, name, self.argument)
        out = {data.label_column, data.id_column, *data.drop_columns}
        chosen = list(data.columns) or [name for name in names if name not in out]
        taken = [name for name in chosen if name in out]
        if taken:
            raise FieldError(
                "data.columns", taken[0], "is also the label, the id or in data.drop_columns; name it once"
            )
        if len(self.names) < len(self.schema.names) and self.parquet:
            self.notes.append("left out: pandas' index")
        self.check_types(chosen)
        return chosen

    def check_types(self, names: Sequence[str]) -> None:
        """Raise InputError, with the fields that help, for columns that hold neither numbers nor categories."""
        import pyarrow

        for name in names:
            kind = self.schema.field(name).type
            check_flat(kind, name, self.argument)
            if pyarrow.types.is_temporal(kind):
                raise InputError(
                    f"{self.argument}: column {name} holds dates or times; leave it out with "
                    f"config.data.drop_columns={name} (or name it in config.data.id_column)"
                )

    def is_category(self, name: str) -> bool:
        """Whether a column holds strings, or booleans if categories are one-hot."""
        import pyarrow

        kind = self.schema.field(name).type
        if pyarrow.types.is_dictionary(kind):
            kind = kind.value_type
        texts = pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)
        onehot = self.config.data.categorical == "onehot"
        return texts or (onehot and pyarrow.types.is_boolean(kind))

    def batches(
        self, columns: Sequence[str], categories: Encoder, other: str = ""
    ) -> Iterator[tuple[np.ndarray, list[Any] | None]]:
        """Batches of rows: (float64 [rows, columns], the values of the column `other`, or None)."""
        import pyarrow

        wanted = [*columns, *([other] if other else [])]
        check_columns(self.names, wanted, self.argument)
        kinds: dict[str, Any] = {name: pyarrow.float64() for name in columns}
        kinds |= {name: pyarrow.bool_() for name in columns if pyarrow.types.is_boolean(self.schema.field(name).type)}
        kinds |= {name: pyarrow.string() for name in [*categories.columns, *([other] if other else [])]}
        start = 0
        try:
            for batch in self.arrow(kinds):
                place = functools.partial(place_of, start)
                made = np.empty((batch.num_rows, len(columns)))
                for j, name in enumerate(columns):
                    column = batch.column(name)
                    encode = categories.encode if name in categories else self.numbers
                    made[:, j] = encode(name, column, place)
                yield made, batch.column(other).to_pylist() if other else None
                start += batch.num_rows
        except InputError as error:
            if isinstance(error.__cause__, pyarrow.ArrowInvalid):
                self._locate(columns, categories)
            raise

    def numbers(self, name: str, column: Any, place: Place) -> np.ndarray:
        """A column as float64, NaN for empty cells; raises InputError with the place of a cell that is not finite."""
        import pyarrow

        check_flat(column.type, name, self.argument)
        if pyarrow.types.is_decimal(column.type):
            column = column.cast(pyarrow.float64())
        kind = column.type
        if not (
            pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind) or pyarrow.types.is_boolean(kind)
            or pyarrow.types.is_null(kind)
        ):  # fmt: skip
            texts = [None if value is None else str(value) for value in column.to_pylist()]
            self.check_numbers(texts, name, place)
            raise InputError(f"{self.argument}: {place(0)}: column {name} holds {texts[0]!r}, which is no number")
        if column.null_count:
            self.refuse_missing(int(np.argmax(column.is_null().to_numpy(zero_copy_only=False))), name, place)
            column = column.cast(pyarrow.float64())
        values = column.to_numpy(zero_copy_only=False).astype(np.float64, copy=False)
        # A finite sum means finite values; summing is cheaper than checking each value.
        with np.errstate(over="ignore", invalid="ignore"):
            total = values.sum()
        if not np.isfinite(total):
            infinite = np.isinf(values)
            if infinite.any():
                row = int(infinite.argmax())
                raise InputError(f"{self.argument}: {place(row)}: column {name} is {values[row]}")
            empty = np.isnan(values)
            if empty.any():
                self.refuse_missing(int(empty.argmax()), name, place)
        return values

    def refuse_missing(self, row: int, name: str, place: Place) -> None:
        if self.config.data.missing == "error":
            raise InputError(
                f"{self.argument}: {place(row)}: column {name} is empty or NaN; set config.data.missing to mean, "
                f"median, indicator or mask, or leave the column out: config.data.drop_columns={name}"
            )

    def _locate(self, columns: Sequence[str], categories: Encoder) -> None:
        """Raise InputError for the first cell that is no number, found by the same parser; else return."""
        import pyarrow

        kinds = {name: pyarrow.string() for name in columns if name not in categories}
        start = 0
        for batch in self.arrow(kinds):
            for name in kinds:
                self.check_numbers(batch.column(name).to_pylist(), name, functools.partial(place_of, start))
            start += batch.num_rows

    def check_numbers(self, texts: Sequence[str | None], name: str, place: Place) -> None:
        decimal = self.dialect.decimal if self.dialect else "."
        for row, text in enumerate(texts):
            if text is not None and not is_number(text.strip(), decimal):
                raise InputError(
                    f"{self.argument}: {place(row)}: column {name} holds {text!r}, which is no number; {ways(name)}"
                )

    def arrow(self, kinds: Mapping[str, Any], *, documents: bool = False) -> Iterator[Any]:
        """Record batches of the columns in `kinds`; a CSV file is parsed as these Arrow types.

        With `documents` only a cell without content is null: NA is a word, and "" is a document without words.
        """
        names, rows = list(kinds), min(max(VALUES // max(len(kinds), 1), 1), 8192)
        if self.folder:
            return self._fragments(names, rows)
        return self._parquet(names, rows) if self.parquet else self._csv(kinds, documents)

    def _fragments(self, names: Sequence[str], rows: int) -> Iterator[Any]:
        with reported(self.argument):
            whole = self._dataset()
            for fragment in sorted(whole.get_fragments(), key=lambda fragment: fragment.path):
                for batch in fragment.to_batches(schema=whole.schema, columns=list(names), batch_size=rows):
                    if batch.num_rows:
                        yield batch.select(list(names))

    def _dataset(self) -> Any:
        from pyarrow import dataset

        return dataset.dataset(self.argument, format="parquet", partitioning="hive")

    def _parquet(self, names: Sequence[str], rows: int) -> Iterator[Any]:
        from pyarrow import parquet

        with reported(self.argument), parquet.ParquetFile(self.argument, buffer_size=1 << 20, pre_buffer=False) as file:
            for batch in file.iter_batches(rows, columns=list(names)):
                yield batch.select(list(names))

    def _csv(self, kinds: Mapping[str, Any], documents: bool) -> Iterator[Any]:
        import pyarrow
        from pyarrow import csv

        assert self.dialect is not None
        parse = csv.ParseOptions(
            delimiter=self.dialect.separator, newlines_in_values=pyarrow.string() in kinds.values()
        )  # quoted cells may hold newlines
        empty = {"null_values": [""], "quoted_strings_can_be_null": False} if documents else {}
        convert = csv.ConvertOptions(
            include_columns=list(kinds),
            column_types=dict(kinds),
            strings_can_be_null=True,
            decimal_point=self.dialect.decimal,
            **empty,
        )
        with (
            reported(self.argument),
            csv.open_csv(opened(self.path), self._options(), parse, convert) as reader,
        ):
            yield from reader

    def _options(self) -> Any:
        from pyarrow import csv

        assert self.dialect is not None
        encoding = {"utf-8-sig": "utf8", "utf-8": "utf8"}.get(self.dialect.encoding, self.dialect.encoding)
        header = self.dialect.header
        return csv.ReadOptions(autogenerate_column_names=not header, block_size=1 << 22, encoding=encoding)

    def _schema(self) -> Any:
        """The Arrow schema, for CSV inferred from the first block; raises InputError."""
        from pyarrow import csv, parquet

        with reported(self.argument):
            if self.folder:
                schema = self._dataset().schema
            elif self.parquet:
                with parquet.ParquetFile(self.path) as file:
                    schema = file.schema_arrow
            else:
                assert self.dialect is not None
                # The first block may end within quotes.
                parse = csv.ParseOptions(delimiter=self.dialect.separator, newlines_in_values=True)
                convert = csv.ConvertOptions(decimal_point=self.dialect.decimal, strings_can_be_null=True)
                with csv.open_csv(opened(self.path), self._options(), parse, convert) as reader:
                    schema = reader.schema
            names = list(schema.names)  # may fail to decode
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"{self.argument}: column {twice!r} stands twice in the header")
        return schema


def is_parquet(argument: str) -> bool:
    """Whether a file begins as parquet files do."""
    with open(argument, "rb") as file:
        return file.read(4) == b"PAR1"


class reported:
    """Context manager that turns pyarrow's errors into an InputError of one line that names the file."""

    def __init__(self, argument: str):
        self.argument = argument

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        import pyarrow

        if isinstance(error, pyarrow.ArrowException | OSError | UnicodeDecodeError):
            raise InputError(f"{self.argument}: {' '.join(str(error).split())}") from error


def check_flat(kind: Any, name: str, path: str) -> None:
    import pyarrow

    if pyarrow.types.is_nested(kind):
        raise InputError(f"{path}: column {name} is nested ({kind}); give each number a column of its own")


def check_columns(found: Sequence[str], names: Sequence[str], argument: str) -> None:
    """Raise InputError if a column is missing."""
    missing = [name for name in names if name not in found]
    if missing:
        shown = ", ".join(map(repr, missing[:5])) + (", ..." if len(missing) > 5 else "")
        raise InputError(f"{argument}: has no column {shown}; its columns: {listed(found)}")


def ways(name: str) -> str:
    """What can be done with a column that holds texts."""
    return (
        f"config.data.categorical=onehot encodes texts, config.data.drop_columns={name} leaves the column out, "
        f"config.data.label_column={name} or config.data.id_column={name} uses it as labels or row ids"
    )


def listed(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) + (f", ... ({len(names)} in all)" if len(names) > 20 else "")


def row_number(row: int) -> str:
    return f"row {row}"


def place_of(start: int, row: int) -> str:
    return row_number(start + row)


def existing(argument: str, config: ConfigDict) -> Path:
    """The path of an existing file; raises InputError."""
    if not Path(argument).is_file():
        what = "is a folder" if Path(argument).is_dir() else "no such file"
        raise FieldError("data.source", config.data.source, what)
    return Path(argument)
