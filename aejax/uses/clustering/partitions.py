"""Partitions of points by each clustering method: fitted to some points, applied to others."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy import sparse

from aejax.errors import InputError
from aejax.losses.assignment import log_assignment
from aejax.uses.clustering.embedding import embed, place
from aejax.uses.neighbours import Points

COVARIANCES = ("auto", "full", "diag")
FULL = 100  # most columns with full covariances, if the covariance is `auto`
RIDGE = 1e-3  # added to each variance of the mixture, as a share of the mean variance of the columns
STEPS = 300  # most steps of EM
TREE = 20  # most columns in which a tree finds neighbours faster than the matrix of all distances
THREADED = 2**20  # fewest values that several threads cluster
SHARE, LEAST = 0.01, 5  # fewest members of a cluster of HDBSCAN by default: this share of the points, at least 5
TINY = 1e-12
NOISE = -1


class Settings(NamedTuple):
    """How points are clustered; see the fields of the use `clustering`."""

    clusters: int
    restarts: int
    seed: int
    covariance: str
    min_cluster_size: int
    min_samples: int
    components: int = 0
    neighbours: int = 20


class Assigned(NamedTuple):
    """The cluster of each example."""

    cluster: np.ndarray  # [N] int: 0 is the largest cluster of the fitted points; -1 = noise, or a blank example
    probability: np.ndarray  # [N], see the partitions; NaN for a blank example


class Partition:
    """A fitted clustering of points [n, D], as arrays; clusters are numbered by their size, the largest first.

    The array centres [K, D] holds the means of the clusters. Each method names the other arrays that it needs.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        self.arrays, self.centres = dict(arrays), arrays["centres"]

    def __len__(self) -> int:
        return len(self.centres)

    def assign(self, x: Any) -> Assigned:
        """Cluster and probability of points [N, D]."""
        raise NotImplementedError


Fitted = tuple[Partition, list[str]]  # with notes


class Gaussians(Partition):
    """k-means and the mixture: log p(x, k) = log w_k + log |det F_k| − ‖(x − m_k) F_k‖² / 2 + constant.

    An example x, dense or sparse, belongs to the k with the largest one, and its probability is p(k | x). The
    covariance of k-means is s² I with s² = Σ‖x − m‖² / (n D) over the fitted points, and its weights are equal, so that
    the cluster is the one with the nearest centre. Arrays: centres m [K, D], weights log w [K], factors F [K, D, D] or
    their diagonals [K, D].
    """

    def assign(self, x: Any) -> Assigned:
        logs = self._logs(x)
        shifted = np.exp(logs - logs.max(1, keepdims=True))
        return Assigned(logs.argmax(1), shifted.max(1) / shifted.sum(1))

    def _logs(self, x: Any) -> np.ndarray:
        """log p(x, k) [N, K] up to a constant."""
        centres, factors, weights = (self.arrays[name].astype(float) for name in ("centres", "factors", "weights"))
        full = factors.ndim == 3
        if sparse.issparse(x):  # Σ f² (x − m)² without a dense x; for diagonals alone
            precisions = factors**2
            squared = x.multiply(x) @ precisions.T - 2 * (x @ (precisions * centres).T)
            squares = np.asarray(squared) + (precisions * centres**2).sum(1)[None]
        else:
            moved = (
                ((x - m[None]) @ f if full else (x - m[None]) * f[None]) for m, f in zip(centres, factors, strict=True)
            )
            squares = np.stack([(part**2).sum(1) for part in moved], axis=1)
        diagonals = np.diagonal(factors, axis1=1, axis2=2) if full else factors
        return np.asarray((weights + np.log(diagonals).sum(1))[None] - squares / 2)


class Student(Partition):
    """The clusters that a model was trained with.

    Cluster and probability are argmax and max of Student's t assignment q, see `losses.assignment`. Arrays: centres
    [K, D], the degrees of freedom alpha, and the width.
    """

    def assign(self, x: Any) -> Assigned:
        z, shape = np.asarray(x, np.float32), (float(self.arrays["alpha"]), float(self.arrays.get("width", 1)))
        logs = np.asarray(log_assignment(jnp.asarray(z), jnp.asarray(self.centres), *shape))
        return Assigned(logs.argmax(1), np.exp(logs.max(1)))


class Embedded(Partition):
    """N2D (McConville et al. 2021): a mixture of the UMAP embedding [n, e] of the points.

    A new point lies at the mean of its neighbours' embeddings, see `embedding.place`. Arrays: centres [K, D]; those of
    the mixture, whose names begin with mixture/; points [n, D], embedding [n, e].
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        super().__init__(arrays)
        own = {name.removeprefix("mixture/"): part for name, part in arrays.items() if name.startswith("mixture/")}
        self._mixture, self._points = Gaussians(own), Points(arrays["points"], "euclidean")

    def assign(self, x: Any) -> Assigned:
        return self._mixture.assign(place(x, self._points, self.arrays["embedding"]))


class Dense(Partition):
    """HDBSCAN, which has no rule for new points.

    Here an example belongs to the cluster of the nearest fitted point, or is noise (-1) as that is; its probability is
    the strength of that point's membership in [0, 1]; 0 for noise. Arrays: centres [K, D]; points [n, D], labels [n]
    and strengths [n].
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        super().__init__(arrays)
        self._points = Points(arrays["points"], "euclidean")

    def assign(self, x: Any) -> Assigned:
        nearest = self._points.search(np.asarray(x, np.float32), 1).rows[:, 0]
        return Assigned(self.arrays["labels"][nearest], self.arrays["strengths"][nearest])


