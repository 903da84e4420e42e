"""The order of the examples, and how they reach the device."""

from collections.abc import Iterator

import numpy as np


def order(seed: int, epoch: int, n: int) -> np.ndarray:
    """The order of n examples in an epoch, int32 [n]: a function of its arguments alone."""
    return np.random.default_rng((seed, epoch)).permutation(n).astype(np.int32)


class Feed:
    """Rows of the training split for any range of steps; the last incomplete batch is dropped."""

    def __init__(self, seed: int, n: int, batch_size: int):
        self.seed, self.n, self.batch_size = seed, n, batch_size
        self.steps_per_epoch = n // batch_size
        self._epoch, self._order = -1, np.zeros(0, np.int32)

    def rows(self, begin: int, end: int) -> np.ndarray:
        """Indices of the examples of steps begin..end-1, int32 [end - begin, batch_size]."""
        rows = np.empty((end - begin, self.batch_size), np.int32)
        for step in range(begin, end):
            epoch, position = divmod(step, self.steps_per_epoch)
            if epoch != self._epoch:
                self._epoch, self._order = epoch, order(self.seed, epoch, self.n)
            rows[step - begin] = self._order[position * self.batch_size :][: self.batch_size]
        return rows


def intervals(begin: int, end: int, period: int, most: int) -> Iterator[tuple[int, int]]:
    """Cut steps begin..end-1 at every multiple of `period` and, between, into equal parts of at most `most`.

    Where the cuts lie depends on the step alone, not on `begin`: a resumed run cuts where it would have.
    """
    length = interval_length(period, most)
    while begin < end:
        start = begin // period * period
        stop = start + ((begin - start) // length + 1) * length
        stop = min(stop, start + period, end)
        yield begin, stop
        begin = stop


def interval_length(period: int, most: int) -> int:
    """Steps of the longest interval."""
    return -(-period // -(-period // most))


def batches(n: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows int32 [k, batch_size] that cover n examples in order, and the mask [k, batch_size] of the real ones."""
    k = -(-n // batch_size)
    rows = np.arange(k * batch_size, dtype=np.int32).reshape(k, batch_size)
    return np.minimum(rows, n - 1), (rows < n).astype(np.float32)
