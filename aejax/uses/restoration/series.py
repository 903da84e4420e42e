"""Restoration of series: hidden spans are filled in by the model and by simple methods."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from aejax.pairs import Pair
from aejax.trained import Trained
from aejax.uses.base import Draw, Result, Skip
from aejax.uses.data import Data
from aejax.uses.restoration.trials import MODEL, TEST, VALUES, damage

SHOWN = 6  # series in a figure


def measure(trained: Trained, data: Data, rows: np.ndarray, levels: Sequence[float]) -> Result:
    """Hide spans of the test series `rows` as in training, and with each share `levels` of the steps hidden.

    `restoration/hidden_error` is the mean of (x − r)² over the hidden values that were observed, in units of the
    model's series: of a standardised channel, its training variance. The same under `restoration/linear/` and
    `restoration/mean/`. `restoration/ratio` is that of the better one, divided by the model's.
    """
    pair: Any = trained.objective.pair
    errors = {level: _errors(trained, dataclasses.replace(pair, level=level), data, rows) for level in levels}
    own = errors[pair.level]
    if math.isnan(own[MODEL]):
        raise Skip(f"pair.inpaint.level = {pair.level:g} hides no step of the test series")
    best = min(SIMPLE, key=lambda name: own[name])
    numbers = {f"restoration/{name}/hidden_error".replace("//", "/"): value for name, value in own.items()}
    names = {name: f"{name}_hidden_error".strip("_") for name in own}
    table = {names[name]: [found[name] for found in errors.values()] for name in own}
    figures: dict[str, Draw] = {"restoration_series": lambda: _rows(trained, data, rows[:SHOWN], best)}
    note = f"{len(rows):,} of {data.spec.test:,} test series; the better simple method is {best}"
    return Result(
        numbers | {"restoration/ratio": own[best] / own[MODEL]},
        {"levels": {"level": list(errors), **table}},
        figures,
        [note],
    )


def linear(x: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """The line between the visible values of series [N, T, C] before and after; beyond the ends, the nearest value.

    A channel without a visible value is 0. hidden: [N, T, 1].
    """
    made, steps = np.zeros_like(x), np.arange(x.shape[1])
    for series, mask, out in zip(x, hidden[..., 0] == 1, made, strict=True):
        for channel in range(x.shape[2]):
            seen = ~mask & ~np.isnan(series[:, channel])
            if seen.any():
                out[:, channel] = np.interp(steps, steps[seen], series[seen, channel])
    return made


def mean(x: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """0, the training mean of a standardised channel."""
    return np.zeros_like(x)


SIMPLE: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {"linear": linear, "mean": mean}


def _filled(trained: Trained, x: np.ndarray, hidden: np.ndarray) -> dict[str, np.ndarray]:
    """The series x by each method; "" is the model."""
    model = trained.map(trained.pure_restore, np.concatenate([x, hidden], -1))
    return {MODEL: model, **{name: fill(x, hidden) for name, fill in SIMPLE.items()}}


def _errors(trained: Trained, pair: Pair, data: Data, rows: np.ndarray) -> dict[str, float]:
    """The mean squared error of hidden values by method, NaN if nothing is hidden."""
    sums, count = dict.fromkeys((MODEL, *SIMPLE), 0.0), 0
    size = max(VALUES // int(np.prod(data.spec.x.shape)), 1)
    for begin in range(0, len(rows), size):
        some = rows[begin : begin + size]
        x = np.asarray(data.test[some])
        hidden = damage(trained, pair, x, some, TEST)[1]
        counted = (hidden == 1) & ~np.isnan(x)
        count += int(counted.sum())
        for name, values in _filled(trained, x, hidden).items():
            sums[name] += float(((values - x)[counted] ** 2).sum(dtype=np.float64))
    return {name: total / count if count else math.nan for name, total in sums.items()}


def _rows(trained: Trained, data: Data, rows: np.ndarray, best: str) -> Any:
    from aejax.plots import series_rows

    x = np.asarray(data.test[rows])
    hidden = damage(trained, trained.objective.pair, x, rows, TEST)[1]
    made = _filled(trained, x, hidden)
    return series_rows(x, {name or "restored": np.where(hidden == 1, made[name], np.nan) for name in (best, MODEL)})
