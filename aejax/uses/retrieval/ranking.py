"""Measures of rankings: precision, recall, average precision."""

from collections.abc import Iterable

import numpy as np

NEAREST = (10, 100)


def measure(similarities: Iterable[np.ndarray], queries: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """precision_at_10, precision_at_100, recall_at_100 and map of blocks of similarities [b, N].

    `queries` [Q] and `labels` [N] are class indices. A row of the database is relevant to a query if it has the same
    label. Each measure is a mean over the queries that have a relevant row, 0 if none has.

    precision at k: share of the first k rows that are relevant. recall at k: share of the relevant rows that are among
    the first k. Average precision: mean over the relevant rows of the precision at their ranks in the full ranking; its
    mean is `map`. Rows of equal similarity are in any order, so the database must not be sorted by label: see
    `shuffled`.
    """
    sums, begin, count = np.zeros(4), 0, 0
    ranks = np.arange(1, len(labels) + 1)
    first = [min(k, len(labels)) for k in NEAREST]
    for block in similarities:
        order = np.argsort(-block, axis=1)
        hits = labels[order] == queries[begin : begin + len(block), None]  # [b, N]
        begin += len(block)
        total = hits.sum(1)
        hits, total = hits[total > 0], total[total > 0]
        found = np.cumsum(hits, axis=1, dtype=np.int32)
        average = np.where(hits, found / ranks[None], 0).sum(1) / total
        ten, hundred = (found[:, k - 1] for k in first)
        sums += [(ten / first[0]).sum(), (hundred / first[1]).sum(), average.sum(), (hundred / total).sum()]
        count += len(hits)
    names = ("precision_at_10", "precision_at_100", "map", "recall_at_100")
    return {name: float(value / max(count, 1)) for name, value in zip(names, sums, strict=True)}


def shuffled(n: int) -> np.ndarray:
    """A fixed order of n rows, so that ties are not broken by the order of a source."""
    return np.random.default_rng(0).permutation(n)
