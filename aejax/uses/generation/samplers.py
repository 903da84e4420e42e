"""Densities of codes, fitted to the codes of training examples, from which new codes are drawn."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from aejax.errors import InputError
from aejax.trained import Trained
from aejax.uses.clustering.partitions import Settings as Clustering
from aejax.uses.clustering.partitions import fit as cluster
from aejax.uses.generation.flow import BATCH, carry, train
from aejax.uses.stored import Arrays, pack, read

NAMES = ("prior", "gaussian", "gmm", "kde", "flow")
STORED = "samplers"  # name of the arrays that the use `generation` stores
FORMAT = 2  # of the stored arrays
ALL = "all"  # the density of all codes; that of `flow` has the label as an input
BANDWIDTHS = np.geomspace(0.02, 1, 18)  # of `kde`, in standard deviations of a unit
FITTED, HELD = 10_000, 1000  # most codes of `kde` with which a bandwidth is tried, and that judge it
CODES_OF_A_COMPONENT = 2  # fewest codes for each component of `gmm`, times their dimension
COMPONENTS, CODES_OF_THE_FLOW = 40, 100  # most components where `flow` begins; codes of one, times their dimension
PASSES = 100  # most passes of the training of `flow` over the codes
TINY = 1e-6


class Settings(NamedTuple):
    """How densities are fitted; see the fields of the use `generation`."""

    components: int
    bandwidth: float
    flow_steps: int
    flow_width: int
    seed: int


class Sampler:
    """A density of a model's codes, and for each class of the labels the density of its codes.

    Codes are standardised, z = mean + deviation x, each unit on its own. All but `flow` are mixtures of Gaussians,
    p(x) = Σ_k w_k N(x; m_k, R_k R_kᵀ): arrays weights [K], means [K, d], roots [K, d, d], their diagonals [K, d], or
    one number each [K, 1]. `flow`: the arrays of a velocity, see `flow.train`.
    """

    def __init__(
        self,
        model: Trained,
        name: str,
        scale: tuple[np.ndarray, np.ndarray],
        parts: Mapping[str, Arrays],
        classes: Sequence[str] = (),  # that have a density of their own
    ):
        self.model, self.name, self.scale, self.parts, self.classes = model, name, scale, parts, classes

    def codes(self, n: int, seed: int = 0, label: str | None = None) -> np.ndarray:
        """n codes [n, ...], of a class if `label` names one; raises InputError."""
        return self.points(n, seed, label).reshape(n, *self.model.code_shape)

    def points(self, n: int, seed: int = 0, label: str | None = None) -> np.ndarray:
        """The same as vectors [n, d]."""
        if n < 0:
            raise InputError(f"sample: n = {n}: must be at least 0")
        label = None if label is None else str(label)  # a class that is a number
        self.check_label(label)
        random, (mean, deviation) = np.random.default_rng(seed), self.scale
        if self.name == "flow":
            drawn = self._carried(n, random, label)
        else:
            drawn = _mixed(self.parts[ALL if label is None else f"class_{label}"], n, random)
        return (mean[None] + deviation[None] * drawn).astype(np.float32)

    def sample(self, n: int, seed: int = 0, label: str | None = None) -> np.ndarray:
        """n decoded examples [n, ...]; raises InputError."""
        return self.model.decode(self.codes(n, seed, label))

    def check_label(self, label: str | None) -> None:
        """Raise InputError unless the class `label` has a density, or none is asked for."""
        if label is not None and label not in self.classes:
            known = ", ".join(self.classes)
            ways = f"must be one of {known}" if known else f"the sampler {self.name} was fitted without classes"
            raise InputError(f"label = {label}: {ways}")

    def _carried(self, n: int, random: np.random.Generator, label: str | None) -> np.ndarray:
        """n draws [n, d] of the flow."""
        noise = random.standard_normal((n, len(self.scale[0])), np.float32)
        condition = np.array([name == label for name in self.model.spec.classes], np.float32)
        return np.asarray(carry(self.parts[ALL], noise, np.tile(condition, (n, 1))))


def fit(model: Trained, codes: np.ndarray, labels: np.ndarray | None, name: str, how: Settings) -> Sampler:
    """The sampler `name`, one of NAMES, of codes [n, d] with labels [n] (−1 = none) or None.

    prior: N(0, I), whatever the codes. gaussian: mean and covariance. gmm: EM. kde: Gaussian kernels on the codes.
    flow: flow matching. A class with fewer than two codes has no density of its own.
    """
    d = codes.shape[1]
    if name == "prior":
        return Sampler(model, name, (np.zeros(d), np.ones(d)), {ALL: _one(np.zeros(d), np.ones((1, 1)))})
    mean, deviation = codes.mean(0), codes.std(0)
    deviation = np.where(deviation > TINY * max(float(deviation.max()), TINY), deviation, 1.0)
    points = (codes - mean[None]) / deviation[None]
    labels, classes = np.full(len(points), -1) if labels is None else labels, model.spec.classes
    own = [k for k in range(len(classes)) if (labels == k).sum() >= 2]
    if name == "flow":
        steps = min(how.flow_steps, max(1, PASSES * len(points) // BATCH))
        count = min(COMPONENTS, max(1, len(points) // (CODES_OF_THE_FLOW * d)))
        known, mixture = np.where(np.isin(labels, own), labels, -1), _mixture(points, how._replace(components=count))
        parts = {ALL: train(points, known, len(classes), mixture, seed=how.seed, steps=steps, width=how.flow_width)}
    else:
        make = {"gaussian": _gaussian, "gmm": _mixture, "kde": _kernels}[name]
        parts = {ALL: make(points, how)} | {f"class_{classes[k]}": make(points[labels == k], how) for k in own}
    return Sampler(model, name, (mean, deviation), parts, [classes[k] for k in own])


def posterior(trained: Trained, x: Any, seed: int) -> np.ndarray:
    """Codes [N, d] of examples as the model takes them; for a gaussian bottleneck one draw from q(z|x) for each, so
    that they are draws from the aggregate posterior, on which the decoder was trained."""
    if trained.config.model.bottleneck.name != "gaussian":
        found = trained.map(trained.pure_encode, x)
        return found.reshape(len(found), -1)
    mean, logvar = moments(trained, x)
    return mean + np.exp(logvar / 2) * np.random.default_rng(seed).standard_normal(mean.shape, np.float32)


def moments(trained: Trained, x: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean and logvar of q(z|x), [N, d] each, of examples as the model takes them; a gaussian bottleneck only."""

    def both(x: jax.Array) -> jax.Array:
        stats = trained.forward(trained.example(x)).code.stats
        return jnp.stack([stats["mean"], stats["logvar"]], axis=1)

    found = trained.map(both, x)
    return found[:, 0], found[:, 1]


