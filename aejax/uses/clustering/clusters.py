"""Clusters of a model's codes by each method."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from aejax.data.bags import blanks
from aejax.errors import InputError
from aejax.methods.clustering import CLUSTERS as COMPONENT
from aejax.trained import Trained
from aejax.uses.clustering import partitions
from aejax.uses.clustering.partitions import METHODS, NOISE, TINY, Assigned, Partition, Settings, fit
from aejax.uses.neighbours import unit
from aejax.uses.stored import Arrays, pack, read

SCALES = ("none", "length", "deviation")
STORED = "clusters"  # name of the arrays that the use `clustering` stores
FORMAT = 1  # of the stored arrays


class Scale(NamedTuple):
    """Codes as they are clustered: (z − mean) / deviation, or z / ‖z‖ if `unit`."""

    mean: np.ndarray  # [d]
    deviation: np.ndarray  # [d]
    unit: np.ndarray  # bool, without a shape

    def apply(self, codes: np.ndarray) -> np.ndarray:
        """Codes [N, d] as they are clustered."""
        return unit(codes) if self.unit else (codes - self.mean[None]) / self.deviation[None]

    def invert(self, points: np.ndarray, length: float) -> np.ndarray:
        """Codes [K, d] of points; those of unit length get the mean length of the codes."""
        return unit(points) * length if self.unit else points * self.deviation[None] + self.mean[None]


class Clusters:
    """Clusters of a model's codes by each method, with the statistics that place new codes among them."""

    def __init__(self, model: Trained, scale: Scale, length: float, partitions: Mapping[str, Partition]):
        self.model, self.scale, self.length, self.partitions = model, scale, length, partitions

    def method(self, name: str | None) -> str:
        """The name of a method that was fitted, None = the first one; raises InputError."""
        name = name or next(iter(self.partitions))
        if name not in self.partitions:
            raise InputError(f"method = {name!r}: must be one that was fitted: {', '.join(self.partitions)}")
        return name

    def assign(self, x: Any, method: str | None = None) -> Assigned:
        """Cluster and probability of raw examples [N, ...]; raises InputError."""
        return self.of_taken(self.model.take(x), method)

    def of_taken(self, x: Any, method: str | None = None) -> Assigned:
        """The same of examples as the model takes them; a blank one has the cluster -1 and the probability NaN."""
        partition, blank = self.partitions[self.method(method)], blanks(x)
        found = partition.assign(self.place(np.nan_to_num(self.codes(x))))
        return Assigned(np.where(blank, NOISE, found.cluster), np.where(blank, np.nan, found.probability))

    def codes(self, x: Any) -> np.ndarray:
        """Codes [N, d] of examples as the model takes them."""
        found = self.model.map(self.model.pure_encode, x)
        return found.reshape(len(found), -1)

    def place(self, codes: np.ndarray) -> np.ndarray:
        """Codes [N, d] as they are clustered."""
        return self.scale.apply(codes)

    def centres(self, method: str | None = None) -> np.ndarray:
        """The centres of the clusters as codes [K, ...]."""
        points = self.partitions[self.method(method)].centres
        return self.scale.invert(points, self.length).reshape(-1, *self.model.code_shape).astype(np.float32)

    def stored(self) -> Arrays:
        """Everything but the model, as arrays for a file."""
        arrays = {
            f"{method}/{name}": values
            for method, partition in self.partitions.items()
            for name, values in partition.arrays.items()
        }
        arrays |= {f"scale/{name}": np.asarray(values) for name, values in self.scale._asdict().items()}
        about = {"format": FORMAT, "methods": list(self.partitions), "length": self.length}
        return pack(arrays, [self.model], about)


def fit_all(
    model: Trained, codes: np.ndarray, methods: Sequence[str], how: Settings, scale: str
) -> tuple[Clusters, list[str]]:
    """The clusters of a model's codes [n, d] by each method, and notes on them; raises InputError."""
    own, found, notes = scaling(codes, scale), dict[str, Partition](), list[str]()
    points = own.apply(codes)
    for method in methods:
        if METHODS[method].fit is None:
            trained, own_fields = np.asarray(model.params[COMPONENT]["centres"]), model.config.method.clustering
            found[method] = partitions.of_model(points, trained, own_fields.alpha, own_fields.width)
        else:
            found[method], said = fit(points, method, how)
            notes += said
    return Clusters(model, own, float(np.linalg.norm(codes, axis=1).mean()), found), notes


def scaling(codes: np.ndarray, scale: str) -> Scale:
    """The scale of codes [n, d] by its name, one of SCALES."""
    if scale == "deviation":
        return Scale(codes.mean(0), np.maximum(codes.std(0), TINY), np.array(False))
    d = codes.shape[1]
    return Scale(np.zeros(d), np.ones(d), np.array(scale == "length"))


def load(path: Path, model: Trained) -> Clusters:
    """The clusters of a file, for the model that they were fitted to; raises InputError."""
    arrays, about = read(path, [model], "clustering")
    own = {
        method: {name.partition("/")[2]: values for name, values in arrays.items() if name.startswith(f"{method}/")}
        for method in ("scale", *about["methods"])
    }
    scale = Scale(**own.pop("scale"))
    return Clusters(
        model, scale, about["length"], {method: METHODS[method].partition(part) for method, part in own.items()}
    )
