"""Data frames in memory, read like a table in a file."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from aejax.data.sources.arrow import Table
from aejax.data.sources.tables import number_batches, read_table
from aejax.data.spec import Field
from aejax.errors import InputError


def is_frame(x: Any) -> bool:
    """Whether x is a data frame: pandas', or an Arrow table."""
    return type(x).__name__ in ("DataFrame", "Table") and hasattr(x, "columns") and hasattr(x, "shape")


def read(frame: Any, config: ConfigDict) -> dict[str, Any]:
    """The raw arrays of a data frame, in the form of `tables.read`."""
    return read_table(Memory(frame, config))


def matrix(frame: Any, field: Field, config: ConfigDict) -> np.ndarray:
    """The run's columns of a data frame, selected by name, float64 [rows, columns]; raises InputError."""
    if not field.columns:
        raise InputError("the table: has column names, but the run has none; pass .to_numpy()")
    parts = number_batches(Memory(frame, config), field.columns, field.categories)
    return np.concatenate([np.empty((0, len(field.columns))), *(part.x for part in parts)])


def labels(y: Any) -> np.ndarray:
    """Labels of an array, a list or a pandas series; object arrays become strings or integers."""
    values = np.asarray(y)
    if values.dtype == object or type(y).__name__ == "Series":
        listed = values.tolist()
        if any(value is None or value != value for value in listed):
            raise InputError("y: holds an empty label; -1 means no label")
        values = np.array(listed)
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values


class Memory(Table):
    """A data frame in memory: pandas', or an Arrow table."""

    def __init__(self, frame: Any, config: ConfigDict):
        import pyarrow

        self.argument, self.config, self.dialect = "the table", config, None
        self.folder, self.parquet, self.notes = False, True, []
        try:
            self._frame = (
                frame if isinstance(frame, pyarrow.Table) else pyarrow.Table.from_pandas(frame, preserve_index=False)
            )
        except (pyarrow.ArrowException, TypeError, ValueError) as error:
            raise InputError(f"the table: {' '.join(str(error).split())}") from error
        self.schema = self._schema()

    def _schema(self) -> Any:
        names = list(self._frame.schema.names)
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"{self.argument}: has two columns {twice!r}")
        return self._frame.schema

    def arrow(self, kinds: Mapping[str, Any], *, documents: bool = False) -> Iterator[Any]:
        yield from self._frame.select(list(kinds)).combine_chunks().to_batches()