def _one(mean: np.ndarray, roots: np.ndarray) -> Arrays:
    return {"weights": np.ones(1), "means": mean[None], "roots": roots}


def _gaussian(x: np.ndarray, how: Settings) -> Arrays:
    values, axes = np.linalg.eigh(np.cov(x, rowvar=False).reshape(x.shape[1], x.shape[1]))
    return _one(x.mean(0), (axes * np.sqrt(np.maximum(values, 0))[None])[None])


def _mixture(x: np.ndarray, how: Settings) -> Arrays:
    """A component needs CODES_OF_A_COMPONENT d codes on average: there are fewer of them if the codes are few."""
    n, d = x.shape
    count = min(how.components, n // (CODES_OF_A_COMPONENT * d))
    if count < 2:
        return _gaussian(x, how)
    made, _ = cluster(x, "gmm", Clustering(count, 1, how.seed, "auto", 0, 1))
    factors, weights = made.arrays["factors"], np.exp(made.arrays["weights"])
    roots = np.linalg.inv(factors).swapaxes(1, 2) if factors.ndim == 3 else 1 / factors
    return {"weights": weights / weights.sum(), "means": made.centres, "roots": roots}


def _kernels(x: np.ndarray, how: Settings) -> Arrays:
    weights, roots = np.full(len(x), 1 / len(x)), np.full((len(x), 1), how.bandwidth or bandwidth(x, how.seed))
    return {"weights": weights, "means": x.astype(np.float32), "roots": roots}


def bandwidth(x: np.ndarray, seed: int) -> float:
    """The h in BANDWIDTHS with the largest likelihood of held-out points, for p(x) = mean_i N(x; x_i, h² I) over the
    others. A fifth of the points x [n, d] is held out, at most HELD."""
    from scipy.spatial.distance import cdist
    from scipy.special import logsumexp

    order = np.random.default_rng(seed).permutation(len(x))
    held, kept = np.split(order, [min(max(len(x) // 5, 1), HELD)])
    squares = cdist(x[held], x[kept[:FITTED]], "sqeuclidean")
    scores = [logsumexp(-squares / (2 * h * h), axis=1).mean() - x.shape[1] * np.log(h) for h in BANDWIDTHS]
    return float(BANDWIDTHS[int(np.argmax(scores))])


def _mixed(arrays: Arrays, n: int, random: np.random.Generator) -> np.ndarray:
    """n draws [n, d] from a mixture of Gaussians."""
    weights, means, roots = (arrays[name] for name in ("weights", "means", "roots"))
    chosen = random.choice(len(weights), n, p=weights)
    noise = random.standard_normal((n, means.shape[1]))
    if roots.ndim < 3:
        return means[chosen] + roots[chosen] * noise
    moved = np.empty_like(noise)
    for k in np.unique(chosen):
        moved[chosen == k] = noise[chosen == k] @ roots[k].T
    return means[chosen] + moved


def pack_all(samplers: Sequence[Sampler], about: Mapping[str, Any]) -> Arrays:
    """Everything but the model, as arrays for a file."""
    arrays: Arrays = {}
    for sampler in samplers:
        name, (mean, deviation) = sampler.name, sampler.scale
        arrays |= {f"{name}/mean": mean, f"{name}/deviation": deviation}
        for i, own in enumerate(sampler.parts.values()):
            arrays |= {f"{name}/{i}/{key}": value for key, value in own.items()}
    stored = {sampler.name: {"parts": list(sampler.parts), "classes": list(sampler.classes)} for sampler in samplers}
    return pack(arrays, [samplers[0].model], {"format": FORMAT, "samplers": stored, **about})


def load(path: Path, model: Trained) -> dict[str, Sampler]:
    """The samplers of a file by name, for the model that they were fitted to; raises InputError."""
    arrays, about = read(path, [model], "generation")
    if about["format"] != FORMAT:
        raise InputError(f"{path}: was written by another version; run aejax.evaluate --use=generation again")
    found = {}
    for name, own in about["samplers"].items():
        parts = {part: _under(arrays, f"{name}/{i}/") for i, part in enumerate(own["parts"])}
        scale = arrays[f"{name}/mean"], arrays[f"{name}/deviation"]
        found[name] = Sampler(model, name, scale, parts, own["classes"])
    return found


def _under(arrays: Arrays, prefix: str) -> Arrays:
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
