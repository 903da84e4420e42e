"""What the use `manifold` shows: singular values, tangent planes, a moved image, the graph, draws of the densities."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from aejax.trained import Trained
from aejax.uses.base import Draw
from aejax.uses.data import Data
from aejax.uses.manifold.dimension import Tangents
from aejax.uses.manifold.graph import Graph, spread
from aejax.uses.manifold.parzen import Fitted

STEPS = 9  # examples along a path
SHOWN = 3  # paths in a figure
DRAWS = 10  # images of each density
STRIPS = ("test images on the path", "decoded codes of the path", "decoded straight line", "mean of the pixels")
TITLES = {
    "isotropic": "isotropic Gaussians",
    "local_pca": "Gaussians along local PCA",
    "model": "Gaussians along the tangent planes of the model",
}


class View:
    """The figures of test examples x [n, ...], rows [n] of the split."""

    def __init__(self, trained: Trained, data: Data, x: np.ndarray, rows: np.ndarray):
        self.trained, self.data, self.x, self.rows = trained, data, x, rows
        self.image = data.spec.x.kind == "image"

    def of_planes(self, found: Tangents, others: Mapping[str, float]) -> dict[str, Draw]:
        """The figures of the tangent planes at the first examples."""

        def spectrum() -> Any:
            from aejax.uses.manifold.plots import kept_directions

            return kept_directions(found.values, found.dimension, others)

        def planes() -> Any:
            from aejax.uses.jacobian.plots import tangents

            few = min(self.trained.config.figures.examples, len(found.values))
            return tangents(self.x[:few], found.directions[:few].reshape(few, -1, *self.x.shape[1:]))

        def moved() -> Any:
            from aejax.uses.jacobian.plots import translation

            return translation(self.x[0], found.directions[0, : found.size])

        return {"dimension": spectrum} | ({"tangents": planes, "translation": moved} if self.image else {})

    def of_graph(self, made: Graph, paths: Sequence[np.ndarray]) -> dict[str, Draw]:
        """The figures of the graph of the test codes and of the first paths."""

        def on_map() -> Any:
            from aejax.uses.manifold.plots import neighbour_graph

            labels = self.data.labels("test")
            own = None if labels is None else labels[self.rows]
            edges = np.stack(made.edges.nonzero(), 1)
            return neighbour_graph(made.points, edges, paths[:SHOWN], own, self.data.spec.classes)

        def strips() -> Any:
            from aejax.uses.manifold.plots import path_images

            shown = []
            for path in paths[:SHOWN]:
                own = self.x[spread(made.points, path, STEPS)]
                shown.append(dict(zip(STRIPS, (own, *self.between(made, path)), strict=True)))
            return path_images(shown)

        found: dict[str, Draw] = {"graph": on_map} if made.points.shape[1] > 1 else {}
        return found | ({"paths": strips} if self.image and self.trained.decodable else {})

    def of_densities(self, found: Sequence[Fitted]) -> dict[str, Draw]:
        """Draws of each density."""

        def draws() -> Any:
            from aejax.plots import image_rows

            rows = {"test images": self.x[:DRAWS]}
            for own in found:
                drawn = own.density.sample(DRAWS, np.random.default_rng(0))
                rows[TITLES[own.name]] = drawn.reshape(-1, *self.x.shape[1:]).astype(np.float32)
            return image_rows(rows)

        return {"density": draws} if self.image and found else {}

    def between(self, made: Graph, path: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Examples [STEPS, ...] from the first to the last of a path: decoded codes along the path, decoded codes on
        the straight line, and weighted means of both ends."""
        points, share = made.points, np.linspace(0, 1, STEPS)[:, None]
        first, last = points[path[[0, -1]]]
        line = (1 - share) * first[None] + share * last[None]
        on_path, on_line = (
            self.trained.map(self.trained.pure_decode, z.reshape(STEPS, *self.trained.code_shape).astype(np.float32))
            for z in (points[spread(points, path, STEPS)], line)
        )
        share = share.reshape(-1, *[1] * (self.x.ndim - 1))
        return on_path, on_line, (1 - share) * self.x[path[0]][None] + share * self.x[path[-1]][None]
