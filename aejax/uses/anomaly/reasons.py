"""The columns that make a row of a table anomalous, in words."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
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
        starts = [start for _, start, _ in self.columns]
        self._scale, self._shift = np.ones(len(starts)), np.zeros(len(starts))
        if field.mean:
            self._scale, self._shift = (np.asarray(v)[starts] for v in (field.deviation, field.mean))
        self._before = np.array([f"{name} " for name, _, _ in self.columns], dtype=object)
        usual = [
            f"usual {_one(low[start])} to {_one(high[start])}"
            if i not in self.categories
            else f"usual {', '.join(v for v, h in zip(self.categories[i], high[start:end], strict=True) if h > 0.5)}"
            for i, (_, start, end) in enumerate(self.columns)
        ]
        self._after = np.array([f", {text})" for text in usual], dtype=object)

    def pure(self, x: jax.Array, mean: jax.Array, squares: jax.Array) -> jax.Array:
        """The columns that contribute most, [B, 3 k] for k of them: numbers, values in x, values in mean.

        x, mean and squared residuals [B, D] are those of the model; the value of a category is its index. A category
        contributes nothing if it is the expected one; where no column is left its number is that of the columns.
        """
        shares = self._of_columns(squares / self.variance[None], jnp.sum)
        if self.categories:
            given, expected = (self._of_columns(rows, jnp.argmax) for rows in (x, mean))
            usual = np.array([i in self.categories for i in range(len(self.columns))])[None] & (given == expected)
            shares = jnp.where(usual, 0, shares)
        picks = []
        places = jnp.arange(len(self.columns))[None]
        for _ in range(min(MOST, len(self.columns))):  # two plain reductions are quicker than an argmax or a sort
            largest = (shares == shares.max(1, keepdims=True)) & (shares > 0)
            picks.append(jnp.where(largest, places, len(self.columns)).min(1))
            shares = jnp.where(places == picks[-1][:, None], -1, shares)
        chosen = jnp.stack(picks, axis=1)
        known = jnp.minimum(chosen, len(self.columns) - 1)
        values = [jnp.take_along_axis(self._of_columns(rows, jnp.argmax), known, axis=1) for rows in (x, mean)]
        return jnp.concatenate([chosen.astype(x.dtype), *values], axis=1)

    def _of_columns(self, rows: jax.Array, of_group: Any) -> jax.Array:
        """[B, D] -> [B, columns]; of_group reduces the indicators of a one-hot column."""
        if not self.categories:
            return rows
        starts = np.array([start for _, start, _ in self.columns])
        plain = rows[:, starts]
        for i in self.categories:
            _, start, end = self.columns[i]
            plain = plain.at[:, i].set(of_group(rows[:, start:end], axis=1).astype(rows.dtype))
        return plain

    def texts(self, found: np.ndarray) -> Any:
        """The texts [N] of what `pure` gives."""
        import pyarrow as pa
        from pyarrow import compute

        chosen, values, expected = np.split(found, 3, axis=1)
        before, after, texts = pa.array(self._before), pa.array(self._after), list[Any]()
        for number, value, other in zip(chosen.T.astype(np.int64), values.T, expected.T, strict=True):
            named = number < len(self.columns)
            column = np.where(named, number, 0)
            parts = (before.take(column), self._shown(value, column), " (expected ", self._shown(other, column))
            text = compute.binary_join_element_wise("; " if texts else "", *parts, after.take(column), "")
            texts.append(text if named.all() else compute.if_else(pa.array(named), text, ""))
        return compute.binary_join_element_wise(*texts, "")

    def _shown(self, values: np.ndarray, column: np.ndarray) -> Any:
        """Values [N] of the columns [N] as text, in the units of the table."""
        import pyarrow as pa
        from pyarrow import compute

        values = values.astype(np.float64)
        raw = values * self._scale[column] + self._shift[column]
        text = compute.cast(pa.array(_rounded(raw)), pa.string())
        empty = np.isnan(values)
        if empty.any():
            text = compute.if_else(pa.array(empty), "empty", text)
        for i, names in self.categories.items():
            category = pa.array(np.array(names, dtype=object)).take(np.where(column == i, values, 0).astype(np.int64))
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
