"""Intrinsic dimension of three manifolds of known dimension, in 30 columns with noise.

  python launch/intrinsic_dimension.py [--level=0.35] [--seed=0] [--tuning] [--workdir=DIR]

A sphere (dimension 2), a Swiss roll (2) and a product of five circles (5) are rotated into 30 columns. Gaussian noise
of 1 % of their deviation is added. A denoising autoencoder with a code of 16 units is trained on 4,000 points, and the
use `manifold` estimates the dimension. Columns: the dimension, the estimate of the model, and those of local PCA, TwoNN
and maximum likelihood. --level: deviation of the noise that the autoencoder removes, in deviations of a column. DIR
(default runs/intrinsic_dimension) gets table.csv.

The default level was chosen on four other manifolds, which --tuning measures: a helix (dimension 1), an S curve (2), a
torus (2) and a sphere times a circle (3).
"""

import argparse
import time
from pathlib import Path

import numpy as np
from rows import Row, Rows

POINTS, COLUMNS, NOISE = 4000, 30, 0.01
ESTIMATES = {"model": "", "local_pca": "local_pca/", "two_nn": "two_nn/", "mle": "mle/"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--level", type=float, default=0.35)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tuning", action="store_true", help="the manifolds on which the level was chosen")
    parser.add_argument("--workdir", type=Path, default=Path("runs/intrinsic_dimension"))
    given = parser.parse_args()
    import aejax
    from aejax.uses.manifold import measure as manifold

    def measure(name: str) -> Row:
        points, dimension = manifolds[name](np.random.default_rng(given.seed))
        begin = time.perf_counter()
        model = aejax.fit(
            embed(points, np.random.default_rng(given.seed)),
            seed=given.seed,
            pair__name="denoise",
            pair__denoise__corruption="gaussian",
            pair__denoise__level=given.level,
            model__encoder__widths=(128, 128),
            model__bottleneck__size=16,
            model__code_activation="identity",
            objective__likelihood="squared_error",
            optim__learning_rate=3e-3,
            optim__schedule="cosine",
            train__epochs=60,
            train__progress=False,
            figures__enabled=False,
            uses__run=(),
        )
        numbers = manifold.measure(model, model.data, parts=("dimension",), centres=POINTS).numbers
        found = {label: numbers[f"manifold/{part}dimension"] for label, part in ESTIMATES.items()}
        return {"dimension": dimension} | found | {"seconds": time.perf_counter() - begin}

    manifolds = TUNING if given.tuning else MANIFOLDS
    rows = Rows(given.workdir, given)
    found = {name: rows.measure(name, lambda name=name: measure(name)) for name in manifolds}
    estimates = {f"{name}_{label}": row[label] for name, row in found.items() for label in ESTIMATES}
    rows.finish(estimates | {"seconds": sum(row["seconds"] for row in found.values())})


def sphere(rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Points [n, 3] of the unit sphere, uniform; its dimension."""
    x = rng.standard_normal((POINTS, 3))
    return x / np.linalg.norm(x, axis=1, keepdims=True), 2


def swiss_roll(rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Points [n, 3] of the Swiss roll of scikit-learn; its dimension."""
    from sklearn.datasets import make_swiss_roll

    return make_swiss_roll(POINTS, random_state=int(rng.integers(2**31)))[0], 2


def circles(rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Points [n, 10] of a product of five circles, uniform; its dimension."""
    angle = rng.uniform(0, 2 * np.pi, (POINTS, 5))
    return np.concatenate([np.cos(angle), np.sin(angle)], axis=1), 5


def helix(rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Points [n, 3] of three turns of a helix, uniform; its dimension."""
    angle = rng.uniform(0, 6 * np.pi, POINTS)
    return np.stack([np.cos(angle), np.sin(angle), angle / 5], axis=1), 1


def s_curve(rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Points [n, 3] of the S curve of scikit-learn; its dimension."""
    from sklearn.datasets import make_s_curve

    return make_s_curve(POINTS, random_state=int(rng.integers(2**31)))[0], 2


def torus(rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Points [n, 3] of a torus with radii 2 and 1, uniform in its angles; its dimension."""
    a, b = rng.uniform(0, 2 * np.pi, (2, POINTS))
    radius = 2 + np.cos(b)
    return np.stack([radius * np.cos(a), radius * np.sin(a), np.sin(b)], axis=1), 2


def sphere_circle(rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Points [n, 5] of the product of a sphere and a circle, uniform; its dimension."""
    angle = rng.uniform(0, 2 * np.pi, POINTS)
    return np.concatenate([sphere(rng)[0], np.cos(angle)[:, None], np.sin(angle)[:, None]], axis=1), 3


def embed(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Points [n, d] rotated into COLUMNS columns, with noise of NOISE times their deviation."""
    axes, _ = np.linalg.qr(rng.standard_normal((COLUMNS, points.shape[1])))
    x = points @ axes.T
    return x + NOISE * points.std() * rng.standard_normal(x.shape)


MANIFOLDS = {"sphere": sphere, "swiss_roll": swiss_roll, "circles": circles}
TUNING = {"helix": helix, "s_curve": s_curve, "torus": torus, "sphere_circle": sphere_circle}

if __name__ == "__main__":
    main()
