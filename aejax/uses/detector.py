"""Anomaly scores of a trained model, their threshold and their p-values."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from aejax.errors import InputError
from aejax.trained import Trained
from aejax.uses.neighbours import Points

TINY = 1e-12
FORMAT = 1  # of the stored arrays
FOLDS = 5
TERMS = {
    "squared_error": "‖t − r‖², summed over the example",
    "standardized": "mean over the features of (t − r)² in units of its mean over the training split",
    "code_knn": "mean Euclidean distance to the nearest training codes",
    "code_distance": "squared Euclidean distance of the code from the mean training code",
    "code_mahalanobis": "the same in units of the covariance of the training codes",
}
SCORES = ("likelihood", "standardized", "code_knn", "code_mahalanobis", "combined")
# By the kind of data, for `combined`: the terms and the weights of their logarithms.
COMBINED = {
    "table": {"standardized": 1.0, "code_knn": 2.0, "code_distance": 1.0},
    "image": {"squared_error": 1.0, "code_knn": 1.0},
}


class Settings(NamedTuple):
    """What a score is made of."""

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


class Member:
    """One model with the statistics of its training split that the terms need.

    statistics: variance [D] of the residual; mean [d] of the codes; whitening [d, d], which maps a centred code to unit
    covariance; codes [R, d] of training examples; location and scale of the score on the training split.
    """

    def __init__(self, model: Trained, statistics: Mapping[str, np.ndarray], how: Settings):
        self.model, self.statistics, self.how = model, dict(statistics), how
        self.points = Points(statistics["codes"], "euclidean")

    def pure(self, x: jax.Array) -> jax.Array:
        """Standardised score [B] of examples as the model takes them."""
        raw = self._raw(x)
        return (raw - float(self.statistics["location"])) / float(self.statistics["scale"])

    def _raw(self, x: jax.Array) -> jax.Array:
        if not self.how.terms:
            return self.model.pure_score(x)
        squares, codes = self.model.pure_errors(x)
        distance = self.points.mean_distance(codes, self.how.neighbours) if "code_knn" in self.how.terms else None
        return combine(self.how, squares, codes, distance, self.statistics)


def combine(
    how: Settings, squares: Any, codes: Any, distance: Any, statistics: Mapping[str, np.ndarray]
) -> jax.Array:
    """The score [B] from squared residuals [B, D], codes [B, d] and distances to the nearest training codes [B]."""
    total: Any = 0.0
    for name, weight in how.terms.items():
        if name == "squared_error":
            term = squares.sum(-1)
        elif name == "standardized":
            term = (squares / statistics["variance"][None]).mean(-1)
        elif name == "code_knn":
            term = distance
        else:
            centred = codes - statistics["mean"][None]
            centred = centred @ statistics["whitening"] if name == "code_mahalanobis" else centred
            term = (centred**2).sum(-1)
        total = total + (weight * jnp.log(term + TINY) if how.logarithm else term)
    return total


def fit_member(model: Trained, x: Any, how: Settings, references: int) -> tuple[Member, np.ndarray]:
    """The statistics of a model on training examples x [N, ...] as it takes them, and the scores [N] of these rows,
    each without itself among its neighbours."""
    both = model.map(lambda rows: jnp.concatenate(model.pure_errors(rows), axis=1), x)
    size = int(np.prod(model.code_shape))
    squares, codes = both[:, :-size], both[:, -size:]
    chosen = np.sort(np.random.default_rng(0).permutation(len(codes))[:references])
    variance = squares.mean(0)
    covariance = np.atleast_2d(np.cov(codes, rowvar=False))
    values, axes = np.linalg.eigh(covariance + 1e-6 * np.eye(size) * max(np.trace(covariance) / size, TINY))
    statistics = {
        "variance": np.maximum(variance, 1e-3 * max(variance.mean(), TINY)),
        "mean": codes.mean(0),
        "whitening": (axes / np.sqrt(values)).astype(np.float32),
        "codes": codes[chosen],
        "location": np.zeros(()),
        "scale": np.ones(()),
    }
    member = Member(model, statistics, how)
    if how.terms:
        own = np.full(len(codes), -1)
        own[chosen] = np.arange(len(chosen))
        k = max(min(how.neighbours, len(chosen) - 1), 1)
        distance = -member.points.search(codes, k, own).similarity.mean(1)
        scores = np.asarray(combine(how, squares, codes, distance, statistics))
    else:
        scores = model.map(model.pure_score, x)
    member.statistics |= {"location": scores.mean(), "scale": max(scores.std(), TINY)}
    return member, (scores - scores.mean()) / member.statistics["scale"]


def cross_fitted(model: Trained, x: Any, how: Settings, references: int, folds: int = FOLDS) -> np.ndarray:
    """Scores [N] of training examples by statistics of the other folds; the model itself has seen them."""
    fold = np.random.default_rng(0).permutation(x.shape[0]) % folds
    scores = np.zeros(x.shape[0])
    for i in range(folds):
        rows, held = np.flatnonzero(fold != i), np.flatnonzero(fold == i)
        member, _ = fit_member(model, x[rows], how, references)
        scores[held] = model.map(member.pure, x[held])
    return scores


@dataclasses.dataclass
class Detector:
    """Models whose standardised scores are averaged, and the scores of normal examples that none was fitted to."""

    members: Sequence[Member]
    calibration: np.ndarray  # [n], ascending
    contamination: float
    about: str  # what the calibration scores are of

    @property
    def threshold(self) -> float:
        """The 1 - contamination quantile of the calibration scores; a larger score is flagged."""
        return float(np.quantile(self.calibration, 1 - self.contamination))

    def pure(self, x: jax.Array) -> jax.Array:
        """Scores [B] of examples as the model takes them; higher is more anomalous."""
        return jnp.stack([member.pure(x) for member in self.members]).mean(0)

    def pure_explained(self, x: jax.Array) -> jax.Array:
        """[B, 1 + 2 D]: score, and the first model's reconstruction means and squared residuals."""
        model = self.members[0].model
        mean, squares = model.pure_reconstruct(x).reshape(x.shape[0], -1), model.pure_errors(x)[0]
        return jnp.concatenate([self.pure(x)[:, None], mean, squares], axis=1)

    def score(self, x: Any) -> np.ndarray:
        """Scores [N] of examples as the model takes them."""
        return self.members[0].model.map(self.pure, x)

    def p_value(self, scores: np.ndarray) -> np.ndarray:
        """(1 + number of calibration scores of at least the score) / (1 + n), a conformal p-value [N].

        That of a normal example is at most p with probability p, if it and the calibration examples are exchangeable.
        """
        above = len(self.calibration) - np.searchsorted(self.calibration, scores, side="left")
        return (1 + above) / (1 + len(self.calibration))

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything but the models, to be stored."""
        how = self.members[0].how
        about = {
            "format": FORMAT,
            "models": [member.model.fingerprint for member in self.members],
            "terms": dict(how.terms),
            "logarithm": how.logarithm,
            "neighbours": how.neighbours,
            "contamination": self.contamination,
            "about": self.about,
        }
        stored = {f"{i}/{n}": v for i, member in enumerate(self.members) for n, v in member.statistics.items()}
        return stored | {"calibration": self.calibration, "json": np.array(json.dumps(about))}


def load(path: Path, models: Sequence[Trained]) -> Detector:
    """The detector of a file, for the models that it was fitted to; raises InputError."""
    with np.load(path, allow_pickle=False) as archive:
        stored = {name: archive[name] for name in archive.files}
    about = json.loads(str(stored["json"]))
    if about["models"] != [model.fingerprint for model in models]:
        raise InputError(f"{path}: was fitted to another checkpoint of the run; run aejax.evaluate --use=anomaly again")
    how = Settings(about["terms"], about["logarithm"], about["neighbours"])
    members = [
        Member(model, {n.partition("/")[2]: v for n, v in stored.items() if n.startswith(f"{i}/")}, how)
        for i, model in enumerate(models)
    ]
    return Detector(members, stored["calibration"], about["contamination"], about["about"])
