"""Intrinsic dimension: by the Jacobian of a model, and by methods that need no model."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from aejax.trained import Trained

KEPT = 0.5  # smallest singular value of ∂r/∂x of a direction that the model keeps
SHARE = 0.05  # of the largest eigenvalue: smallest one of a direction of local PCA
TAIL = 0.1  # share of the largest ratios that TwoNN leaves out


class Tangents(NamedTuple):
    """Singular values and left singular vectors of ∂r/∂x at N examples of D entries, the largest first."""

    values: np.ndarray  # [N, r]
    directions: np.ndarray  # [N, r, D], orthonormal

    @property
    def dimension(self) -> float:
        """Median over the examples of the number of singular values of at least KEPT."""
        return float(np.median((self.values >= KEPT).sum(1)))

    @property
    def size(self) -> int:
        """The dimension as a number of directions, at least 1."""
        return max(1, round(self.dimension))


def tangents(model: Trained, x: np.ndarray, most: int = 0) -> Tangents:
    """The tangent planes of a model at examples x [N, ...] as the model takes them, at most `most` directions (0: all).

    J = ∂r/∂x = U S Vᵀ is the Jacobian of the reconstruction. If the noise of a denoising autoencoder is small, J is
    near the projection on the tangent plane of the data: S is near 1 along the plane and near 0 across it (Alain &
    Bengio 2014). For linear data with variance λ along a direction and noise σ², S = λ / (λ + σ²), so that S ≥ ½ means
    λ ≥ σ². A decoder of d < D units gives J = (∂r/∂z)(∂z/∂x), of rank d, from d derivatives of each factor.
    """
    size, code = int(np.prod(x.shape[1:])), int(np.prod(model.code_shape))
    rank = min(size, code)
    most = min(most or rank, rank)

    def reconstruct(flat: jax.Array) -> jax.Array:
        return model.pure_reconstruct(flat.reshape(1, *x.shape[1:])).reshape(-1)

    def encode(flat: jax.Array) -> jax.Array:
        return model.pure_encode(flat.reshape(1, *x.shape[1:])).reshape(-1)

    def decode(z: jax.Array) -> jax.Array:
        return model.pure_decode(z.reshape(1, *model.code_shape)).reshape(-1)

    def narrow(flat: jax.Array) -> tuple[jax.Array, jax.Array]:
        out, inner = jnp.linalg.qr(jax.jacfwd(decode)(encode(flat)))  # [D, d], [d, d]
        u, values, _ = jnp.linalg.svd(inner @ jax.jacrev(encode)(flat), full_matrices=False)
        return values[:most], (out @ u).T[:most]

    def wide(flat: jax.Array) -> tuple[jax.Array, jax.Array]:
        u, values, _ = jnp.linalg.svd(jax.jacfwd(reconstruct)(flat))
        return values[:most], u.T[:most]

    decompose = jax.jit(jax.vmap(narrow if model.decodable and code < size else wide))
    # Some MiB of Jacobians at a time.
    parts, step = list[tuple[np.ndarray, np.ndarray]](), max(1, 2**24 // (size * rank))
    flat = x.reshape(len(x), -1)
    for i in range(0, len(x), step):
        block = flat[i : i + step]
        padded = np.concatenate([block, np.repeat(block[:1], min(step, len(x)) - len(block), axis=0)])
        values, directions = decompose(jnp.asarray(padded))
        parts.append((np.asarray(values)[: len(block)], np.asarray(directions)[: len(block)]))
    return Tangents(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def work(model: Trained, x: np.ndarray) -> float:
    """About the number of multiplications of `tangents` for a wide code; 0 for a narrow one."""
    size, code = int(np.prod(x.shape[1:])), int(np.prod(model.code_shape))
    return 0 if model.decodable and code < size else float(len(x)) * size**3


def estimates(points: np.ndarray, k: int) -> dict[str, float]:
    """Estimates for points [N, D] by the names of the methods, without those that fail; at most k neighbours."""
    k = min(k, len(points) - 1)
    found = {"local_pca": local_pca(points, k), "two_nn": two_nn(points), "mle": mle(points, k)}
    return {name: value for name, value in found.items() if np.isfinite(value)}


def local_pca(points: np.ndarray, k: int) -> float:
    """Median over points [N, D] of the number of eigenvalues above SHARE of the largest, of the covariance of a point's
    k nearest neighbours; Fukunaga & Olsen (1971)."""
    _, rows = nearest_points(points, k)
    near = points[rows]  # [N, k, D]
    values = np.linalg.svd(near - near.mean(1, keepdims=True), compute_uv=False) ** 2
    return float(np.median((values > SHARE * values[:, :1]).sum(1)))


def two_nn(points: np.ndarray) -> float:
    """TwoNN of points [N, D]: Facco et al. (2017), equation 5.

    μ = r₂ / r₁, the ratio of the distances to the second and to the first neighbour, has the distribution function
    F(μ) = 1 − μ^(−d). d is the slope of the line through the origin of −log(1 − F) against log μ, with F of the i-th
    smallest ratio i / N, and without the share TAIL of the largest ratios. NaN for fewer than three points.
    """
    distances, _ = nearest_points(points, 2)
    distances = distances[distances[:, 0] > 0].astype(np.float64)  # a repeated point has no ratio
    n = len(distances)
    kept = int((1 - TAIL) * n)
    if kept < 2:
        return float("nan")
    x = np.log(np.sort(distances[:, 1] / distances[:, 0])[:kept])
    y = -np.log1p(-np.arange(1, kept + 1) / n)
    return float(x @ y / (x @ x)) if x.any() else float("nan")


def mle(points: np.ndarray, k: int) -> float:
    """Maximum likelihood of the distances T_j to the j-th neighbour of points [N, D]; Levina & Bickel (2004).

    1 / d = mean over the points and over j < k of log(T_k / T_j). The average is one of 1 / d, as MacKay & Ghahramani
    (2005) derive, and not one of d. NaN if all distances are equal.
    """
    distances, _ = nearest_points(points, k)
    distances = distances[distances[:, 0] > 0].astype(np.float64)
    inverse = np.log(distances[:, -1:] / distances[:, :-1]).mean() if len(distances) else 0.0
    return float(1 / inverse) if inverse > 0 else float("nan")


def nearest_points(points: np.ndarray, k: int, x: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Euclidean distances [N, k] of x [N, D] to the k nearest of points [M, D], and their rows; without x those of each
    point to the k nearest other ones."""
    from sklearn.neighbors import NearestNeighbors

    distances, rows = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(points).kneighbors(x)
    return distances, rows
