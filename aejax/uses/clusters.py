"""Clusters: k-means, a Gaussian mixture or HDBSCAN, fitted to some points and applied to others."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy import sparse

from aejax.data.bags import blanks
from aejax.errors import InputError
from aejax.losses.assignment import log_assignment
from aejax.methods.clustering import CLUSTERS as COMPONENT
from aejax.trained import Trained
from aejax.uses.embedding import embed, place
from aejax.uses.neighbours import Points, unit
from aejax.uses.stored import Arrays, pack, read

METHODS = ("kmeans", "gmm", "hdbscan", "centres", "n2d")
USUAL = ("kmeans", "gmm", "hdbscan")  # of any model, without an extra package
VALUES = USUAL  # the methods that also cluster the values
NUMBERED = ("kmeans", "gmm", "n2d")  # the methods that need a number of clusters
SCALES = ("none", "length", "deviation")
COVARIANCES = ("auto", "full", "diag")
FULL = 100  # most columns with full covariances, if the covariance is `auto`
RIDGE = 1e-3  # added to each variance of the mixture, as a share of the mean variance of the columns
STEPS = 300  # most steps of EM
TREE = 20  # most columns in which a tree finds neighbours faster than the matrix of all distances
THREADED = 2**20  # fewest values that several threads cluster
SHARE, LEAST = 0.01, 5  # fewest members of a cluster of HDBSCAN by default: this share of the points, at least 5
TINY = 1e-12
STORED = "clusters"  # name of the arrays that the use `clustering` stores
FORMAT = 1  # of the stored arrays
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
    probability: np.ndarray  # [N], see `Partition`; NaN for a blank example


class Partition:
    """A fitted clustering of points [n, D]; clusters are numbered by their size, the largest first.

    k-means and the mixture are Gaussians: log p(x, k) = log w_k + log |det F_k| − ‖(x − m_k) F_k‖² / 2 + constant. An
    example x belongs to the k with the largest one, and its probability is p(k | x). The covariance of k-means is
    s² I with s² = Σ‖x − m‖² / (n D) over the fitted points, and its weights are equal, so that the cluster is the one
    with the nearest centre. Arrays: centres m [K, D], weights log w [K], factors F [K, D, D] or their diagonals [K, D].

    `centres` are those that the model was trained with. Cluster and probability are argmax and max of Student's t
    assignment q, see `losses.assignment`. Arrays: centres [K, D], the degrees of freedom alpha, and the width.

    N2D (McConville et al. 2021) is a mixture of the UMAP embedding [n, e] of the points. A new point lies at the mean
    of its neighbours' embeddings, see `embedding.place`. Arrays: centres [K, D], the means of the clusters; those of
    the mixture, whose names begin with mixture/; points [n, D], embedding [n, e].

    HDBSCAN has no rule for new points. Here an example belongs to the cluster of the nearest fitted point, or is noise
    (-1) as that is; its probability is the strength of that point's membership in [0, 1]; 0 for noise. Arrays: centres
    [K, D], the means of the clusters; points [n, D], labels [n] and strengths [n].
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        self.arrays, self.centres = dict(arrays), arrays["centres"]
        self._points = Points(arrays["points"], "euclidean") if "points" in arrays else None
        mixture = {name.removeprefix("mixture/"): part for name, part in arrays.items() if name.startswith("mixture/")}
        self._mixture = Partition(mixture) if mixture else None

    def __len__(self) -> int:
        return len(self.centres)

    def assign(self, x: Any) -> Assigned:
        """Cluster and probability of points [N, D], dense or sparse."""
        if "alpha" in self.arrays:
            z = np.asarray(x, np.float32)
            shape = float(self.arrays["alpha"]), float(self.arrays.get("width", 1))
            logs = np.asarray(log_assignment(jnp.asarray(z), jnp.asarray(self.centres), *shape))
            return Assigned(logs.argmax(1), np.exp(logs.max(1)))
        if self._mixture is not None and self._points is not None:
            return self._mixture.assign(place(x, self._points, self.arrays["embedding"]))
        if self._points is not None:
            nearest = self._points.search(np.asarray(x, np.float32), 1).rows[:, 0]
            return Assigned(self.arrays["labels"][nearest], self.arrays["strengths"][nearest])
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


