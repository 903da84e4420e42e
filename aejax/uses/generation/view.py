"""What the use `generation` shows: samples, nearest training examples, traversals, interpolations."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from aejax.trained import Trained
from aejax.uses.base import Draw
from aejax.uses.data import Data
from aejax.uses.generation.samplers import moments

SHOWN = 10  # samples of a sampler, images in a row
UNITS = 10  # most units in the figure of traversals
POINTS = 2000  # most training examples of which the KL of a unit is the mean
PAIRS = 3  # of test examples between which codes are interpolated


class View:
    """Samples by sampler, of a model with codes [n, d] of the training rows `rows`.

    best: the sampler shown beside the training examples that `nearest` finds for its samples; memorisation: its own.
    """

    def __init__(
        self,
        model: Trained,
        data: Data,
        rows: np.ndarray,
        codes: np.ndarray,
        drawn: Mapping[str, np.ndarray],
        best: str,
        memorisation: float,
        nearest: Callable[[np.ndarray], np.ndarray],
    ):
        self.model, self.data, self.rows, self.codes = model, data, rows, codes
        self.drawn = {name: x[:SHOWN] for name, x in drawn.items()}
        self.best, self.memorisation, self._nearest = best, memorisation, nearest

    def table(self) -> dict[str, list[Any]]:
        """The first samples of each sampler and the rows of the training split that are nearest to them."""
        table: dict[str, list[Any]] = {"sampler": [], "sample": [], "training_row": []}
        for name, x in self.drawn.items():
            table["sampler"] += [name] * len(x)
            table["sample"] += range(len(x))
            table["training_row"] += self.rows[self._nearest(x)].tolist()
        return table

    def figures(self) -> dict[str, Draw]:
        """The figures, of images alone."""
        if self.data.spec.x.kind != "image":
            return {}
        return {
            "generated": self._samples,
            "nearest_training": self._neighbours,
            "traversals": self._traversals,
            "interpolations": self._interpolations,
        }

    def _samples(self) -> Any:
        from aejax.plots import image_rows

        return image_rows(self.drawn)

    def _neighbours(self) -> Any:
        from aejax.plots import image_rows, unit

        images = self.drawn[self.best]
        rows = self.rows[self._nearest(images)]
        order = np.argsort(rows, kind="stable")
        found = np.asarray(self.data.arrays("train")["x"][rows[order]])[np.argsort(order)]
        apart = f"nearest training examples, at {self.memorisation:.2f} of the distance of test examples"
        return image_rows({f"samples of {self.best}": images, apart: unit(found)})

    def _traversals(self) -> Any:
        """A row for each unit: the mean code with that unit from its 2nd to its 98th percentile, in the order of
        `order`."""
        from aejax.plots import image_rows

        kind, values = self.order()
        rows = {}
        for unit in np.argsort(-values, kind="stable")[:UNITS]:
            codes = np.tile(self.codes.mean(0), (SHOWN, 1))
            low, high = np.percentile(self.codes[:, unit], (2, 98))
            codes[:, unit] = np.linspace(low, high, SHOWN)
            rows[f"unit {unit + 1}: {kind} {values[unit]:.3g}"] = self._decode(codes)
        return image_rows(rows)

    def order(self) -> tuple[str, np.ndarray]:
        """What orders the units and its values [d]: mean KL(q(z|x) ‖ N(0, 1)) of a gaussian code, in nats, else the
        variance."""
        if self.model.config.model.bottleneck.name != "gaussian":
            return "variance", self.codes.var(0)
        mean, logvar = moments(self.model, self.data.rows("train", self.rows[:POINTS]))
        return "KL", (np.exp(logvar) + mean**2 - 1 - logvar).mean(0) / 2

    def _interpolations(self) -> Any:
        """Codes between pairs of test examples, on a line and on a great circle, beside a blend of the pixels."""
        from aejax.plots import image_rows

        pairs = np.asarray(self.data.test[: 2 * PAIRS])
        if len(pairs) < 2:
            return None
        codes = self.model.map(self.model.pure_encode, pairs).reshape(len(pairs), -1)
        shares, rows = np.linspace(0, 1, SHOWN), {}
        for i in range(len(pairs) // 2):
            (a, b), (x, y) = codes[2 * i : 2 * i + 2], pairs[2 * i : 2 * i + 2]
            rows[f"pair {i + 1}: line"] = self._decode(np.stack([(1 - t) * a + t * b for t in shares]))
            rows[f"pair {i + 1}: great circle"] = self._decode(np.stack([slerp(a, b, t) for t in shares]))
            rows[f"pair {i + 1}: pixels"] = np.stack([(1 - t) * x + t * y for t in shares])
        return image_rows(rows)

    def _decode(self, codes: np.ndarray) -> np.ndarray:
        return self.model.decode(codes.reshape(-1, *self.model.code_shape))


def slerp(a: np.ndarray, b: np.ndarray, t: float) -> np.ndarray:
    """Spherical linear interpolation of vectors [d], (sin((1 − t) w) a + sin(t w) b) / sin w with w the angle between
    them; Shoemake (1985). On a line if w is 0 or π."""
    cosine = float(np.clip(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12), -1, 1))
    angle = np.arccos(cosine)
    if np.sin(angle) < 1e-6:
        return (1 - t) * a + t * b
    return (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)
