"""Retrieval by the code: how often the nearest examples share a label."""

from typing import Any

import numpy as np
from scipy import sparse

from aejax.data.bags import dense
from aejax.trained import Trained
from aejax.uses.base import Metric, Result
from aejax.uses.data import Data

NEAREST = (10, 100)
BLOCK = 1000  # queries whose similarities are held at a time
METRICS = {
    f"{prefix}precision_at_{k}": Metric(f"share of an example's {k} nearest by {by} that have its label", "", "higher")
    for prefix, by in (("", "the cosine of the codes"), ("lsa_", "LSA with as many components as the code has units"))
    for k in NEAREST
}


def measure(trained: Trained, data: Data) -> Result:
    """`test/precision_at_10`, `test/precision_at_100`, and the same of LSA under `test/lsa_...`."""
    data.require_labels(("test",))
    test = data.arrays("test")
    points = trained.map(trained.pure_encode, test["x"])
    return Result(precision(points, data.arrays("train")["x"], test["x"], test["y"]))


def precision(codes: np.ndarray, train: Any, test: Any, labels: np.ndarray) -> dict[str, float]:
    """Precision at 10 and 100 of codes [N, ...] of the test examples, and of LSA with as many components.

    Each test example is the query for the other test examples, ranked by the cosine (Hinton & Salakhutdinov,
    2006, figure 4); precision at k is the share of the first k with the query's label, averaged over the
    queries. Examples without a label (-1) are left out. LSA is fitted on the training examples.
    """
    known = np.flatnonzero(labels >= 0)
    codes = codes.reshape(len(codes), -1)
    projected = lsa(train, test, codes.shape[1])
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


def lsa(train: Any, test: Any, size: int) -> np.ndarray:
    """Latent semantic analysis of the test examples, [N, size]: truncated SVD of the training examples, with tf-idf
    weights if the table is sparse; Deerwester et al. (1990)."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfTransformer

    if sparse.issparse(train):
        weights = TfidfTransformer(sublinear_tf=True).fit(train)
        train, test = (weights.transform(x.astype(np.float64)) for x in (train, test))
    else:
        train, test = (np.asarray(dense(x), np.float64).reshape(x.shape[0], -1) for x in (train, test))
    svd = TruncatedSVD(min(size, train.shape[1]), random_state=0).fit(train)
    return svd.transform(test)