def fit(x: Any, method: str, how: Settings) -> tuple[Partition, list[str]]:
    """The clusters of points [n, D] and notes on them; sparse points for k-means alone. Raises InputError."""
    if method in NUMBERED and not 2 <= how.clusters <= x.shape[0]:
        raise InputError(f"clusters = {how.clusters}: must lie in [2, {x.shape[0]}], the rows to cluster")
    from threadpoolctl import threadpool_limits

    threads = 1 if np.prod(x.shape) < THREADED else None  # EM is many small products: threads that wait cost more
    with warnings.catch_warnings(), threadpool_limits(threads):
        warnings.simplefilter("ignore")  # the notes say what scikit-learn warns of
        x = x if sparse.issparse(x) else np.asarray(x, np.float64)
        return {"kmeans": _kmeans, "gmm": _mixture, "hdbscan": _hdbscan, "n2d": _n2d}[method](x, how)


def _kmeans(x: Any, how: Settings) -> tuple[Partition, list[str]]:
    from sklearn.cluster import KMeans

    made = KMeans(how.clusters, n_init=how.restarts, random_state=how.seed).fit(x)
    order = _by_size(made.labels_, how.clusters)
    spread = max(np.sqrt(made.inertia_ / np.prod(x.shape)), TINY)
    centres = made.cluster_centers_[order]
    arrays = {"centres": centres, "factors": np.full_like(centres, 1 / spread), "weights": np.zeros(len(centres))}
    empty = how.clusters - len(np.unique(made.labels_))
    return Partition(arrays), [f"kmeans: {empty} clusters are empty: too few different examples"] if empty else []


def _mixture(x: np.ndarray, how: Settings) -> tuple[Partition, list[str]]:
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
    order = _by_size(made.predict(x), how.clusters)
    arrays = {"centres": made.means_, "factors": made.precisions_cholesky_, "weights": np.log(made.weights_ + TINY)}
    notes = [] if made.converged_ else [f"gmm: EM has not converged after {STEPS} steps"]
    return Partition({name: values[order] for name, values in arrays.items()}), notes


def _hdbscan(x: np.ndarray, how: Settings) -> tuple[Partition, list[str]]:
    from sklearn.cluster import HDBSCAN

    size = min(how.min_cluster_size or max(LEAST, round(SHARE * len(x))), len(x))
    made = HDBSCAN(
        min_cluster_size=max(size, 2),
        min_samples=min(how.min_samples, len(x)),
        algorithm="brute" if x.shape[1] > TREE else "auto",
        copy=True,
    ).fit(x)
    count = int(made.labels_.max()) + 1
    order = _by_size(made.labels_, count)
    labels = np.append(np.argsort(order), NOISE)[made.labels_]  # noise takes the last entry
    centres = np.array([x[labels == k].mean(0) for k in range(count)]).reshape(count, x.shape[1])
    arrays = {"centres": centres, "points": x.astype(np.float32), "labels": labels, "strengths": made.probabilities_}
    return Partition(arrays), [] if count else ["hdbscan: every example is noise: try a smaller min_cluster_size"]


def _n2d(x: np.ndarray, how: Settings) -> tuple[Partition, list[str]]:
    made = embed(x, how.components or how.clusters, how.neighbours, how.seed)
    mixture, notes = _mixture(made.astype(np.float64), how._replace(covariance="full"))
    labels = mixture.assign(made).cluster
    centres = np.array([x[labels == k].mean(0) if (labels == k).any() else x.mean(0) for k in range(how.clusters)])
    arrays = {"centres": centres, "points": x.astype(np.float32), "embedding": made}
    arrays |= {f"mixture/{name}": values for name, values in mixture.arrays.items()}
    return Partition(arrays), [note.replace("gmm", "n2d") for note in notes]


def _own(model: Trained, points: np.ndarray) -> Partition:
    """The clusters that the model was trained with."""
    own = model.config.method.clustering
    arrays = {"centres": np.asarray(model.params[COMPONENT]["centres"])}
    arrays |= {"alpha": np.array(own.alpha), "width": np.array(own.width)}
    found = Partition(arrays).assign(points).cluster
    return Partition(arrays | {"centres": arrays["centres"][_by_size(found, len(arrays["centres"]))]})


def _by_size(labels: np.ndarray, count: int) -> np.ndarray:
    """The clusters, the largest first."""
    return np.argsort(-np.bincount(labels[labels >= 0], minlength=count), kind="stable")