def _kmeans(x: Any, how: Settings) -> Fitted:
    from sklearn.cluster import KMeans

    made = KMeans(how.clusters, n_init=how.restarts, random_state=how.seed).fit(x)
    order = by_size(made.labels_, how.clusters)
    spread = max(np.sqrt(made.inertia_ / np.prod(x.shape)), TINY)
    centres = made.cluster_centers_[order]
    arrays = {"centres": centres, "factors": np.full_like(centres, 1 / spread), "weights": np.zeros(len(centres))}
    empty = how.clusters - len(np.unique(made.labels_))
    return Gaussians(arrays), [f"kmeans: {empty} clusters are empty: too few different examples"] if empty else []


def _mixture(x: np.ndarray, how: Settings) -> Fitted:
    from sklearn.mixture import GaussianMixture

    kind = how.covariance if how.covariance != "auto" else "full" if x.shape[1] <= FULL else "diag"
    made = GaussianMixture(
        how.clusters,
        covariance_type=kind,
        n_init=how.restarts,
        random_state=how.seed,
        reg_covar=max(RIDGE * x.var(0).mean(), TINY),
        max_iter=STEPS,
    ).fit(x)
    order = by_size(made.predict(x), how.clusters)
    arrays = {"centres": made.means_, "factors": made.precisions_cholesky_, "weights": np.log(made.weights_ + TINY)}
    notes = [] if made.converged_ else [f"gmm: EM has not converged after {STEPS} steps"]
    return Gaussians({name: values[order] for name, values in arrays.items()}), notes


def _hdbscan(x: np.ndarray, how: Settings) -> Fitted:
    from sklearn.cluster import HDBSCAN

    size = min(how.min_cluster_size or max(LEAST, round(SHARE * len(x))), len(x))
    made = HDBSCAN(
        min_cluster_size=max(size, 2),
        min_samples=min(how.min_samples, len(x)),
        algorithm="brute" if x.shape[1] > TREE else "auto",
        copy=True,
    ).fit(x)
    count = int(made.labels_.max()) + 1
    order = by_size(made.labels_, count)
    labels = np.append(np.argsort(order), NOISE)[made.labels_]  # noise takes the last entry
    centres = np.array([x[labels == k].mean(0) for k in range(count)]).reshape(count, x.shape[1])
    arrays = {"centres": centres, "points": x.astype(np.float32), "labels": labels, "strengths": made.probabilities_}
    return Dense(arrays), [] if count else ["hdbscan: every example is noise: try a smaller min_cluster_size"]


def _n2d(x: np.ndarray, how: Settings) -> Fitted:
    made = embed(x, how.components or how.clusters, how.neighbours, how.seed)
    mixture, notes = _mixture(made.astype(np.float64), how._replace(covariance="full"))
    labels = mixture.assign(made).cluster
    centres = np.array([x[labels == k].mean(0) if (labels == k).any() else x.mean(0) for k in range(how.clusters)])
    arrays = {"centres": centres, "points": x.astype(np.float32), "embedding": made}
    arrays |= {f"mixture/{name}": values for name, values in mixture.arrays.items()}
    return Embedded(arrays), [note.replace("gmm", "n2d") for note in notes]


def of_model(points: np.ndarray, centres: np.ndarray, alpha: float, width: float) -> Student:
    """The clusters that a model was trained with, numbered by their size among points [n, D]."""
    arrays = {"centres": centres, "alpha": np.array(alpha), "width": np.array(width)}
    order = by_size(Student(arrays).assign(points).cluster, len(centres))
    return Student(arrays | {"centres": centres[order]})


def by_size(labels: np.ndarray, count: int) -> np.ndarray:
    """The clusters, the largest first."""
    return np.argsort(-np.bincount(labels[labels >= 0], minlength=count), kind="stable")


class Method(NamedTuple):
    """A way to cluster: fit(points [n, D], how) -> partition and notes; None for the clusters of a model."""

    partition: type[Partition]
    fit: Callable[[Any, Settings], Fitted] | None
    numbered: bool = False  # needs the number of clusters
    values: bool = True  # also clusters the values, beside the codes
    sparse: bool = False  # takes sparse points


METHODS: dict[str, Method] = {
    "kmeans": Method(Gaussians, _kmeans, numbered=True, sparse=True),
    "gmm": Method(Gaussians, _mixture, numbered=True),
    "hdbscan": Method(Dense, _hdbscan),
    "centres": Method(Student, None, values=False),
    "n2d": Method(Embedded, _n2d, numbered=True, values=False),
}
USUAL = ("kmeans", "gmm", "hdbscan")  # of any model, without an extra package


def fit(x: Any, method: str, how: Settings) -> Fitted:
    """The clusters of points [n, D] and notes on them; sparse points for k-means alone. Raises InputError."""
    make = METHODS[method].fit
    assert make is not None
    if METHODS[method].numbered and not 2 <= how.clusters <= x.shape[0]:
        raise InputError(f"clusters = {how.clusters}: must be at least 2, at most the {x.shape[0]:,} rows to cluster")
    from threadpoolctl import threadpool_limits

    threads = 1 if np.prod(x.shape) < THREADED else None  # EM is many small products: threads that wait cost more
    with warnings.catch_warnings(), threadpool_limits(threads):
        warnings.simplefilter("ignore")  # the notes say what scikit-learn warns of
        return make(x if sparse.issparse(x) else np.asarray(x, np.float64), how)
