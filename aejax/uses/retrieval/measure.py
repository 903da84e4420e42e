"""Retrieval: whether the nearest examples by the code share a label."""

from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
from scipy import sparse

from aejax.errors import InputError
from aejax.fields import Field, at_least, each, one_of
from aejax.trained import Trained
from aejax.uses.base import Draw, Metric, Result
from aejax.uses.data import Data
from aejax.uses.neighbours import METRICS as SIMILARITIES
from aejax.uses.neighbours import QUERIES, Points, unit
from aejax.uses.retrieval.bits import Bits, Signs, itq
from aejax.uses.retrieval.ranking import measure as measure_ranking
from aejax.uses.retrieval.ranking import shuffled
from aejax.uses.spaces import Pair, lsa, names, projected, weigh
from aejax.uses.spaces import codes as encoded

NEAREST = (10, 100)
SHOWN, COLUMNS = 4, 8  # queries in a figure, and neighbours of each
POINTS = 5000  # most codes in a map
METRICS = (
    {
        f"test/{prefix}precision_at_{k}": Metric(
            f"share of the {k} nearest other test examples{by} that have the query's label", "", "higher"
        )
        for prefix, by in (
            ("", ""),
            ("lsa_", ", by truncated SVD (texts: LSA) with as many components as the code has units,"),
        )
        for k in NEAREST
    }
    | {
        f"precision_at_{k}": Metric(
            f"share of the {k} nearest training examples that have the query's label", "", "higher"
        )
        for k in NEAREST
    }
    | {
        "map": Metric("mean average precision over the full ranking of the database", "", "higher"),
        "recall_at_100": Metric(
            "share of the examples with the query's label that are among the 100 nearest", "", "higher"
        ),
    }
)


def measure(
    trained: Trained,
    data: Data,
    *,
    metric: Annotated[str, Field("similarity of codes: cosine | euclidean", one_of(SIMILARITIES))] = "cosine",
    bits: Annotated[
        tuple, Field("lengths of signed codes that are measured too, such as (64,)", each(at_least(1), int, "integers"))
    ] = (),
    queries: Annotated[int, Field("the first test examples that are queries; 0 = all", at_least(0))] = 0,
) -> Result:
    """Queries are the test split, the database is the training split; see `ranking.measure` for the measures.

    `retrieval/{precision_at_10,precision_at_100,map,recall_at_100}` by the code; the same under `retrieval/pixels/`
    (tables: `columns`, texts: `words`, the cosine of their tf-idf weights), under `retrieval/pca/` (texts: `lsa`) with
    as many components as the code has units, and for each of `bits` under `retrieval/bits_64/` and
    `retrieval/bits_64/pca_itq/` (texts: `lsa_itq`). Besides `test/precision_at_10`, `test/precision_at_100`, and the
    same of LSA under `test/lsa_...`: each test example is the query for the other test examples.
    """
    data.require_labels(("test",))
    train, test, labels = data.arrays("train")["x"], data.arrays("test"), data.labels("train")
    codes, values = encoded(trained, test["x"]), weigh(train, test["x"])
    components = lsa(*values, codes.shape[1])
    numbers = precision(codes, test["y"]) | precision(components[1], test["y"], "lsa_")
    if labels is None or not (labels >= 0).any():
        return Result(numbers, notes=["the training split has no labels: only test against test is measured"])
    search = Search(trained, data, metric, queries, (encoded(trained, train), codes), values, components)
    rankings = {name: search.similarities(parts) for name, parts in search.points.items()}
    for size in bits:
        rankings |= {f"bits_{size}/{name}": found for name, found in search.signed(size)}
    for name, similarities in rankings.items():
        found = measure_ranking(similarities, search.asked, search.labels)
        numbers |= {f"retrieval/{name}{term}": value for term, value in found.items()}
    figures: dict[str, Draw] = {}
    if data.spec.x.kind == "image":
        figures["neighbours"] = search.figure
    if codes.shape[1] == 2:
        figures["query"] = search.map
    return Result(numbers, {"neighbours": search.table()}, figures, search.notes)