class Scale(NamedTuple):
    """Codes as they are clustered: (z − mean) / deviation, or z / ‖z‖ if `unit`."""

    mean: np.ndarray  # [d]
    deviation: np.ndarray  # [d]
    unit: np.ndarray  # bool, without a shape

    def apply(self, codes: np.ndarray) -> np.ndarray:
        """Codes [N, d] as they are clustered."""
        return unit(codes) if self.unit else (codes - self.mean[None]) / self.deviation[None]

    def invert(self, points: np.ndarray, length: float) -> np.ndarray:
        """Codes [K, d] of points; those of unit length get the mean length of the codes."""
        return unit(points) * length if self.unit else points * self.deviation[None] + self.mean[None]


class Clusters:
    """Clusters of a model's codes by each method, with the statistics that place new codes among them."""

    def __init__(self, model: Trained, scale: Scale, length: float, partitions: Mapping[str, Partition]):
        self.model, self.scale, self.length, self.partitions = model, scale, length, partitions

    def method(self, name: str | None) -> str:
        """The name of a method that was fitted, None = the first one; raises InputError."""
        name = name or next(iter(self.partitions))
        if name not in self.partitions:
            raise InputError(f"method = {name!r}: must be one that was fitted: {', '.join(self.partitions)}")
        return name

    def assign(self, x: Any, method: str | None = None) -> Assigned:
        """Cluster and probability of raw examples [N, ...]; raises InputError."""
        return self.of_taken(self.model.take(x), method)

    def of_taken(self, x: Any, method: str | None = None) -> Assigned:
        """The same of examples as the model takes them; a blank one has the cluster -1 and the probability NaN."""
        partition, blank = self.partitions[self.method(method)], blanks(x)
        found = partition.assign(self.place(np.nan_to_num(self.codes(x))))
        return Assigned(np.where(blank, NOISE, found.cluster), np.where(blank, np.nan, found.probability))

    def codes(self, x: Any) -> np.ndarray:
        """Codes [N, d] of examples as the model takes them."""
        found = self.model.map(self.model.pure_encode, x)
        return found.reshape(len(found), -1)

    def place(self, codes: np.ndarray) -> np.ndarray:
        """Codes [N, d] as they are clustered."""
        return self.scale.apply(codes)

    def centres(self, method: str | None = None) -> np.ndarray:
        """The centres of the clusters as codes [K, ...]."""
        points = self.partitions[self.method(method)].centres
        return self.scale.invert(points, self.length).reshape(-1, *self.model.code_shape).astype(np.float32)

    def stored(self) -> Arrays:
        """Everything but the model, as arrays for a file."""
        arrays = {
            f"{method}/{name}": values
            for method, partition in self.partitions.items()
            for name, values in partition.arrays.items()
        }
        arrays |= {f"scale/{name}": np.asarray(values) for name, values in self.scale._asdict().items()}
        about = {"format": FORMAT, "methods": list(self.partitions), "length": self.length}
        return pack(arrays, [self.model], about)


def fit_all(
    model: Trained, codes: np.ndarray, methods: Sequence[str], how: Settings, scale: str
) -> tuple[Clusters, list[str]]:
    """The clusters of a model's codes [n, d] by each method, and notes on them; raises InputError."""
    own, found, notes = scaling(codes, scale), dict[str, Partition](), list[str]()
    points = own.apply(codes)
    for method in methods:
        found[method], said = (_own(model, points), []) if method == "centres" else fit(points, method, how)
        notes += said
    return Clusters(model, own, float(np.linalg.norm(codes, axis=1).mean()), found), notes


def scaling(codes: np.ndarray, scale: str) -> Scale:
    """The scale of codes [n, d] by its name, one of SCALES."""
    if scale == "deviation":
        return Scale(codes.mean(0), np.maximum(codes.std(0), TINY), np.array(False))
    d = codes.shape[1]
    return Scale(np.zeros(d), np.ones(d), np.array(scale == "length"))


def load(path: Path, model: Trained) -> Clusters:
    """The clusters of a file, for the model that they were fitted to; raises InputError."""
    arrays, about = read(path, [model], "clustering")
    own = {
        method: {name.partition("/")[2]: values for name, values in arrays.items() if name.startswith(f"{method}/")}
        for method in ("scale", *about["methods"])
    }
    scale = Scale(**own.pop("scale"))
    return Clusters(model, scale, about["length"], {method: Partition(part) for method, part in own.items()})
