"""Exact nearest neighbours on the device, and full rankings."""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

METRICS = ("cosine", "euclidean")
GROUP, TILE, QUERIES = 32, 2048, 250  # points per group and per product, and queries per block: these fit the cache


class Neighbours(NamedTuple):
    """The k nearest points of each query, nearest first."""

    similarity: np.ndarray  # [Q, k]: the cosine, or minus the Euclidean distance, or minus the Hamming distance
    rows: np.ndarray  # [Q, k], of the points


class Points:
    """Points [N, D] on the device, ready for searches by the metric `cosine` or `euclidean`.

    The search is exact but for rounding in float32. Per block of queries it keeps the largest similarity of each group
    of points: the k nearest points lie in the k groups with the largest ones, and only these are ranked. Equal
    similarities keep no order. A cosine with a zero vector is 0.
    """

    def __init__(self, points: np.ndarray, metric: str):
        points = np.asarray(points, np.float32).reshape(len(points), -1)
        self.metric, self.n = metric, len(points)
        # Distances do not depend on the origin; near it the squares lose fewer digits.
        self.origin = points.mean(0) if metric == "euclidean" and len(points) else np.zeros(points.shape[1:], "f")
        moved = self._moved(points)
        half = (moved.astype(np.float64) ** 2).sum(1) / 2 if metric == "euclidean" else np.zeros(len(moved))
        padded = np.zeros((-(-max(self.n, 1) // TILE) * TILE, points.shape[1] + 1), np.float32)
        padded[:, -1] = -np.inf  # a padding row is never found
        padded[: self.n, :-1], padded[: self.n, -1] = moved, -half
        self.points = jnp.asarray(padded)

    def search(self, queries: np.ndarray, k: int, own: np.ndarray | None = None) -> Neighbours:
        """The k nearest points of queries [Q, D]. own [Q]: the row of a query that is a point, which is no neighbour of
        itself; -1 for others."""
        queries = self._moved(np.asarray(queries, np.float32).reshape(len(queries), -1))
        most = k + (own is not None)
        parts = [
            _nearest(jnp.asarray(_fill(queries[i : i + QUERIES])), self.points, most, self.metric)
            for i in range(0, len(queries), QUERIES)
        ]
        if not parts:
            return Neighbours(np.zeros((0, k), np.float32), np.zeros((0, k), np.int32))
        similarity, rows = (
            np.concatenate([np.asarray(p) for p in part])[: len(queries)] for part in zip(*parts, strict=True)
        )
        if own is not None:
            similarity, rows = _without(own, similarity, rows)
        return Neighbours(similarity, rows)

    def similarities(self, queries: np.ndarray) -> Iterator[np.ndarray]:
        """The similarity of queries [Q, D] to every point up to a monotone function, in blocks [b, N]."""
        queries = self._moved(np.asarray(queries, np.float32).reshape(len(queries), -1))
        for i in range(0, len(queries), QUERIES):
            block = _similarity(jnp.asarray(_fill(queries[i : i + QUERIES])), self.points)
            yield np.asarray(block)[: len(queries) - i, : self.n]

    def _moved(self, x: np.ndarray) -> np.ndarray:
        if self.metric == "euclidean":
            return x - self.origin
        return unit(x)


def unit(x: np.ndarray) -> np.ndarray:
    """Rows [N, D] of length 1; a row of zeros stays."""
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return np.divide(x, length, out=np.zeros_like(x), where=length > 0)


def _fill(queries: np.ndarray) -> np.ndarray:
    """Queries [n, D] with a last column of ones, padded to a block of few sizes."""
    size = min(QUERIES, 1 << (len(queries) - 1).bit_length())
    filled = np.zeros((size, queries.shape[1] + 1), np.float32)
    filled[: len(queries), :-1], filled[:, -1] = queries, 1
    return filled


def nearest(queries: jax.Array, points: jax.Array, k: int, metric: str) -> tuple[jax.Array, jax.Array]:
    """queries [b, D + 1], points [n, D + 1] -> similarity and rows, [b, k]."""
    (b, d), groups = queries.shape, points.reshape(-1, GROUP, points.shape[1])

    def largest(_: None, tile: jax.Array) -> tuple[None, jax.Array]:
        return None, (tile @ queries.T).reshape(TILE // GROUP, GROUP, b).max(1)  # [groups of the tile, b]

    _, best = jax.lax.scan(largest, None, points.reshape(-1, TILE, d))
    best = best.reshape(len(groups), b).T  # [b, groups]
    _, chosen = jax.lax.top_k(best, min(k, best.shape[1]))
    found = jnp.einsum("bd,bcgd->bcg", queries, groups[chosen])
    similarity, place = jax.lax.top_k(found.reshape(b, found.shape[1] * GROUP), k)
    rows = jnp.take_along_axis(chosen, place // GROUP, axis=1) * GROUP + place % GROUP
    if metric == "euclidean":  # |q - x|^2 = |q|^2 - 2 (q x - |x|^2 / 2) cancels where they are close
        difference = queries[:, None, :-1] - points[rows][..., :-1]
        return jnp.where(jnp.isinf(similarity), similarity, -jnp.sqrt((difference**2).sum(-1))), rows
    return jnp.clip(similarity, -1, 1), rows


def mean_distance(queries: jax.Array, points: jax.Array, origin: jax.Array, k: int) -> jax.Array:
    """Mean Euclidean distance [B] of queries [B, D] to their k nearest of `Points.points`, or to all if fewer.

    A pure function, for use in compiled ones.
    """
    moved = jnp.pad(queries - origin[None], ((0, 0), (0, 1)), constant_values=1)
    similarity, _ = nearest(moved, points, k, "euclidean")
    near = jnp.isfinite(similarity)
    return -jnp.where(near, similarity, 0).sum(1) / near.sum(1)


_nearest = jax.jit(nearest, static_argnames=("k", "metric"))


@jax.jit
def _similarity(queries: jax.Array, points: jax.Array) -> jax.Array:
    return queries @ points.T


def _without(own: np.ndarray, similarity: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[Q, k + 1] -> [Q, k]: without the query itself, or without the last one if it is not among them."""
    drop = rows == own[:, None]
    drop[~drop.any(1), -1] = True
    shape = (len(rows), rows.shape[1] - 1)
    return similarity[~drop].reshape(shape), rows[~drop].reshape(shape)
