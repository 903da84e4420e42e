"""How well scores separate labelled anomalies, and the scores of simple methods."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from aejax.data.bags import dense
from aejax.uses.base import Draw
from aejax.uses.data import Data
from aejax.uses.neighbours import Points

VARIANCE = 0.9  # of the training split that the components of the PCA baseline explain


def quality(scores: np.ndarray, truth: np.ndarray, threshold: float) -> dict[str, float]:
    """Measures of scores [N] against truth [N] (True = anomaly), by rank and at the threshold."""
    flag = scores > threshold
    hits, n = float((flag & truth).sum()), int(truth.sum())
    precision, recall = hits / max(flag.sum(), 1), hits / n
    largest = np.argsort(-scores, kind="stable")[:n]
    return ranking_quality(scores, truth) | {
        "f1": 2 * hits / (flag.sum() + n),
        "precision": precision,
        "recall": recall,
        "precision_at_n": float(truth[largest].mean()),
        "flagged_normal": float(flag[~truth].mean()),
    }


def ranking_quality(scores: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    from sklearn.metrics import average_precision_score, roc_auc_score

    return {
        "auroc": float(roc_auc_score(truth, scores)),
        "average_precision": float(average_precision_score(truth, scores)),
    }


def baselines(
    data: Data, neighbours: int, references: int, scored: str = "test", *, forest: bool = True
) -> dict[str, np.ndarray]:
    """Scores [N] of a split: squared residual of PCA that explains 90 % of the variance; distance to the k-th
    nearest training example; isolation forest, if `forest`. Fitted to the training split, or to `references` examples
    of it."""
    from sklearn.decomposition import PCA
    from sklearn.ensemble import IsolationForest

    def values(split: str, rows: Any) -> np.ndarray:
        x = data.arrays(split)["x"]
        x = dense(x[rows])
        flat = x.reshape(len(x), -1)
        return np.nan_to_num(flat / np.float32(255) if flat.dtype == np.uint8 else flat.astype(np.float32))

    chosen = np.sort(np.random.default_rng(0).permutation(data.spec.train)[:references])
    train, test = values("train", chosen), values(scored, slice(None))
    pca = PCA(VARIANCE, svd_solver="full").fit(train) if min(train.shape) > 1 else None
    k = min(neighbours, len(train))
    found = {"knn": -Points(train, "euclidean").search(test, k).similarity[:, -1]}
    if pca is not None:
        found["pca"] = ((test - pca.inverse_transform(pca.transform(test))) ** 2).sum(1)
    if forest:
        found["isolation_forest"] = -IsolationForest(random_state=0).fit(train).score_samples(test)
    return found


def separation(
    scores: np.ndarray, truth: np.ndarray | None, curves: Mapping[str, np.ndarray], threshold: float, about: str
) -> dict[str, Draw]:
    """Figures: a histogram of scores [N], and with truth [N] (1 = anomaly, -1 = not known) the curves of all scores."""

    def histogram() -> Any:
        from aejax.uses.anomaly.plots import score_histogram

        kinds = {"": scores} if truth is None else {"normal": scores[truth == 0], "anomalies": scores[truth == 1]}
        return score_histogram(kinds, threshold, about)

    def detection() -> Any:
        from aejax.uses.anomaly.plots import detection_curves

        assert truth is not None
        known = truth >= 0
        return detection_curves({name: values[known] for name, values in curves.items()}, truth[known] == 1)

    drawn: dict[str, Draw] = {"anomaly_scores": histogram}
    return drawn | ({} if truth is None else {"detection": detection})
