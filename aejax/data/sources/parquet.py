"""Large parquet files as rows, a batch at a time and in little memory."""

import functools
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from aejax.data import lazy
from aejax.data.sources.arrow import Table, check_columns, reported, row_number

Scale = Callable[[int, np.ndarray], np.ndarray]  # number of a column, float64 values -> float32
THREADS, DECODED = 2, 4  # that decode a file, and columns that each decodes at a time


def batches(table: Table, names: Sequence[str], scale: Scale, rows: int) -> Iterator[np.ndarray]:
    """The columns `names` of a parquet file as float32 [rows, columns], each put through scale(number, values).

    Few columns are decoded at a time: a decoder holds megabytes for each column that it is in, and a file
    of a million rows may be a single row group. What a row group has more than memory should hold waits in a
    temporary file, in columns.
    """
    from pyarrow import parquet

    argument = table.argument
    check_columns(table.names, names, argument)
    opened = functools.partial(parquet.ParquetFile, argument, buffer_size=1 << 20, pre_buffer=False)

    def place(begin: int, row: int) -> str:
        return row_number(begin + row)

    def lay(into: int, group: int, n: int, begin: int, first: int) -> None:
        """Put the columns from `first` on of a row group, which has n rows and begins at row `begin`, into a file."""
        some, done = list(names[first : first + DECODED]), 0
        with opened(metadata=file.metadata) as own:
            for batch in own.iter_batches(1 << 17, [group], some, use_threads=False):
                for j, name in enumerate(some, first):
                    values = table.numbers(name, batch.column(name), functools.partial(place, begin + done))
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
