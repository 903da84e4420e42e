"""Forecast: the squared error of the steps that the model has not seen."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from aejax.data.bags import dense
from aejax.data.spec import Spec
from aejax.errors import FieldError
from aejax.pairs.forecast import Forecast
from aejax.trained import Trained
from aejax.uses.base import Draw, Metric, Result, Skip
from aejax.uses.data import Data
from aejax.uses.neighbours import Points

METRICS = {
    "squared_error": Metric("squared error of the predicted steps, summed over an example", "", "lower"),
    "seen_squared_error": Metric("squared error of the steps that the model has seen", "", "lower"),
}
SHOWN = 2  # examples in a figure


def measure(trained: Trained, data: Data) -> Result:
    """`forecast/squared_error` of the last steps of the test examples, which the model predicts, and
    `forecast/seen_squared_error` of the others, which it reconstructs; means over the examples, in units of the model.

    Beside them `forecast/last/squared_error` of the last seen step, repeated, `forecast/mean/squared_error` of the mean
    of the training examples, and `forecast/nearest/squared_error` of what followed the nearest training example
    (Euclidean distance of the seen steps). Table: `steps`, the error of each predicted step. Figures: `forecast`,
    `steps`.
    """
    pair = trained.objective.pair
    if not isinstance(pair, Forecast):
        raise Skip("the model predicts nothing: needs pair.name = forecast")
    seen = data.spec.x.shape[0] - pair.steps
    train, test = data.train, np.asarray(data.test[np.arange(len(data.test))])
    output = trained.map(trained.pure_reconstruct, dense(test))
    target, observed = trained.target(test), ~np.isnan(test)
    known = np.nan_to_num(train)
    nearest = Points(known[:, :seen], "euclidean").search(np.nan_to_num(test[:, :seen]), 1).rows[:, 0]
    guesses = {
        "": output[:, seen:],
        "last/": np.repeat(target[:, seen - 1 : seen], pair.steps, axis=1),
        "mean/": np.broadcast_to(np.nan_to_num(np.nanmean(train, 0))[None, seen:], target[:, seen:].shape),
        "nearest/": known[nearest][:, seen:],
    }
    steps = {name: _errors(made, target[:, seen:], observed[:, seen:]) for name, made in guesses.items()}
    numbers = {f"forecast/{name}squared_error": float(errors.sum()) for name, errors in steps.items()}
    numbers["forecast/seen_squared_error"] = float(
        _errors(output[:, :seen], target[:, :seen], observed[:, :seen]).sum()
    )
    names = {"": "model", "last/": "last_step", "mean/": "mean", "nearest/": "nearest"}
    table = {"step": list(range(1, pair.steps + 1))} | {names[name]: e.tolist() for name, e in steps.items()}

    def shown() -> Any:
        from aejax.uses.forecast import plots

        return plots.examples(data.spec.x, target[:SHOWN], output[:SHOWN], seen)

    def curves() -> Any:
        from aejax.uses.forecast import plots

        return plots.steps(table)

    figures: dict[str, Draw] = {"forecast": shown, "steps": curves}
    return Result(numbers, {"steps": table}, figures)


def _errors(made: np.ndarray, target: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """The squared error of each step [S], summed over its values, mean over the examples."""
    squares = np.where(observed, (made - target) ** 2, 0).astype(np.float64)
    return squares.sum(axis=tuple(range(2, squares.ndim))).mean(0)


def check(config: Any, spec: Spec) -> Iterator[FieldError]:
    """Errors of a config whose use `forecast` runs at the end."""
    if "forecast" in config.uses.run and config.pair.name != "forecast":
        yield FieldError("uses.run", "forecast", "needs pair.name = 'forecast'")
