"""How like real examples samples are: distances and shares computed from features of both."""

from collections.abc import Iterator

import numpy as np

BLOCK = 1024  # rows of a block of products


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Fréchet distance of the Gaussians with the moments of features a [n, d] and b [m, d]; Heusel et al. (2017).

    ‖m₁ − m₂‖² + tr(C₁ + C₂ − 2 (C₁ C₂)^½). With symmetric roots, tr (C₁ C₂)^½ = tr (C₁^½ C₂ C₁^½)^½, the root of a
    symmetric matrix. The unit is that of a squared feature. The estimate is too large for few rows.
    """
    a, b = (np.asarray(x, np.float64) for x in (a, b))
    first, second = (np.cov(x, rowvar=False).reshape(x.shape[1], x.shape[1]) for x in (a, b))
    values, axes = np.linalg.eigh(first)
    root = (axes * np.sqrt(np.maximum(values, 0))[None]) @ axes.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ second @ root), 0)).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(first) + np.trace(second) - 2 * cross)


def kernel_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Squared maximum mean discrepancy of features a [n, d] and b [m, d], unbiased, with the kernel (xᵀy / d + 1)³;
    Bińkowski et al. (2018). Its expectation is 0 for equal distributions, so it may be negative."""
    a, b = (np.asarray(x, np.float64) for x in (a, b))

    def total(x: np.ndarray, y: np.ndarray) -> float:
        return sum(float(((x[i : i + BLOCK] @ y.T / x.shape[1] + 1) ** 3).sum()) for i in range(0, len(x), BLOCK))

    def within(x: np.ndarray) -> float:
        own = float((((x**2).sum(1) / x.shape[1] + 1) ** 3).sum())
        return (total(x, x) - own) / (len(x) * (len(x) - 1))

    return within(a) + within(b) - 2 * total(a, b) / (len(a) * len(b))


def precision_and_recall(real: np.ndarray, samples: np.ndarray, k: int) -> tuple[float, float]:
    """Share of samples [n, d] in the manifold of real features [m, d], and the reverse; Kynkäänniemi et al. (2019).

    The manifold of a set is the union of balls about its points, each up to the k-th nearest other point of the set.
    """
    real, samples = (np.asarray(x, np.float64) for x in (real, samples))
    radii = [np.concatenate([np.partition(part, k, axis=1)[:, k] for part in _squares(x, x)]) for x in (real, samples)]
    parts = list(_squares(samples, real))
    precise = np.concatenate([(part <= radii[0][None]).any(1) for part in parts])
    covered = np.any([(part <= radii[1][i * BLOCK : (i + 1) * BLOCK, None]).any(0) for i, part in enumerate(parts)], 0)
    return float(precise.mean()), float(covered.mean())


def _squares(a: np.ndarray, b: np.ndarray) -> Iterator[np.ndarray]:
    """Squared distances of the rows of a to those of b, in blocks [BLOCK, m]."""
    lengths = (b**2).sum(1)
    for i in range(0, len(a), BLOCK):
        part = a[i : i + BLOCK]
        yield np.maximum((part**2).sum(1)[:, None] + lengths[None] - 2 * part @ b.T, 0)
