"""Generated series: the control charts of Alcock & Manolopoulos (1999)."""

from typing import Any

import numpy as np
from ml_collections import ConfigDict

STEPS, EACH, TEST = 60, 500, 100  # steps of a series; series of each class, and those of them in the test split
KINDS = ("normal", "cyclic", "increasing", "decreasing", "upward", "downward")


def read(argument: str, config: ConfigDict) -> dict[str, Any]:
    """3000 series of 60 steps and one channel, 500 of each of six classes, from a fixed seed; 600 are the test split.

    y(t) = 30 + 2 r(t) + p(t) for t = 1..60, with r uniform in [−3, 3]. p is 0 (normal), a sin(2π t / T) with a and T
    uniform in [10, 15] (cyclic), ± g t with g uniform in [0.2, 0.5] (increasing, decreasing), or ± s from step k on,
    with s uniform in [7.5, 20] and k in [20, 40] (upward, downward).
    """
    random, t = np.random.RandomState(0), np.arange(1, STEPS + 1)[None]

    def uniform(low: float, high: float) -> np.ndarray:
        return random.uniform(low, high, (EACH, 1))

    series = []
    for kind in KINDS:
        sign = -1 if kind in ("decreasing", "downward") else 1
        if kind == "cyclic":
            pattern = uniform(10, 15) * np.sin(2 * np.pi * t / uniform(10, 15))
        elif kind in ("increasing", "decreasing"):
            pattern = sign * uniform(0.2, 0.5) * t
        elif kind in ("upward", "downward"):
            pattern = sign * uniform(7.5, 20) * (t >= uniform(20, 40))
        else:
            pattern = np.zeros((EACH, 1))
        series.append(30 + 2 * random.uniform(-3, 3, (EACH, STEPS)) + pattern)
    x, y = np.stack(series).astype(np.float32)[..., None], np.repeat(np.array(KINDS)[:, None], EACH, 1)
    order = np.random.RandomState(1)
    train, test = (order.permutation((EACH - TEST) * len(KINDS)), order.permutation(TEST * len(KINDS)))
    return {
        "x_train": x[:, TEST:].reshape(-1, STEPS, 1)[train],
        "y_train": y[:, TEST:].reshape(-1)[train],
        "x_test": x[:, :TEST].reshape(-1, STEPS, 1)[test],
        "y_test": y[:, :TEST].reshape(-1)[test],
    }