class Search:
    """The labelled training examples as database, in a shuffled order, and test examples as queries."""

    def __init__(
        self, trained: Trained, data: Data, metric: str, most: int, codes: Pair, values: Pair, components: Pair
    ):
        self.trained, self.data, self.metric, self.values = trained, data, metric, values
        self.notes: list[str] = []
        train, test = data.arrays("train"), data.arrays("test")
        known = np.flatnonzero(train["y"] >= 0)
        self.rows = known[shuffled(len(known))]
        self.queries = np.flatnonzero(test["y"] >= 0)[: most or None]
        self.labels, self.asked = train["y"][self.rows], test["y"][self.queries]
        self.codes = self._chosen(codes)
        kind, self.projection = names(data.spec.x)
        fewer = self._chosen(components) if data.spec.x.sparse else self._projected(codes[0].shape[1])
        self.points = {"": self.codes, f"{kind}/": self._chosen(values), f"{self.projection}/": fewer}

    def _chosen(self, parts: Pair) -> Pair:
        """The rows of the database and of the queries."""
        return parts[0][self.rows], parts[1][self.queries]

    def _projected(self, size: int) -> Pair:
        examples = self.data.arrays("train")["x"], self.data.arrays("test")["x"]
        return self._chosen(projected(self.trained, self.data, examples, self.values, size))

    def signed(self, size: int) -> Iterator[tuple[str, Iterator[np.ndarray]]]:
        """(name of a ranking, similarities in blocks) by bits of the code, and of PCA or LSA."""
        for name, parts in (("", self.codes), (f"{self.projection}_itq/", self._projected(size))):
            if self.metric == "cosine":
                parts = unit(parts[0]), unit(parts[1])
            try:
                signs: Signs = itq(parts[0], size)
            except InputError as error:
                self.notes.append(f"{name or 'code '}{error}: left out")
                continue
            yield name, Bits(signs.pack(parts[0])).similarities(signs.pack(parts[1]))

    def similarities(self, parts: Pair) -> Iterator[np.ndarray]:
        """The similarity of each query to each row of the database, in blocks."""
        if sparse.issparse(parts[0]):
            return _cosines(*parts)
        return Points(parts[0], self.metric).similarities(parts[1])

    def table(self) -> dict[str, list[Any]]:
        """The nearest by the code of the first queries: rows of their splits, with labels."""
        found = Points(self.codes[0], self.metric).search(self.codes[1][:SHOWN], min(COLUMNS, len(self.rows)))
        table: dict[str, list[Any]] = {n: [] for n in ("query", "rank", "neighbour", "similarity", "label", "found")}
        classes = self.data.spec.classes
        for i, (similarities, rows) in enumerate(zip(found.similarity, found.rows, strict=True)):
            for rank, (value, row) in enumerate(zip(similarities, rows, strict=True), 1):
                values = (int(self.queries[i]), rank, int(self.rows[row]), float(f"{value:.6g}"))
                names = (classes[self.asked[i]], classes[self.labels[row]])
                for column, entry in zip(table.values(), (*values, *names), strict=True):
                    column.append(entry)
        return table

    def map(self) -> Any:
        """The first query among the training codes, for codes of two units."""
        from aejax.plots import short
        from aejax.uses.retrieval.plots import query_map

        (codes, asked), classes = self.codes, self.data.spec.classes
        found = Points(codes, self.metric).search(asked[:1], min(NEAREST[0], len(codes))).rows[0]
        shown = np.unique(np.concatenate([np.arange(min(POINTS, len(codes))), found]))
        title = f"query: test example {self.queries[0]}, {short(classes[self.asked[0]])}"
        place = np.searchsorted(shown, found)
        return query_map(codes[shown], self.labels[shown], classes, asked[0], place, title)

    def figure(self) -> Any:
        """Queries, each beside its nearest training images, by values, by PCA and by the code."""
        from aejax.uses.retrieval.plots import neighbour_rows

        train, test = (self.data.arrays(split)["x"] for split in ("train", "test"))
        size, shown = self.codes[0].shape[1], {}
        titles = ("pixels", f"PCA, {size} components", f"code, {size} units")
        for title, name in zip(titles, ("pixels/", "pca/", ""), strict=True):
            points, asked = self.points[name]
            rows = self.rows[Points(points, self.metric).search(asked[:SHOWN], COLUMNS).rows]
            known, place = np.unique(rows, return_inverse=True)
            shown[title] = np.asarray(train[known])[place.reshape(rows.shape)]
        return neighbour_rows(np.asarray(test[self.queries[:SHOWN]]), shown)


def _cosines(train: Any, test: Any) -> Iterator[np.ndarray]:
    """The cosines of sparse rows of length 1, in blocks."""
    for i in range(0, test.shape[0], QUERIES):
        yield (test[i : i + QUERIES] @ train.T).toarray().astype(np.float32)


def precision(points: np.ndarray, labels: np.ndarray, name: str = "") -> dict[str, float]:
    """`test/{name}precision_at_{10,100}` of points [N, D], every one a query for the others, ranked by the cosine
    (Hinton & Salakhutdinov, 2006, figure 4).

    Precision at k is the share of the first k with the query's label, averaged over the queries; of N points at most
    N − 1 are ranked. Points without a label (-1) are left out.
    """
    points, labels = points[labels >= 0], labels[labels >= 0]
    most = min(max(NEAREST), len(points) - 1)
    nearest = Points(points, "cosine").search(points, most, own=np.arange(len(points))).rows
    shares = (labels[nearest] == labels[:, None]).cumsum(1).mean(0) / np.arange(1, most + 1)
    return {f"test/{name}precision_at_{k}": float(shares[min(k, most) - 1]) for k in NEAREST}
