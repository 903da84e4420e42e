"""Windows of series: their length, where they start, and the average of their scores at each step."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from aejax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Series:
    """One series."""

    name: str  # "" = the only one
    value: np.ndarray  # float64 [T, channels], NaN = not observed
    time: Sequence[Any]  # [T]: times as they are written, or step numbers
    label: np.ndarray | None = None  # int8 [T]: 1 = anomaly

    def __len__(self) -> int:
        return len(self.value)


@dataclasses.dataclass(frozen=True)
class Part:
    """The windows of a part of each series, such as its training part, in the order of the rows of a split."""

    series: tuple[Series, ...]
    begin: tuple[int, ...]  # of the part of each series
    end: tuple[int, ...]
    starts: tuple[np.ndarray, ...]  # of the windows, from the beginning of the series
    width: int

    def __len__(self) -> int:
        return sum(map(len, self.starts))

    def cut(self, *, centred: bool) -> np.ndarray:
        """The windows, float64 [windows, width, channels]. centred: each without its mean, by channel."""
        return np.concatenate(
            [
                cut(one.value, starts, self.width, centred=centred)
                for one, starts in zip(self.series, self.starts, strict=True)
            ]
        )

    def split(self, values: np.ndarray) -> Iterator[tuple[Series, int, int, np.ndarray, np.ndarray]]:
        """(series, begin, end, starts, values of its windows) of each series; values [windows, ...]."""
        ends = np.cumsum([len(starts) for starts in self.starts])[:-1]
        own = np.split(values, ends)
        yield from zip(self.series, self.begin, self.end, self.starts, own, strict=True)

    def at_steps(self, values: np.ndarray) -> np.ndarray:
        """Values of windows [windows, ...] -> of all steps of the part, one series after the other: see `at_steps`."""
        parts = [
            at_steps(own, starts - begin, self.width, end - begin) for _, begin, end, starts, own in self.split(values)
        ]
        return np.concatenate(parts)

    def label(self) -> np.ndarray | None:
        """The labels of the steps of the part, as `at_steps` orders them; None if a series has none."""
        parts = [one.label[a:b] for one, a, b in self.each() if one.label is not None]
        return np.concatenate(parts) if len(parts) == len(self.series) else None

    def each_alone(self) -> list["Part"]:
        """A part for each series."""
        rest = zip(self.series, self.begin, self.end, self.starts, strict=True)
        return [Part((one,), (a,), (b,), (starts,), self.width) for one, a, b, starts in rest]

    def each(self) -> Iterator[tuple[Series, int, int]]:
        """(series, begin, end) of each series."""
        yield from zip(self.series, self.begin, self.end, strict=True)


def part(series: Sequence[Series], begin: Sequence[int], end: Sequence[int], width: int, stride: int) -> Part:
    """The windows of the steps begin..end of each series. Raises InputError if a window is longer than a part."""
    own = []
    for one, a, b in zip(series, begin, end, strict=True):
        if b - a < width:
            name = f" of series {one.name}" if one.name else ""
            raise InputError(f"a window of {width} steps is longer than steps {a} to {b}{name}")
        own.append(a + starts(b - a, width, stride))
    return Part(tuple(series), tuple(begin), tuple(end), tuple(own), width)


def starts(steps: int, width: int, stride: int) -> np.ndarray:
    """The starts of windows in `steps` steps: 0, stride, ... and the one that ends at the end. stride <= width."""
    last = steps - width
    return np.unique(np.append(np.arange(0, last + 1, stride), last))


def cut(value: np.ndarray, starts: np.ndarray, width: int, *, centred: bool = False) -> np.ndarray:
    """Windows [windows, width, channels] of values [T, channels]; centred: each without its mean, by channel."""
    view = np.lib.stride_tricks.sliding_window_view(value, width, axis=0)  # [T - width + 1, channels, width]
    windows = view[starts].swapaxes(1, 2)
    if not centred:
        return windows
    seen = ~np.isnan(windows)
    mean = np.where(seen, windows, 0).sum(1, keepdims=True) / np.maximum(seen.sum(1, keepdims=True), 1)
    return windows - mean


def at_steps(values: np.ndarray, starts: np.ndarray, width: int, steps: int) -> np.ndarray:
    """The mean [steps, ...] over the windows that cover a step of their values [windows, ...]."""
    total = np.zeros((steps + 1, *values.shape[1:]))
    count = np.zeros(steps + 1)
    for array, change in ((total, values), (count, np.ones(len(starts)))):  # each window adds from start to end
        np.add.at(array, starts, change)
        np.subtract.at(array, starts + width, change)
    shape = (-1,) + (1,) * (values.ndim - 1)
    return np.cumsum(total, axis=0)[:-1] / np.cumsum(count)[:-1].reshape(shape)


def period(value: np.ndarray) -> int:
    """The lag of the first peak of the autocorrelation of values [T, channels], averaged over the channels; 0 if none.

    After the autocorrelation has first fallen below 0, the peak is the largest value of the first run of positive
    values that exceeds 2 / sqrt(T), which white noise seldom does. Lags go up to T / 2. A value that was not observed
    counts as the mean.
    """
    steps = len(value)
    centred = np.nan_to_num(value - np.nanmean(value, axis=0, keepdims=True))
    spectrum = np.abs(np.fft.rfft(centred, 2 * steps, axis=0)) ** 2
    covariance = np.fft.irfft(spectrum, axis=0)[: steps // 2 + 1]
    known = covariance[0] > 1e-12 * np.maximum((np.nan_to_num(value) ** 2).sum(0), 1e-300)
    if not known.any():
        return 0
    correlation = (covariance[:, known] / covariance[0, known]).mean(1)
    below = np.flatnonzero(correlation < 0)
    lag = int(below[0]) if len(below) else len(correlation)
    while lag < len(correlation):
        above = np.flatnonzero(correlation[lag:] > 0)
        if not len(above):
            return 0
        begin = lag + int(above[0])
        under = np.flatnonzero(correlation[begin:] <= 0)
        lag = begin + int(under[0]) if len(under) else len(correlation)
        peak = begin + int(np.argmax(correlation[begin:lag]))
        if correlation[peak] > 2 / np.sqrt(steps) and peak < len(correlation) - 1:
            return peak
    return 0
