"""Rows of large parquet files, read batch by batch in little memory."""

import functools
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from aejax.data import lazy
from aejax.data.sources.arrow import Table, check_columns, reported, row_number

Scale = Callable[[int, np.ndarray], np.ndarray]  # number of a column, float64 values -> float32
THREADS, DECODED = 2, 4  # threads that decode a file, and columns that each thread decodes at a time


def batches(
    table: Table, names: Sequence[str], scale: Scale, rows: int, share: tuple[int, int] = (0, 1)
) -> Iterator[np.ndarray]:
    """The columns `names` of a parquet file as float32 [rows, columns], each put through scale(number, values).

    Only a few columns are decoded at a time: a decoder holds megabytes per open column, and a file of a million
    rows may be a single row group. The decoded columns of a row group are stored in a temporary file.
    With share (i, n) only batches k with k % n = i are read; the others have no columns.
    """
    from pyarrow import parquet

    argument = table.argument
    check_columns(table.names, names, argument)
    opened = functools.partial(parquet.ParquetFile, argument, buffer_size=1 << 20, pre_buffer=False)

    def place(begin: int, row: int) -> str:
        return row_number(begin + row)

    def lay(into: int, group: int, n: int, begin: int, first: int) -> None:
        """Write DECODED columns from `first` on, of a row group of n rows that begins at row `begin`, to a file."""
        some, done = list(names[first : first + DECODED]), 0
        with opened(metadata=file.metadata) as own:
            for batch in own.iter_batches(1 << 17, [group], some, use_threads=False):
                for j, name in enumerate(some, first):
                    values = table.numbers(name, batch.column(name), functools.partial(place, begin + done))
                    os.pwrite(into, scale(j, values).data, 4 * (j * n + done))
                done += batch.num_rows

    begin, number = 0, 0
    with reported(argument), opened() as file, ThreadPoolExecutor(THREADS) as pool:
        for group in range(file.metadata.num_row_groups):
            n = file.metadata.row_group(group).num_rows
            starts = range(0, n, rows)
            wanted = [(number + k) % share[1] == share[0] for k in range(len(starts))]
            number += len(starts)
            if not any(wanted):
                yield from (np.empty((min(start + rows, n) - start, 0), np.float32) for start in starts)
                begin += n
                continue
            with tempfile.TemporaryFile(dir=lazy.folder()) as scratch:
                laid = functools.partial(lay, scratch.fileno(), group, n, begin)
                list(pool.map(laid, range(0, len(names), DECODED)))
                for start, own in zip(starts, wanted, strict=True):
                    yield _block(scratch.fileno(), n, len(names) if own else 0, start, min(start + rows, n))
            begin += n


def _block(file: int, n: int, columns: int, begin: int, end: int) -> np.ndarray:
    """Rows begin..end-1, [rows, columns], of a file that holds float32 columns of n rows one after the other."""
    lying = np.empty((columns, end - begin), np.float32)
    for j in range(columns):
        os.preadv(file, [lying[j].data], 4 * (j * n + begin))
    standing = np.empty((end - begin, columns), np.float32)
    for i in range(0, end - begin, 64):  # transpose small copies, whose columns do not share cache lines
        standing[i : i + 64] = lying[:, i : i + 64].copy().T
    return standing
