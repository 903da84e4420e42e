"""Density by one Gaussian at each of many examples: isotropic, or flat along the tangent plane of the data."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

BLOCK = 2**24  # numbers in the largest array of a block of queries
DOUBLE = 256  # most entries of an example for which float64 is used
OCTAVES = (np.arange(-6, 3), np.arange(-0.75, 1, 0.25), np.arange(-0.1875, 0.25, 0.0625))  # steps of log₂ σ


class Planes(NamedTuple):
    """Directions of large variance at N points, and the variances along them, the largest first."""

    directions: np.ndarray  # [N, d, D], orthonormal; 0 where the variance is 0
    variances: np.ndarray  # [N, d]

    def leading(self, d: int) -> "Planes":
        """The first d directions."""
        return Planes(self.directions[:, :d], self.variances[:, :d])


class Density(NamedTuple):
    """p(x) = mean over i of N(x; x_i, U_iᵀ diag(λ_i) U_i + σ² I), Vincent & Bengio (2003).

    Without directions (d = 0) it is the isotropic Parzen window. With δ = x − x_i, u_ij the directions and λ_ij their
    variances, the log of a Gaussian is

        −½ [D log 2π + Σ_j log(λ_ij + σ²) + (D − d) log σ² + ‖δ‖² / σ² − Σ_j (1/σ² − 1/(λ_ij + σ²)) (u_ij · δ)²]
    """

    centres: np.ndarray  # [N, D]
    planes: Planes
    sigma: float

    def log_prob(self, x: np.ndarray) -> np.ndarray:
        """log p(x) [M] of x [M, D], in nats, with respect to volume in the units of x."""
        return grid(self.centres, self.planes, x, [self.sigma], [self.planes.variances.shape[1]])[0, 0]

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """n draws [n, D]."""
        rows = rng.integers(0, len(self.centres), n)
        own = self.planes.directions[rows] * np.sqrt(self.planes.variances[rows])[..., None]
        along = np.einsum("nd,ndD->nD", rng.standard_normal(own.shape[:2]), own)
        return self.centres[rows] + along + self.sigma * rng.standard_normal(along.shape)


def isotropic(centres: np.ndarray) -> Planes:
    """No directions at centres [N, D]."""
    return Planes(np.zeros((len(centres), 0, centres.shape[1]), np.float32), np.zeros((len(centres), 0), np.float32))


def local_pca(points: np.ndarray, x: np.ndarray, near: np.ndarray, d: int, within: np.ndarray | None = None) -> Planes:
    """The leading d eigenvectors and eigenvalues of (1/k) Σ_j (x_j − x)(x_j − x)ᵀ for each of x [N, D].

    x_j are its k neighbours, the rows near [N, k] of points [M, D]. within [N, m, D]: orthonormal directions; only the
    part of the differences that lies in their span counts.
    """
    from threadpoolctl import threadpool_limits

    k = near.shape[1]
    d = min(d, k, x.shape[1] if within is None else within.shape[1])
    step = max(1, BLOCK // (k * x.shape[1]))
    parts = list[tuple[np.ndarray, np.ndarray]]()
    for i in range(0, len(near), step):
        rows = slice(i, i + step)
        gaps = points[near[rows]] - x[rows, None]  # [n, k, D]
        seen = gaps if within is None else gaps @ within[rows].swapaxes(1, 2)
        with threadpool_limits(1):  # LAPACK is slow with several threads on small matrices
            values, vectors = np.linalg.eigh((seen @ seen.swapaxes(1, 2)).astype(np.float64))  # [n, k, k]
        values, vectors = values[:, ::-1][:, :d], vectors[..., ::-1][..., :d]
        real = values > 1e-6 * np.maximum(values[:, :1], 1e-300)
        scale = np.where(real, 1 / np.sqrt(np.where(real, values, 1)), 0)
        directions = (vectors * scale[:, None]).astype(np.float32).swapaxes(1, 2) @ seen
        directions = directions if within is None else directions @ within[rows]
        parts.append((directions, np.where(real, values / k, 0).astype(np.float32)))
    return Planes(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def grid(
    centres: np.ndarray, planes: Planes, x: np.ndarray, sigmas: Sequence[float], sizes: Sequence[int]
) -> np.ndarray:
    """log p(x) [sigmas, sizes, M] of x [M, D] for each σ, and for each number of leading directions."""
    (n, entries), most = centres.shape, planes.variances.shape[1]
    origin = centres.mean(0)  # distances do not depend on it; near it the squares lose fewer digits
    kind = np.float64 if entries <= DOUBLE else np.float32
    middle, x = ((part - origin).astype(kind, copy=False) for part in (centres, x))
    directions = planes.directions.reshape(n * most, entries).T.astype(kind, copy=False)
    offsets = (planes.directions @ middle[..., None]).swapaxes(1, 2)  # [N, 1, d]
    half = (middle**2).sum(1)
    # One column for each pair of σ and a number of directions; a direction beyond that number has no weight.
    variance = np.repeat(np.asarray(sigmas, np.float64) ** 2, len(sizes))
    within = np.arange(most)[:, None] < np.tile(sizes, len(sigmas))
    total = np.where(within, planes.variances[..., None], 0) + variance  # [N, d, columns]
    weights = (1 / variance - 1 / total).astype(kind)
    constants = -np.log(total / variance).sum(1, keepdims=True) - entries * np.log(2 * np.pi * variance)
    constants, narrow = constants.astype(kind), (1 / variance).astype(kind)
    found, step = [], max(1, BLOCK // (n * (most + 2 * len(variance))))
    for i in range(0, len(x), step):
        queries = x[i : i + step]
        squares = half[:, None] + (queries**2).sum(1) - 2 * middle @ queries.T  # ‖δ‖², [N, b]
        along = (queries @ directions).reshape(len(queries), n, most).swapaxes(0, 1) - offsets  # u · δ, [N, b, d]
        logs = along**2 @ weights  # [N, b, columns]
        logs += constants
        logs -= np.maximum(squares, 0)[..., None] * narrow
        logs /= 2
        largest = logs.max(0)
        logs -= largest
        found.append(largest + np.log(np.exp(logs, out=logs).mean(0)))
    return np.concatenate(found).T.reshape(len(sigmas), len(sizes), len(x))


class Choice(NamedTuple):
    """Settings with the largest mean log-likelihood of held-out examples."""

    likelihood: float
    sigma: float
    directions: int


def choose(centres: np.ndarray, planes: Planes, held_out: np.ndarray, spacing: float, sizes: Sequence[int]) -> Choice:
    """σ and the number of leading directions by held-out examples [M, D]. The search starts at `spacing`, the root mean
    square distance of an entry to that of the nearest neighbour, and ends with steps of 4 % of σ."""
    best = Choice(-math.inf, spacing, 0)
    for octaves in OCTAVES:
        sigmas = [best.sigma * 2.0**octave for octave in octaves.tolist()]
        found = grid(centres, planes, held_out, sigmas, sizes).mean(-1)
        i, j = divmod(int(np.nanargmax(found)), len(sizes))
        best = max(best, Choice(float(found[i, j]), sigmas[i], sizes[j]))
    return best


class Fitted(NamedTuple):
    """A density with the settings that were chosen."""

    name: str
    density: Density
    neighbours: int
    likelihood: float  # of the held-out examples

    @property
    def about(self) -> dict[str, Any]:
        used = self.density.planes.variances.shape[1]
        own = {"planes": self.name, "neighbours": self.neighbours, "directions": used, "sigma": self.density.sigma}
        return own | {"held_out": self.likelihood}


def summary(density: Density, x: np.ndarray) -> dict[str, Any]:
    """Mean log-likelihood of x [M, D] and its standard error."""
    logs = density.log_prob(x).astype(np.float64)
    return {"log_likelihood": logs.mean(), "standard_error": logs.std(ddof=1) / math.sqrt(len(logs))}
