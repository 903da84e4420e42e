"""The columns that make a row of a table anomalous, in words."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from aejax.data.spec import Field

MOST = 3  # columns that are named
DIGITS = 4  # of a number


class Reasons:
    """Says for a row which of its columns contribute most to Σ_j (t_j − r_j)² / variance_j.

    Columns are those of the input: the indicators of a one-hot column count together. low, high [D]: the 5th and 95th
    percentile of the training split for each of the model's columns, in the units of the table.
    """

    def __init__(self, field: Field, variance: np.ndarray, low: np.ndarray, high: np.ndarray):
        self.field, self.variance = field, variance
        groups = dict(field.groups)
        names = field.outputs or tuple(f"column {j}" for j in range(len(variance)))
        self.columns: list[tuple[str, int, int]] = []  # name, and range of the model's columns
        j = 0
        while j < len(variance):
            end = groups.get(j, j + 1)
            self.columns.append((names[j].split("=")[0] if j in groups else names[j], j, end))
            j = end
        self.categories: dict[int, Sequence[str]] = {
            i: field.categories[name] for i, (name, start, _) in enumerate(self.columns) if start in groups
        }
        self._before = np.array([f"{name} " for name, _, _ in self.columns], dtype=object)
        usual = [
            f"usual {_one(low[start])} to {_one(high[start])}"
            if i not in self.categories
            else f"usual {', '.join(v for v, h in zip(self.categories[i], high[start:end], strict=True) if h > 0.5)}"
            for i, (_, start, end) in enumerate(self.columns)
        ]
        self._after = np.array([f", {text})" for text in usual], dtype=object)

    def __call__(self, x: np.ndarray, r: np.ndarray, squares: np.ndarray) -> Any:
        """Texts [N] for rows x and reconstructions r [N, D] in the units of the table, and squared residuals [N, D]."""
        import pyarrow as pa
        from pyarrow import compute

        shares = squares / self.variance[None]
        if self.categories:
            shares = np.stack([shares[:, start:end].sum(1) for _, start, end in self.columns], axis=1)
        most = min(MOST, shares.shape[1])
        largest = np.argpartition(-shares, most - 1, axis=1)[:, :most] if most < shares.shape[1] else None
        if largest is None:
            largest = np.tile(np.arange(most), (len(shares), 1))
        order = np.argsort(-np.take_along_axis(shares, largest, axis=1), axis=1)
        largest = np.take_along_axis(largest, order, axis=1)
        before, after, texts = pa.array(self._before), pa.array(self._after), []
        for column in largest.T:
            value, expected = self._shown(x, column), self._shown(r, column)
            parts = (before.take(column), value, " (expected ", expected, after.take(column))
            texts.append(compute.binary_join_element_wise(*parts, ""))
        return compute.binary_join_element_wise(*texts, "; ")

    def _shown(self, x: np.ndarray, column: np.ndarray) -> Any:
        """The values of each row in its own column, as text."""
        import pyarrow as pa
        from pyarrow import compute

        starts = np.array([start for _, start, _ in self.columns])
        values = x[np.arange(len(x)), starts[column]].astype(np.float64)
        text = compute.cast(pa.array(_rounded(values)), pa.string())
        empty = np.isnan(values)
        if empty.any():
            text = compute.if_else(pa.array(empty), "empty", text)
        for i, names in self.categories.items():
            _, start, end = self.columns[i]
            category = pa.array(np.array(names, dtype=object)).take(x[:, start:end].argmax(1))
            text = compute.if_else(pa.array(column == i), category, text)
        return text


def ranges(field: Field, x: Any) -> Mapping[str, np.ndarray]:
    """low, high [D]: 5th and 95th percentile of standardised training rows x [N, D], in the units of the table; of an
    indicator of a category both are its share."""
    low, high = (field.unscale(q) for q in np.nanpercentile(np.asarray(x, np.float64), (5, 95), axis=0))
    shares = field.unscale(np.nanmean(x, axis=0))
    for start, end in field.groups:
        common = shares[start:end] >= min(0.1, shares[start:end].max())  # what is usual: a tenth of the rows
        low[start:end], high[start:end] = shares[start:end], common
    return {"low": low, "high": high}


def _rounded(values: np.ndarray) -> np.ndarray:
    """To DIGITS significant digits."""
    with np.errstate(divide="ignore", invalid="ignore"):
        magnitude = np.floor(np.log10(np.abs(values)))
    places = np.where(np.isfinite(magnitude), DIGITS - 1 - magnitude, 0)
    scale = 10.0 ** np.abs(places)
    return np.where(places >= 0, np.round(values * scale) / scale, np.round(values / scale) * scale)


def _one(value: float) -> str:
    return f"{_rounded(np.array([value]))[0]:.10g}"
