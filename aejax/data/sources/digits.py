"""Embedded images: the digits that come with scikit-learn, grey or tinted."""

import importlib.metadata
from typing import Any

import numpy as np
from ml_collections import ConfigDict


def read(argument: str, config: ConfigDict) -> dict[str, Any]:
    """scikit-learn's 1797 digits of 8x8 pixels, 0..16 divided by 16; 360 are the test split."""
    # The file is read directly, since importing scikit-learn takes a second.
    file = importlib.metadata.distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    table = np.loadtxt(str(file), delimiter=",", dtype=int)
    x, y = (table[:, :-1].reshape(-1, 8, 8, 1) / 16).astype(np.float32), table[:, -1]
    test = np.zeros(len(x), bool)
    test[np.random.RandomState(0).permutation(len(x))[:360]] = True
    return {
        "x_train": x[~test],
        "y_train": y[~test],
        "x_test": x[test],
        "y_test": y[test],
    }


def tinted(argument: str, config: ConfigDict) -> dict[str, Any]:
    """The digits in colour, uint8 [8, 8, 3], from a fixed seed: paper (1 − v) + ink v for a grey value v.

    The ink's hue is digit / 10 plus normal noise of standard deviation 0.02 turns, so the shape predicts it up to
    the noise. The paper's hue is uniform and unpredictable. All inks have luma 0.6 and all papers 0.15, so the
    grey image shows the digit and no hint of a hue.
    """
    raw = read(argument, config)
    random = np.random.RandomState(1)
    for split in ("train", "test"):
        v, digit = raw[f"x_{split}"], raw[f"y_{split}"]  # [N, 8, 8, 1]
        ink = _tint(digit / 10 + 0.02 * random.standard_normal(len(v)), luma=0.6, chroma=1.0)[:, None, None]
        paper = _tint(random.uniform(size=len(v)), luma=0.15, chroma=0.3)[:, None, None]
        raw[f"x_{split}"] = np.round(255 * (paper * (1 - v) + ink * v)).astype(np.uint8)
    return raw


def _tint(hue: np.ndarray, *, luma: float, chroma: float) -> np.ndarray:
    """Hues [N] in turns -> colours [N, 3] in [0, 1] of one luma (ITU-R BT.601): the pure colour is mixed
    with black if it is too light, with white if it is too dark, then with grey; chroma 0 is grey."""
    k = (np.array([5.0, 3.0, 1.0]) + 6 * hue[:, None]) % 6
    full = 1 - np.clip(np.minimum(k, 4 - k), 0, 1)
    own = full @ np.array([[0.299], [0.587], [0.114]])  # [N, 1]
    colour = np.where(own > luma, full * luma / own, 1 - (1 - full) * (1 - luma) / (1 - own))
    return luma + chroma * (colour - luma)
