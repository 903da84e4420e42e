"""UMAP: an embedding of points in few dimensions, and the place of new points in it."""

import importlib.util
import warnings
from typing import Any

import numpy as np

from aejax.uses.neighbours import Points

NEEDED = "needs umap-learn: pip install 'aejax[umap]'"
PLACED = 5  # neighbours that place a new point
TINY = 1e-12


def installed() -> bool:
    """Whether umap-learn is installed."""
    return importlib.util.find_spec("umap") is not None


def embed(x: np.ndarray, components: int, neighbours: int, seed: int) -> np.ndarray:
    """The embedding [n, components] of points [n, D] with min_dist 0, float32; McInnes et al. (2018).

    It is reproducible with its seed, in one thread.
    """
    from umap import UMAP

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = UMAP(
            n_neighbors=min(neighbours, len(x) - 1),
            n_components=components,
            min_dist=0.0,
            random_state=seed,
            init="spectral" if components < len(x) - 1 else "random",
        ).fit_transform(np.asarray(x, np.float32))
    return np.asarray(made, np.float32)


def place(x: Any, points: Points, embedding: np.ndarray) -> np.ndarray:
    """The embedding [N, e] of new points [N, D]: Σ_i w_i y_i / Σ_i w_i over the nearest fitted points i.

    w_i = exp(−(d_i − d_1) / σ) with the distances d_1 ≤ d_i and σ = mean_i(d_i − d_1). UMAP starts a new point in
    this way and then optimises it. Here nothing is optimised, so the place does not depend on the other new points. A
    fitted point keeps its embedding.
    """
    found = points.search(np.asarray(x, np.float32), min(PLACED, len(embedding)))
    distances = -found.similarity
    excess = distances - distances[:, :1]
    weights = np.exp(-excess / np.maximum(excess.mean(1, keepdims=True), TINY))
    weights = np.where(distances[:, :1] <= TINY, distances <= TINY, weights)
    made = (weights[:, :, None] * embedding[found.rows]).sum(1) / weights.sum(1, keepdims=True)
    return np.asarray(made)
