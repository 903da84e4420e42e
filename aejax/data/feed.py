"""The order of the examples, and how they reach the device."""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

AHEAD = 2**24  # bytes that are read ahead
THREADS = 8


def order(seed: int, epoch: int, n: int) -> np.ndarray:
    """The order of n examples in an epoch, int32 [n]: a function of its arguments alone."""
    return np.random.default_rng((seed, epoch)).permutation(n).astype(np.int32)


class Feed:
    """Rows of the training split for any range of steps; the last incomplete batch is dropped."""

    def __init__(self, seed: int, n: int, batch_size: int):
        self.seed, self.n, self.batch_size = seed, n, batch_size
        self.steps_per_epoch = n // batch_size
        self._order = functools.lru_cache(2)(lambda epoch: order(seed, epoch, n))  # called from threads

    def rows(self, begin: int, end: int) -> np.ndarray:
        """Indices of the examples of steps begin..end-1, int32 [end - begin, batch_size]."""
        rows = np.empty((end - begin, self.batch_size), np.int32)
        for step in range(begin, end):
            epoch, position = divmod(step, self.steps_per_epoch)
            rows[step - begin] = self._order(epoch)[position * self.batch_size :][: self.batch_size]
        return rows


class Stream:
    """Batches of a split that is read while training, in the order of `feed`; Grain reads ahead.

    held: the rows of a batch that this process reads; size: their bytes. A read error is raised when its batch is
    requested.
    """

    def __init__(self, feed: Feed, split: Mapping[str, Any], held: np.ndarray):
        self.feed, self.split, self.held = feed, split, held
        self.size = len(held) * sum(values.nbytes // len(values) for values in split.values())
        self._next = -1
        self._batches: Iterator[dict[str, np.ndarray]] = iter(())

    def batches(self, begin: int, end: int) -> list[dict[str, np.ndarray]]:
        """The examples of steps begin..end-1, flat [held, D], and their labels."""
        if begin != self._next:
            self._batches = self._from(begin)
        self._next = end
        return [next(self._batches) for _ in range(begin, end)]

    def _from(self, begin: int) -> Iterator[dict[str, np.ndarray]]:
        import grain  # here, since resident data do not need it

        ahead = max(min(AHEAD // self.size, 64), 2)
        steps = grain.MapDataset.range(begin, np.iinfo(np.int64).max).map(self._read)
        return iter(
            steps.to_iter_dataset(grain.ReadOptions(num_threads=min(THREADS, ahead), prefetch_buffer_size=ahead))
        )

    def _read(self, step: int) -> dict[str, np.ndarray]:
        rows = self.feed.rows(step, step + 1)[0][self.held]
        read = {name: np.asarray(values[rows]) for name, values in self.split.items()}
        return read | {"x": read["x"].reshape(len(rows), -1)}


def intervals(begin: int, end: int, period: int, most: int) -> Iterator[tuple[int, int]]:
    """Cut steps begin..end-1 at every multiple of `period`, and each period into equal parts of at most `most` steps.

    The cuts do not depend on `begin`, so a resumed run has the cuts of an uninterrupted one.
    """
    length = interval_length(period, most)
    while begin < end:
        start = begin // period * period
        stop = start + ((begin - start) // length + 1) * length
        stop = min(stop, start + period, end)
        yield begin, stop
        begin = stop


def period(steps: int, steps_per_epoch: int, eval_epochs: int) -> int:
    """Steps between evaluations; `eval_epochs` = 0 gives about 50 evaluations in a run of `steps`."""
    epochs = -(-steps // steps_per_epoch)
    return (eval_epochs or max(-(-epochs // 50), 1)) * steps_per_epoch


def interval_length(period: int, most: int) -> int:
    """Steps of the longest interval."""
    return -(-period // -(-period // most))


def batches(n: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows int32 [k, batch_size] that cover n examples in order, and their mask [k, batch_size], 0 for padding."""
    k = -(-n // batch_size)
    rows = np.arange(k * batch_size, dtype=np.int32).reshape(k, batch_size)
    return np.minimum(rows, n - 1), (rows < n).astype(np.float32)
