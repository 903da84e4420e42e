"""The graph of nearest neighbours, and the shortest paths in it."""

from typing import NamedTuple

import numpy as np
from scipy import sparse

PAIRS = 100  # pairs of points whose paths are measured


class Graph(NamedTuple):
    """Points [n, d] and the edges between each and its k nearest neighbours, as long as their distance."""

    points: np.ndarray
    edges: sparse.csr_array  # [n, n], symmetric
    component: np.ndarray  # [n]: 0 for the points of the largest connected component

    @property
    def connected(self) -> float:
        """Share of the points in the largest component."""
        return float((self.component == 0).mean())

    def paths(self, pairs: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """The points of the shortest path between those of each pair [p, 2], ends included, and its length [p], by the
        algorithm of Dijkstra (1959)."""
        from scipy.sparse.csgraph import dijkstra

        starts, rows = np.unique(pairs[:, 0], return_inverse=True)
        lengths, before = dijkstra(self.edges, indices=starts, return_predecessors=True)
        found = []
        for row, (start, end) in zip(rows, pairs, strict=True):
            path = [int(end)]
            while path[-1] != start:
                path.append(int(before[row, path[-1]]))
            found.append(np.array(path[::-1]))
        return found, lengths[rows, pairs[:, 1]]

    def straight(self, pairs: np.ndarray) -> np.ndarray:
        """Distances [p] of the points of pairs."""
        return np.linalg.norm(self.points[pairs[:, 0]] - self.points[pairs[:, 1]], axis=1)


def build_graph(points: np.ndarray, k: int) -> Graph:
    """The graph of points [n, d]: an edge between two points if one is among the k nearest of the other."""
    from scipy.sparse.csgraph import connected_components
    from sklearn.neighbors import NearestNeighbors

    points = points.astype(np.float64)
    distances, rows = NearestNeighbors(n_neighbors=k).fit(points).kneighbors()
    lengths = np.maximum(distances, 1e-12).ravel()  # an edge of length 0 would be none
    one_way = sparse.csr_array((lengths, (np.repeat(np.arange(len(points)), k), rows.ravel())), (len(points),) * 2)
    edges = sparse.csr_array(one_way.maximum(one_way.T))
    _, label = connected_components(edges, directed=False)
    order = np.argsort(np.argsort(-np.bincount(label), kind="stable"))  # the largest component first
    return Graph(points, edges, order[label])


def draw_pairs(graph: Graph, labels: np.ndarray | None, rng: np.random.Generator) -> np.ndarray:
    """At most PAIRS random pairs [p, 2] of different points of the largest component; with labels, of different ones
    where there are such pairs."""
    rows = np.flatnonzero(graph.component == 0)
    pairs = rng.choice(rows, (50 * PAIRS, 2))
    pairs = pairs[graph.straight(pairs) > 0]
    other = pairs if labels is None else pairs[labels[pairs[:, 0]] != labels[pairs[:, 1]]]
    return (other if len(other) else pairs)[:PAIRS]


def spread(points: np.ndarray, path: np.ndarray, steps: int) -> np.ndarray:
    """The points [steps] of a path that are nearest to equal shares of its length, ends included."""
    lengths = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points[path], axis=0), axis=1))])
    wanted = np.linspace(0, lengths[-1], steps)
    return path[np.abs(lengths[None] - wanted[:, None]).argmin(1)]
