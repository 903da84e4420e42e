"""Columns of strings as category indices."""

import collections
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from aejax.data import lazy
from aejax.data.sources.arrow import Place, Table, listed, place_of, ways
from aejax.errors import InputError

MOST = 1000  # categories per column
FEW = 20  # categories that any column may have; more must be at most half of its texts


class Categories:
    """The categories of the categorical columns, in order of appearance, or in the order that a run knows."""

    def __init__(self, table: Table, columns: Sequence[str], known: Mapping[str, Sequence[str]] | None = None):
        self.table, self.known = table, known is not None
        found = known if known is not None else {name: () for name in columns if table.is_category(name)}
        self.columns = [name for name in columns if name in found]
        self._numbers = {name: {value: float(i) for i, value in enumerate(found[name])} for name in self.columns}
        self._texts = dict.fromkeys(self.columns, 0)  # cells that are not empty
        self._unknown: dict[str, collections.Counter[str]] = {name: collections.Counter() for name in self.columns}
        self._order = list(columns)
        if self.columns and not self.known and table.config.data.categorical != "onehot":
            name = self.columns[0]
            self.refuse(name)

    def __contains__(self, name: str) -> bool:
        return name in self._numbers

    def refuse(self, name: str) -> None:
        """Raise InputError for a column of strings, without data.categorical=onehot."""
        import pyarrow

        start = 0
        for batch in self.table.arrow({name: pyarrow.string()}):
            self.table.check_numbers(
                [None if v is None else str(v) for v in batch.column(0).to_pylist()],
                name,
                functools.partial(place_of, start),
            )
            start += batch.num_rows
        raise InputError(f"{self.table.argument}: column {name} holds texts; {ways(name)}")

    def encode(self, name: str, column: Any, place: Place) -> np.ndarray:
        """The category indices of a column, NaN for an empty cell; raises InputError."""
        import pyarrow.compute

        numbers, argument = self._numbers[name], self.table.argument
        encoded = pyarrow.compute.dictionary_encode(column.cast("string"))
        values = [str(value) for value in encoded.dictionary.to_pylist()]
        for value in values:
            if value not in numbers and self.known:
                row = next(i for i, text in enumerate(column.cast("string").to_pylist()) if text == value)
                if self.table.config.data.missing == "error":
                    raise InputError(
                        f"{argument}: {place(row)}: column {name} holds {value!r}, which is none of the run's "
                        f"categories: {listed(list(numbers))}"
                    )
                self._unknown[name][value] += pyarrow.compute.sum(
                    pyarrow.compute.equal(column.cast("string"), value)
                ).as_py()
                continue
            numbers.setdefault(value, float(len(numbers)))
        if len(numbers) > MOST:
            raise InputError(f"{argument}: column {name} has more than {MOST} distinct texts; {self._others(name)}")
        lookup = np.array([*(numbers.get(value, np.nan) for value in values), np.nan])
        indices = encoded.indices.fill_null(len(values)).to_numpy(zero_copy_only=False)
        made: np.ndarray = lookup[indices]
        self._texts[name] += len(made) - encoded.null_count
        if encoded.null_count:
            self.table.refuse_missing(int(np.isnan(made).argmax()), name, place)
        return made

    def unknown(self) -> list[str]:
        """A note for each column with texts that are none of the run's categories."""
        way = self.table.config.data.missing
        return [
            f"{name}: {rows.total():,} rows hold {listed(list(map(repr, rows)))}, unknown to the run; "
            f"treated as an empty cell (data.missing={way})"
            for name, rows in self._unknown.items()
            if rows
        ]

    def _others(self, name: str) -> str:
        """The ways out for a column that is no category."""
        made = f"config.data.id_column={name} uses it as row ids, config.data.drop_columns={name} leaves it out"
        if not self.table.dialect:
            return made
        other = "," if self.table.dialect.decimal == "." else "."
        return f"{made}, config.data.decimal={other} reads numbers with this decimal sign"

    def check_few(self) -> None:
        """Raise InputError for a column that is no category: most of its texts are distinct."""
        for name, numbers in self._numbers.items():
            if len(numbers) > max(FEW, self._texts[name] / 2):
                raise InputError(
                    f"{self.table.argument}: column {name} has {len(numbers)} distinct texts in {self._texts[name]} "
                    f"rows, too many for data.categorical=onehot; {self._others(name)}"
                )

    def sort(self, x: Any) -> Any:
        """Renumber the categories of x in alphabetical order."""
        orders = {}
        for name in self.columns if not self.known else ():
            values = sorted(self._numbers[name])
            order = np.array([*(values.index(value) for value in self._numbers[name]), np.nan])
            orders[self._order.index(name)] = order
            self._numbers[name] = {value: float(i) for i, value in enumerate(values)}

        def renumbered(part: np.ndarray, rows: np.ndarray) -> np.ndarray:
            part = part.copy()
            for j, order in orders.items():
                part[:, j] = order[np.where(np.isnan(part[:, j]), len(order) - 1, part[:, j]).astype(int)]
            return part

        if not orders:
            return x
        return x.map(renumbered) if isinstance(x, lazy.Lazy) else renumbered(x, np.arange(len(x)))

    def named(self) -> dict[str, tuple[str, ...]]:
        """Column -> its categories, in the order of their indices."""
        return {name: tuple(self._numbers[name]) for name in self.columns}
