"""Moments of the columns of a table, or of the channels of series, from blocks of rows."""

from typing import Any

import numpy as np

from aejax.data.spec import Field


class Columns:
    """Mean, sum of squared deviations, min and max of each column, updated one block of rows at a time.

    Chan, Golub & LeVeque (1983).
    """

    def __init__(self) -> None:
        self.n: Any = 0
        self.mean, self.squares = np.zeros(1), np.zeros(1)
        self.low, self.high = np.full(1, np.inf), np.full(1, -np.inf)

    def add(self, x: np.ndarray) -> None:
        n: Any = len(x)
        if np.isnan(x.sum(axis=0)).any():  # masked cells are ignored
            empty = np.isnan(x)
            n = np.maximum((~empty).sum(axis=0), 1e-300)
            mean = np.where(empty, 0, x).sum(axis=0) / n
            x = np.where(empty, mean[None], x)
        else:
            mean = x.mean(axis=0)
        apart = mean - self.mean
        self.squares = self.squares + ((x - mean) ** 2).sum(axis=0) + apart**2 * (self.n * n / (self.n + n))
        self.mean = self.mean + apart * (n / (self.n + n))
        self.low, self.high = np.minimum(self.low, x.min(axis=0)), np.maximum(self.high, x.max(axis=0))
        self.n = self.n + n

    def moments(self, field: Field) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the columns; 0 and 1 for one-hot and indicator columns."""
        spread = np.sqrt(self.squares / self.n)
        # A column is constant if its spread is only rounding error.
        constant = spread <= 1e-12 * np.maximum(np.abs([self.low, self.high]).max(axis=0), 1e-300)
        mean, deviation = self.mean.copy(), np.where(constant, 1.0, spread)
        slices = [*field.groups, (field.shape[0] - len(field.indicators), field.shape[0])]
        for start, end in slices:
            mean[start:end], deviation[start:end] = 0.0, 1.0
        return mean, deviation
