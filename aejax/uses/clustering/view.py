"""What a use shows of clusters: a table of them, a map of the codes, their centres and nearest examples."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import sparse

from aejax.data.bags import dense
from aejax.uses.base import Draw
from aejax.uses.clustering.clusters import Clusters
from aejax.uses.clustering.partitions import Assigned
from aejax.uses.data import Data

NEAREST = 8  # test examples of each cluster
POINTS = 5000  # most codes in the map
SHOWN = 20  # most clusters in a figure
PROFILE = 5  # columns or words that tell a cluster from the others


class View:
    """Clusters of test examples: `rows` [n] of the split, with points [n, d], labels or None, and values [n, D]."""

    def __init__(
        self,
        made: Clusters,
        data: Data,
        rows: np.ndarray,
        points: np.ndarray,
        found: Mapping[str, Assigned],
        truth: np.ndarray | None,
        values: Any,
    ):
        self.made, self.data, self.rows, self.points = made, data, rows, points
        self.found, self.truth, self.values = found, truth, values
        self.first = next(iter(found))  # the method of the figures

    def nearest(self, method: str, k: int) -> np.ndarray:
        """The members of cluster k that are nearest to its centre, at most NEAREST, of the n examples."""
        members = np.flatnonzero(self.found[method].cluster == k)
        distances = ((self.points[members] - self.made.partitions[method].centres[k][None]) ** 2).sum(1)
        return members[np.argsort(distances, kind="stable")[:NEAREST]]

    def table(self) -> dict[str, list[Any]]:
        """A row for each cluster: its share of the test examples, its most frequent label and that label's share in it,
        the values that tell it from the other examples, and the rows of the test split nearest to its centre."""
        columns = ["method", "cluster", "examples", "share"]
        columns += ["label", "share_of_label"] if self.truth is not None else []
        profiled = self._names() is not None
        table: dict[str, list[Any]] = {name: [] for name in (*columns, *(["profile"] if profiled else []), "nearest")}
        for method, found in self.found.items():
            for k in (*range(len(self.made.partitions[method])), *([-1] if (found.cluster < 0).any() else [])):
                members = np.flatnonzero(found.cluster == k)
                row: list[Any] = [method, k, len(members), float(f"{len(members) / len(self.rows):.4g}")]
                row += list(self._majority(members)) if self.truth is not None else []
                row += [self._profile(members)] if profiled else []
                row += [" ".join(map(str, self.rows[self.nearest(method, k)])) if k >= 0 else ""]
                for column, value in zip(table.values(), row, strict=True):
                    column.append(value)
        return table

    def _majority(self, members: np.ndarray) -> tuple[str, float | str]:
        assert self.truth is not None
        labels = self.truth[members]
        labels = labels[labels >= 0]
        if not len(labels):
            return "", ""
        label = int(np.bincount(labels).argmax())
        return self.data.spec.classes[label], float(f"{(labels == label).mean():.4g}")

    def _names(self) -> tuple[str, ...] | None:
        """Names of the values of a table or a text, if there are any."""
        field = self.data.spec.x
        names = field.columns if field.text else field.outputs if field.kind == "table" else ()
        return names if len(names) == self.values.shape[1] else None

    def _deviation(self) -> np.ndarray:
        """Standard deviation [D] of each column of a table, 1 of a constant one."""
        deviation = self.values.std(0)
        return np.where(deviation > 1e-6, deviation, 1)

    def _profile(self, members: np.ndarray) -> str:
        """Table: the columns whose mean in the cluster differs most from that of all, in deviations. Text: the words
        whose mean weight is above that of all by most."""
        names = self._names()
        if names is None or not len(members):
            return ""
        gap = np.asarray(self.values[members].mean(0) - self.values.mean(0)).ravel()
        if sparse.issparse(self.values):
            return " ".join(names[j] for j in np.argsort(-gap, kind="stable")[:PROFILE] if gap[j] > 0)
        gap = gap / self._deviation()
        return "; ".join(f"{names[j]} {gap[j]:+.1f}" for j in np.argsort(-np.abs(gap), kind="stable")[:PROFILE])

    def figures(self) -> dict[str, Draw]:
        """The figures of the first method."""
        count = len(self.made.partitions[self.first])
        if not count:
            return {}
        drawn: dict[str, Draw] = {"cluster_map": self._map} if self.points.shape[1] > 1 else {}
        field = self.data.spec.x
        if field.kind == "image":
            drawn["cluster_examples"] = self._images
        elif not field.sparse:
            drawn["cluster_examples"] = self._columns
        return drawn

    def _map(self) -> Any:
        from aejax.uses.clustering.plots import cluster_map

        at = np.linspace(0, len(self.rows) - 1, min(len(self.rows), POINTS)).astype(int)
        labels = None if self.truth is None else self.truth[at]
        found = self.found[self.first].cluster[at]
        pairs = {} if labels is None else matching(labels[labels >= 0], found[labels >= 0])
        return cluster_map(self.points[at], found, labels, self.data.spec.classes, pairs, self.first)

    def _images(self) -> Any:
        """A row for each cluster: the decoded centre, if the model decodes, then its nearest test examples."""
        from aejax.uses.clustering.plots import cluster_images

        shown = range(min(len(self.made.partitions[self.first]), SHOWN))
        test = self.data.arrays("test")["x"]
        examples = []
        for k in shown:
            own = self.rows[self.nearest(self.first, k)]
            order = np.argsort(own)
            images = dense(test[own[order]])[np.argsort(order)]
            examples.append(images / np.float32(255) if images.dtype == np.uint8 else images)
        model = self.made.model
        centres = model.decode(self.made.centres(self.first)[: len(shown)]) if model.decodable else None
        return cluster_images(centres, examples, [self._title(k) for k in shown])

    def _columns(self) -> Any:
        """The decoded centre of each cluster, else the mean of its members, in deviations of each column."""
        from aejax.uses.clustering.plots import cluster_columns

        model, shown = self.made.model, range(min(len(self.made.partitions[self.first]), SHOWN))
        if model.decodable:
            centres = model.map(model.pure_decode, self.made.centres(self.first)[: len(shown)])
            what = "decoded centre"
        else:
            members = [np.flatnonzero(self.found[self.first].cluster == k) for k in shown]
            centres = np.stack([self.values[m].mean(0) if len(m) else self.values.mean(0) for m in members])
            what = "mean of the members"
        names = self._names() or tuple(str(j) for j in range(self.values.shape[1]))
        gaps = (centres - self.values.mean(0)[None]) / self._deviation()[None]
        return cluster_columns(gaps, [self._title(k) for k in shown], names, what)

    def _title(self, k: int) -> str:
        members = np.flatnonzero(self.found[self.first].cluster == k)
        said = f"{k}: {len(members):,}"
        if self.truth is not None and len(members):
            label, share = self._majority(members)
            said += f"\n{label} {share:.0%}" if label else ""
        return said


def matching(truth: np.ndarray, cluster: np.ndarray) -> dict[int, int]:
    """cluster -> label of the one-to-one matching with the most examples [N] in matched pairs (Kuhn 1955)."""
    from scipy.optimize import linear_sum_assignment

    clusters, rows = np.unique(cluster, return_inverse=True)
    labels, columns = np.unique(truth, return_inverse=True)
    counts = np.zeros((len(clusters), len(labels)), int)
    np.add.at(counts, (rows, columns), 1)
    pairs = linear_sum_assignment(-counts)
    return {int(clusters[i]): int(labels[j]) for i, j in zip(*pairs, strict=True)}
