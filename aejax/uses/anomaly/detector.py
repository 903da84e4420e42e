"""Anomaly scores of a trained model, their threshold and their p-values."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from aejax.data.spec import Field
from aejax.errors import InputError
from aejax.trained import Trained, in_batches
from aejax.uses.anomaly.reasons import Reasons
from aejax.uses.neighbours import Points, mean_distance
from aejax.uses.stored import pack, read

TINY = 1e-12
FLOOR = 1e-3  # smallest variance of a column's residual, as a share of their mean
FLAT = 1e-2  # the same of an indicator of a category, as a share of the variance of the indicator
RIDGE = 1e-3  # added to each variance of the codes before whitening, as a share of their mean
STORED = "detector"  # name of the arrays that the use `anomaly` stores
FORMAT = 1  # of the stored arrays
FOLDS = 5
NONE = np.zeros(0)
STATISTICS = ("variance", "mean", "whitening", "points", "origin", "location", "scale")
TERMS = {
    "squared_error": "‖t − r‖², summed over the example",
    "standardized": "mean over the features of (t − r)² in units of its mean over the training split",
    "code_knn": "mean Euclidean distance to the nearest training codes",
    "code_distance": "squared Euclidean distance of the code from the mean training code",
    "code_mahalanobis": "the same in units of the covariance of the training codes",
}
SCORES = ("likelihood", "standardized", "code_knn", "code_mahalanobis", "combined")
# By the kind of data, for `combined`: the terms and the weights of their logarithms. A third term, the distance of the
# code from its mean, is better on data with one cluster and much worse on data with several.
COMBINED = {
    "table": {"standardized": 1.0, "code_knn": 4.0},
    "image": {"squared_error": 1.0, "code_knn": 4.0},
}


class Settings(NamedTuple):
    """The terms of a score."""

    terms: Mapping[str, float]  # weights of the logarithms; {} = the likelihood itself
    logarithm: bool
    neighbours: int  # training codes of which `code_knn` is the mean distance


def settings(score: str, terms: Sequence[str], weights: Sequence[float], k: int, kind: str) -> Settings:
    """The settings of a score on a kind of data; raises InputError.

    likelihood: `Trained.score`. combined: Σ weight · log(term) over `terms`, by default those of COMBINED. Any other
    score is one term as it is.
    """
    if score == "likelihood":
        return Settings({}, False, k)
    if score != "combined":
        return Settings({score: 1.0}, False, k)
    if len(terms) != len(weights):
        raise InputError(f"uses.anomaly.weights: {len(weights)} of them must be one for each of the {len(terms)} terms")
    chosen = dict(zip(terms, weights, strict=True)) or COMBINED.get(kind, COMBINED["table"])
    return Settings(chosen, True, k)


Statistics = dict[str, np.ndarray]


class Detector:
    """Anomaly scores: the mean over members of a standardised score.

    A member is a model with the statistics of its training rows: variance [D] of the residual; mean [d] and whitening
    [d, d] of the codes; origin and points of the codes among which neighbours are sought; location and scale of the
    score. The members' models have one experiment and differ in their parameters. All arrays have a leading axis of
    members. calibration [n]: ascending scores of normal examples that nothing was fitted to; about: which these are.
    """

    def __init__(
        self,
        models: Sequence[Trained],
        statistics: Statistics,
        how: Settings,
        *,
        calibration: np.ndarray = NONE,
        contamination: float = 0.05,
        about: str = "",
    ):
        self.model, self.models, self.how = models[0], models, how
        self.statistics = statistics
        self.calibrate(calibration, contamination)
        self.about = about
        stacked = [(model.params, model.variables) for model in models]
        self._arrays = (
            jax.tree.map(lambda *leaves: jnp.stack(leaves), *stacked),
            jax.tree.map(jnp.asarray, statistics),
        )
        self._scores = jax.jit(lambda arrays, x: self._members(arrays, x)[0])

    def __getstate__(self) -> dict[str, Any]:
        """Without compiled functions, which cannot be pickled."""
        names = ("models", "statistics", "how", "calibration", "contamination", "about")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def calibrate(self, scores: np.ndarray, contamination: float) -> None:
        """Set the threshold by scores [n] of normal examples that nothing was fitted to."""
        self.calibration, self.contamination = np.sort(scores), contamination

    @property
    def threshold(self) -> float:
        """The ⌈(n + 1)(1 - contamination)⌉-th smallest of n calibration scores, or the largest if n is smaller.

        A larger score is flagged: its p-value is at most `contamination`, where n allows one.
        """
        n = len(self.calibration)
        rank = min(n, math.ceil((n + 1) * (1 - self.contamination) - 1e-9))  # the product may be off by rounding
        return float(self.calibration[rank - 1])

    def score(self, x: Any) -> np.ndarray:
        """Scores [N] of examples as the model takes them; higher is more anomalous."""
        return self.scores(x).mean(1)

    def scores(self, x: Any) -> np.ndarray:
        """The score of each member [N, members]."""
        return in_batches(lambda rows: self._scores(self._arrays, rows).T, x)

    def pure(self, x: jax.Array) -> jax.Array:
        """`score` as a pure function of a batch, for export."""
        return self._members(self._arrays, x)[0].mean(0)

    def _members(self, arrays: Any, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Of each member: scores [members, B], reconstruction means and squared residuals [members, B, D]."""

        def member(arrays: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
            (params, variables), own = arrays
            model, distance = self.model.on(params, variables), None
            mean, squares, codes = model.pure_errors(x)
            if "code_knn" in self.how.terms:
                distance = mean_distance(codes, own["points"], own["origin"], self.how.neighbours)
            raw = combine(self.how, squares, codes, distance, own) if self.how.terms else model.pure_score(x)
            return (raw - own["location"]) / own["scale"], mean, squares

        scores, means, squares = jax.vmap(member)(arrays)
        return scores, means, squares

    def explainer(self, say: Reasons) -> Callable[[Any], tuple[np.ndarray, Any]]:
        """function(x) -> scores [N] and texts [N] of examples as the model takes them; texts are by the first model."""

        def both(arrays: Any, x: jax.Array) -> jax.Array:
            scores, means, squares = self._members(arrays, x)
            return jnp.concatenate([scores.mean(0)[:, None], say.pure(x, means[0], squares[0])], axis=1)

        compiled = jax.jit(both)

        def explain(x: Any) -> tuple[np.ndarray, Any]:
            found = in_batches(lambda rows: compiled(self._arrays, rows), x)
            return found[:, 0], say.texts(found[:, 1:])

        return explain

    def p_value(self, scores: np.ndarray) -> np.ndarray:
        """(1 + number of calibration scores of at least the score) / (1 + n), a conformal p-value [N].

        That of a normal example is at most p with probability p, if it and the calibration examples are exchangeable.
        """
        above = len(self.calibration) - np.searchsorted(self.calibration, scores, side="left")
        return (1 + above) / (1 + len(self.calibration))

    def stored(self) -> Statistics:
        """Everything but the models, as arrays for a file."""
        about = {
            "format": FORMAT,
            "terms": dict(self.how.terms),
            "logarithm": self.how.logarithm,
            "neighbours": self.how.neighbours,
            "contamination": self.contamination,
            "about": self.about,
        }
        return pack(self.statistics | {"calibration": self.calibration}, self.models, about)


def load(path: Path, models: Sequence[Trained]) -> tuple[Detector, Statistics]:
    """The detector of a file, for the models that it was fitted to, and all arrays of the file; raises InputError."""
    stored, about = read(path, models, "anomaly")
    how = Settings(about["terms"], about["logarithm"], about["neighbours"])
    statistics = {name: stored[name] for name in STATISTICS if name in stored}
    rest = {name: about[name] for name in ("contamination", "about")}
    return Detector(models, statistics, how, calibration=stored["calibration"], **rest), stored


def fit(models: Sequence[Trained], x: Any, rows: Sequence[np.ndarray], how: Settings, references: int) -> Detector:
    """The detector of models, the m-th of which is fitted to the rows `rows[m]` of examples x [N, ...].

    Location and scale are those of the scores of these rows, each without itself among its neighbours. At most
    `references` rows are searched for neighbours. There is no calibration yet.
    """
    both = in_batches(jax.jit(_all_errors(models)), x)  # [N, members, D + d]
    size = int(np.prod(models[0].code_shape))
    members = []
    for m, own in enumerate(rows):
        squares, codes = both[own, m, :-size], both[own, m, -size:]
        chosen = np.sort(np.random.default_rng(0).permutation(len(own))[:references])
        statistics = _of_codes(codes) | {"variance": _floored(squares.mean(0), models[0].spec.x, x)}
        distance = None
        if "code_knn" in how.terms:
            points = Points(codes[chosen], "euclidean")
            itself = np.full(len(own), -1)
            itself[chosen] = np.arange(len(chosen))
            k = max(min(how.neighbours, len(chosen) - 1), 1)
            distance = -points.search(codes, k, itself).similarity.mean(1)
            statistics |= {"points": np.asarray(points.points), "origin": points.origin}
        if how.terms:
            scores = np.asarray(combine(how, squares, codes, distance, statistics))
        else:
            scores = models[m].map(models[m].pure_score, x[own])
        members.append(statistics | {"location": scores.mean(), "scale": max(scores.std(), TINY)})
    stacked = {name: np.stack([np.asarray(member[name], np.float32) for member in members]) for name in members[0]}
    return Detector(models, stacked, how)


def cross_fitted(models: Sequence[Trained], x: Any, fold: np.ndarray, how: Settings, references: int) -> np.ndarray:
    """Scores [N] of examples, that of row i by the model and the statistics of member fold[i], which is fitted to the
    rows of the other folds. Given one model for all folds, only the statistics are held out."""
    count = int(fold.max()) + 1
    made = fit(
        list(models) * (count // len(models)), x, [np.flatnonzero(fold != m) for m in range(count)], how, references
    )
    return np.take_along_axis(made.scores(x), fold[:, None], axis=1)[:, 0]


def blocks(n: int, count: int = FOLDS) -> np.ndarray:
    """Fold [n] of each row: contiguous blocks, for rows in the order of time.

    Neighbouring rows are then alike, and random folds would tell how well rows are known that were almost seen.
    """
    return np.arange(n) * count // n


def _all_errors(models: Sequence[Trained]) -> Any:
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[(model.params, model.variables) for model in models])

    def errors(x: jax.Array) -> jax.Array:  # [B, members, D + d]
        return jax.vmap(lambda arrays: jnp.concatenate(models[0].on(*arrays).pure_errors(x)[1:], axis=1), out_axes=1)(
            stacked
        )

    return errors


def _of_codes(codes: np.ndarray) -> Statistics:
    size = codes.shape[1]
    covariance = np.atleast_2d(np.cov(codes, rowvar=False))
    values, axes = np.linalg.eigh(covariance + RIDGE * np.eye(size) * max(np.trace(covariance) / size, TINY))
    return {"mean": codes.mean(0), "whitening": axes / np.sqrt(values)[None]}


def _floored(variance: np.ndarray, field: Field, x: Any) -> np.ndarray:
    """A column that is reconstructed exactly must not outweigh all others; the indicators of a category often are."""
    least = np.full(len(variance), FLOOR * max(variance.mean(), TINY))
    for start, end in field.groups:
        least[start:end] = np.maximum(least[start:end], FLAT * np.nanvar(x[:, start:end], axis=0))
    return np.maximum(variance, least)


def combine(how: Settings, squares: Any, codes: Any, distance: Any, statistics: Mapping[str, Any]) -> Any:
    """The score [B] from squared residuals [B, D], codes [B, d] and distances to the nearest training codes [B]."""
    total: Any = 0.0
    for name, weight in how.terms.items():
        if name == "squared_error":
            term = squares.sum(-1)
        elif name == "standardized":
            term = (squares / statistics["variance"][None]).mean(-1)
        elif name == "code_knn":
            term = distance
        elif name == "code_mahalanobis":
            term = (((codes - statistics["mean"][None]) @ statistics["whitening"]) ** 2).sum(-1)
        else:
            term = ((codes - statistics["mean"][None]) ** 2).sum(-1)
        total = total + (weight * jnp.log(term + TINY) if how.logarithm else term)
    return total
