"""Retrieval: whether the nearest examples by the code share a label."""

from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
from scipy import sparse

from aejax.data.bags import dense
from aejax.data.lazy import Lazy, chunks
from aejax.errors import InputError
from aejax.fields import Field, at_least, each, one_of
from aejax.trained import Trained
from aejax.uses.base import Draw, Metric, Result
from aejax.uses.bits import Bits, Signs, itq
from aejax.uses.data import Data
from aejax.uses.neighbours import METRICS as SIMILARITIES
from aejax.uses.neighbours import QUERIES, Points, unit
from aejax.uses.ranking import measure as measure_ranking
from aejax.uses.ranking import shuffled

NEAREST = (10, 100)
BLOCK = 1000  # queries whose similarities are held at a time
SHOWN, COLUMNS = 4, 8  # queries in a figure, and neighbours of each
POINTS = 5000  # most codes in a map
METRICS = {
    f"{prefix}precision_at_{k}": Metric(f"share of the {k} nearest{by} that have the query's label", "", "higher")
    for prefix, by in (("", ""), ("lsa_", " by LSA with as many components as the code has units"))
    for k in NEAREST
} | {
    "map": Metric("mean average precision over the full ranking of the database", "", "higher"),
    "recall_at_100": Metric(
        "share of the examples with the query's label that are among the 100 nearest", "", "higher"
    ),
}


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
    test, labels = data.arrays("test"), data.labels("train")
    codes = _codes(trained, test["x"])
    numbers = precision(codes, data.arrays("train")["x"], test["x"], test["y"])
    if labels is None or not (labels >= 0).any():
        return Result(numbers, notes=["the training split has no labels: only test against test is measured"])
    search = Search(trained, data, metric, codes, queries)
    for name, similarities in search.rankings():
        found = measure_ranking(similarities, search.asked, search.labels)
        numbers |= {f"retrieval/{name}{term}": value for term, value in found.items()}
    for size in bits:
        for name, similarities in search.signed(size):
            found = measure_ranking(similarities, search.asked, search.labels)
            numbers |= {f"retrieval/bits_{size}/{name}{term}": value for term, value in found.items()}
    figures: dict[str, Draw] = {}
    if data.spec.x.kind == "image":
        figures["neighbours"] = search.figure
    if search.codes["train"].shape[1] == 2:
        figures["query"] = search.map
    return Result(numbers, {"neighbours": search.table()}, figures, search.notes)


class Search:
    """The labelled training examples as database, in a shuffled order, and test examples as queries."""

    def __init__(self, trained: Trained, data: Data, metric: str, codes: np.ndarray, most: int):
        self.trained, self.data, self.metric, self.notes = trained, data, metric, list[str]()
        train, test = data.arrays("train"), data.arrays("test")
        known = np.flatnonzero(train["y"] >= 0)
        self.rows = known[shuffled(len(known))]
        self.queries = np.flatnonzero(test["y"] >= 0)[: most or None]
        self.labels, self.asked = train["y"][self.rows], test["y"][self.queries]
        self.codes = {"train": _codes(trained, train["x"])[self.rows], "test": codes[self.queries]}
        self.streamed = isinstance(train["x"], Lazy)
        if self.streamed:
            self.notes.append("the examples are streamed: the ranking by their values is left out")

    @property
    def projection(self) -> str:
        return "lsa" if self.data.spec.x.sparse else "pca"

    def raw(self) -> dict[str, Any]:
        """Values of the examples [N, D] by split; of texts their tf-idf weights in rows of length 1."""
        parts = {split: self.data.arrays(split)["x"] for split in ("train", "test")}
        if self.data.spec.x.sparse:
            parts = dict(zip(parts, tfidf(parts["train"], parts["test"]), strict=True))
        else:
            parts = {split: dense(x).reshape(len(x), -1) for split, x in parts.items()}
        return {"train": parts["train"][self.rows], "test": parts["test"][self.queries]}

    def projected(self, size: int) -> dict[str, np.ndarray]:
        """PCA, or for texts LSA, of the examples with at most `size` components, by split."""
        train, test = (self.data.arrays(split)["x"] for split in ("train", "test"))
        if self.data.spec.x.sparse:
            both = dict(zip(("train", "test"), lsa(train, test, size), strict=True))
        else:
            pca = self.data.pca(self.trained, size)
            both = {
                split: np.concatenate([pca.transform(self._flat(part)) for part in chunks(x)])
                for split, x in (("train", train), ("test", test))
            }
        return {"train": both["train"][self.rows], "test": both["test"][self.queries]}

    def _flat(self, x: np.ndarray) -> np.ndarray:
        x = x / np.float32(255) if x.dtype == np.uint8 else x
        return self.trained.target(dense(x)).reshape(len(x), -1)

    def rankings(self) -> Iterator[tuple[str, Iterator[np.ndarray]]]:
        """(name of a ranking, similarities in blocks) for the code, the values and their projection."""
        yield "", self._similarities(self.codes)
        if not self.streamed:
            name, raw = {"image": "pixels", "table": "columns"}[self.data.spec.x.kind], self.raw()
            sparse_ = sparse.issparse(raw["train"])
            yield ("words/" if sparse_ else f"{name}/"), (_cosines(raw) if sparse_ else self._similarities(raw))
        yield f"{self.projection}/", self._similarities(self.projected(self.codes["train"].shape[1]))

    def signed(self, size: int) -> Iterator[tuple[str, Iterator[np.ndarray]]]:
        """(name of a ranking, similarities in blocks) by bits of the code, and of PCA or LSA."""
        for name, parts in (("", self.codes), (f"{self.projection}_itq/", self.projected(size))):
            if self.metric == "cosine":
                parts = {split: unit(codes) for split, codes in parts.items()}
            try:
                signs: Signs = itq(parts["train"], size)
            except InputError as error:
                self.notes.append(f"{name or 'code '}{error}: left out")
                continue
            yield name, Bits(signs.pack(parts["train"])).similarities(signs.pack(parts["test"]))

    def _similarities(self, parts: dict[str, np.ndarray]) -> Iterator[np.ndarray]:
        return Points(parts["train"], self.metric).similarities(parts["test"])

    def table(self) -> dict[str, list[Any]]:
        """The nearest by the code of the first queries: rows of their splits, with labels."""
        found = Points(self.codes["train"], self.metric).search(
            self.codes["test"][:SHOWN], min(COLUMNS, len(self.rows))
        )
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
        from aejax.page.plots import query_map, short

        codes, classes = self.codes["train"], self.data.spec.classes
        found = Points(codes, self.metric).search(self.codes["test"][:1], min(NEAREST[0], len(codes))).rows[0]
        shown = np.unique(np.concatenate([np.arange(min(POINTS, len(codes))), found]))
        title = f"query: test example {self.queries[0]}, {short(classes[self.asked[0]])}"
        place = np.searchsorted(shown, found)
        return query_map(codes[shown], self.labels[shown], classes, self.codes["test"][0], place, title)

    def figure(self) -> Any:
        """Queries, each beside its nearest training images, by values, by PCA and by the code."""
        from aejax.page.plots import neighbour_rows

        images = {split: self.data.arrays(split)["x"] for split in ("train", "test")}
        ranked = {} if self.streamed else {"pixels": self.raw()}
        size = self.codes["train"].shape[1]
        ranked |= {f"PCA, {size} components": self.projected(size), f"code, {size} units": self.codes}
        shown = {}
        for name, parts in ranked.items():
            rows = Points(parts["train"], self.metric).search(parts["test"][:SHOWN], COLUMNS).rows
            found = np.asarray(images["train"][np.sort(np.unique(self.rows[rows]))])
            place = np.searchsorted(np.unique(self.rows[rows]), self.rows[rows])
            shown[name] = found[place]
        return neighbour_rows(np.asarray(images["test"][self.queries[:SHOWN]]), shown)


