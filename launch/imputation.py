"""How well empty cells are filled: cells are removed from a table, and a model that saw none of them fills them.

  python launch/imputation.py FILE.npz [SHARE]      the array X (or x) of the file; SHARE of its cells is removed, 0.2

For data.missing = mean, median and mask: the mean squared error of the removed cells, in units of each column's
variance. Filling by the column's mean alone gives about 1.
"""

import sys

import numpy as np

import aejax
from aejax.config import default


def main(file: str, share: float = 0.2) -> None:
    with np.load(file) as archive:
        whole = archive["X" if "X" in archive.files else "x"].astype(np.float64)
    whole = whole[:, whole.std(0) > 0]
    removed = np.random.default_rng(0).random(whole.shape) < share
    table = np.where(removed, np.nan, whole)
    scale = whole.std(0)
    mean = np.where(removed, np.nanmean(table, axis=0), whole)
    print(f"{'the mean, no model':<20} {error(mean, whole, removed, scale):.4f}")
    for missing in ("mean", "median", "mask"):
        config = default()
        config.data.missing = missing
        config.objective.likelihood = "squared_error"
        config.pair.name = "denoise"  # so that a cell is filled from the others
        config.pair.denoise.level = 0.2
        config.model.encoder.widths = (128,)
        config.model.bottleneck.size = 16
        config.optim.schedule = "cosine"
        config.train.epochs = 200
        config.train.progress = config.figures.enabled = False
        model = aejax.fit(table, config)
        print(f"{missing:<20} {error(model.reconstruct(table), whole, removed, scale):.4f}")


def error(filled: np.ndarray, whole: np.ndarray, removed: np.ndarray, scale: np.ndarray) -> float:
    return float((((filled - whole) / scale)[removed] ** 2).mean())


if __name__ == "__main__":
    main(sys.argv[1], *map(float, sys.argv[2:]))