def _codes(trained: Trained, x: Any) -> np.ndarray:
    codes = trained.map(trained.pure_encode, x)
    return codes.reshape(len(codes), -1)


def _cosines(parts: dict[str, Any]) -> Iterator[np.ndarray]:
    """The cosines of sparse rows of length 1, in blocks."""
    for i in range(0, parts["test"].shape[0], QUERIES):
        yield (parts["test"][i : i + QUERIES] @ parts["train"].T).toarray().astype(np.float32)


def precision(codes: np.ndarray, train: Any, test: Any, labels: np.ndarray) -> dict[str, float]:
    """Precision at 10 and 100 of codes [N, ...] of the test examples, and of LSA with as many components.

    Each test example is the query for the other test examples, ranked by the cosine (Hinton & Salakhutdinov,
    2006, figure 4); precision at k is the share of the first k with the query's label, averaged over the
    queries. Examples without a label (-1) are left out. LSA is fitted on the training examples.
    """
    known = np.flatnonzero(labels >= 0)
    codes = codes.reshape(len(codes), -1)
    _, projected = lsa(train, test, codes.shape[1])
    found: dict[str, float] = {}
    for name, points in (("", codes), ("lsa_", projected)):
        for k, value in at(points[known], labels[known]).items():
            found[f"test/{name}precision_at_{k}"] = value
    return found


def at(points: np.ndarray, labels: np.ndarray) -> dict[int, float]:
    """k -> precision at k of points [N, D], every one a query for the others; at most N − 1 are ranked."""
    points = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12)
    most = min(max(NEAREST), len(points) - 1)
    hits = np.zeros(most)
    for begin in range(0, len(points), BLOCK):
        similarity = points[begin : begin + BLOCK] @ points.T  # [block, N]
        rows = np.arange(len(similarity))
        similarity[rows, begin + rows] = -np.inf  # the query itself
        nearest = np.argpartition(-similarity, most - 1, axis=1)[:, :most]
        order = np.argsort(-np.take_along_axis(similarity, nearest, 1), axis=1, kind="stable")
        nearest = np.take_along_axis(nearest, order, 1)
        hits += (labels[nearest] == labels[begin : begin + BLOCK, None]).sum(0)
    shares = np.cumsum(hits) / np.arange(1, most + 1) / max(len(points), 1)
    return {k: float(shares[min(k, most) - 1]) for k in NEAREST}


def lsa(train: Any, test: Any, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Latent semantic analysis of training and test examples, [N, size]: truncated SVD of the training examples, with
    tf-idf weights if the table is sparse; Deerwester et al. (1990)."""
    from sklearn.decomposition import TruncatedSVD

    if sparse.issparse(train):
        train, test = tfidf(train, test)
    else:
        train, test = (np.asarray(dense(x), np.float64).reshape(x.shape[0], -1) for x in (train, test))
    svd = TruncatedSVD(min(size, train.shape[1]), random_state=0).fit(train)
    return svd.transform(train), svd.transform(test)


def tfidf(train: Any, test: Any) -> tuple[Any, Any]:
    """(1 + log count) idf of sparse counts, each row of length 1; idf of the training examples. Other sparse values are
    weights already: only the length of the rows is changed."""
    from sklearn.feature_extraction.text import TfidfTransformer
    from sklearn.preprocessing import normalize

    if train.dtype.kind == "f":
        return normalize(train), normalize(test)
    weights = TfidfTransformer(sublinear_tf=True).fit(train)
    return weights.transform(train.astype(np.float64)), weights.transform(test.astype(np.float64))
