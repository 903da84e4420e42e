"""Anomaly detection: scores, a threshold, and how well they separate labelled anomalies."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np

from aejax.data.bags import dense
from aejax.fields import Field, above, at_least, each, one_of, some_of, within
from aejax.trained import Trained
from aejax.uses import detector as detector_lib
from aejax.uses import reasons
from aejax.uses.base import Draw, Metric, Result, Skip
from aejax.uses.data import Data
from aejax.uses.detector import SCORES, TERMS, Detector

LISTED, SHOWN = 100, 8  # most anomalous test examples in the table, and in the figure
VARIANCE = 0.9  # of the training split that the components of the PCA baseline explain
DETECTOR = "detector"  # name of the stored arrays
METRICS = {
    "auroc": Metric("area under the ROC curve: probability that an anomaly has the larger score", "", "higher"),
    "average_precision": Metric("area under the precision-recall curve of the anomalies", "", "higher"),
    "f1": Metric("harmonic mean of precision and recall at the threshold", "", "higher"),
    "precision": Metric("share of the flagged examples that are anomalies", "", "higher"),
    "recall": Metric("share of the anomalies that are flagged", "", "higher"),
    "precision_at_n": Metric("share of anomalies among the n largest scores, for n anomalies", "", "higher"),
    "threshold": Metric("score above which an example is flagged"),
    "flagged": Metric("test examples above the threshold"),
    "flagged_normal": Metric("share of the normal test examples above the threshold", "", "lower"),
}


def measure(
    trained: Trained,
    data: Data,
    *,
    score: Annotated[
        str, Field("score: likelihood | standardized | code_knn | code_mahalanobis | combined", one_of(SCORES))
    ] = "combined",
    terms: Annotated[
        tuple, Field("terms of the combined score; () = those for the kind of data", some_of(TERMS))
    ] = (),
    weights: Annotated[
        tuple, Field("weight of the logarithm of each of the terms", each(above(0), float, "floats above 0"))
    ] = (),
    neighbours: Annotated[int, Field("training codes whose mean distance is the term code_knn", at_least(1))] = 5,
    references: Annotated[int, Field("most training codes among which neighbours are sought", at_least(2))] = 20_000,
    contamination: Annotated[
        float, Field("share of normal examples that the threshold flags", within(0, 1, brackets="()"))
    ] = 0.05,
    normal_labels: Annotated[tuple, Field("labels of normal examples; () = data.train_labels")] = (),
) -> Result:
    """`anomaly/threshold` and `anomaly/flagged`; with labels also `anomaly/{auroc,average_precision,f1,precision,recall,
    precision_at_n,flagged_normal}` of the test split.

    Baselines, fitted to the training split: `anomaly/{pca,knn,isolation_forest}/{auroc,average_precision}`.
    """
    pair = trained.objective.pair
    if pair.supervised or pair.conditional:
        raise Skip("needs a model whose target is its own example, without a condition")
    config = trained.config
    normal = tuple(str(name) for name in normal_labels or config.data.train_labels)
    is_normal = {split: _normal(data, split, normal) for split in ("train", "validation", "test")}
    how = detector_lib.settings(score, terms, weights, neighbours, data.spec.x.kind)
    made = fit([trained], data, how, references, contamination, is_normal["validation"])
    test = data.arrays("test")["x"]
    scores = made.score(test)
    numbers = {"threshold": made.threshold, "flagged": float((scores > made.threshold).sum())}
    curves = {"autoencoder": scores}
    truth = None if is_normal["test"] is None else ~is_normal["test"]
    if truth is not None:
        if truth.all() or not truth.any():
            raise Skip(f"the test split has {'only' if truth.all() else 'no'} anomalies: labels other than {normal}")
        numbers |= quality(scores, truth, made.threshold)
        for name, values in baselines(trained, data, neighbours, references).items():
            curves[name] = values
            numbers |= {f"{name}/{term}": v for term, v in ranking_quality(values, truth).items()}
    dense_table = data.spec.x.kind == "table" and not data.spec.x.sparse
    ranges = reasons.ranges(data.spec.x, data.train) if dense_table else {}
    table = _table(made, test, scores, truth, reasons_for(made, ranges))
    return Result(
        {f"anomaly/{name}": value for name, value in numbers.items()},
        {"anomalies": table},
        _figures(made, data, test, scores, truth, curves),
        [f"threshold {made.threshold:.4g}: {made.about}", *([] if truth is not None else [_unlabelled(data)])],
        {DETECTOR: made.arrays() | dict(ranges)},
    )


def _unlabelled(data: Data) -> str:
    if not data.spec.classes:
        return "no labels: only the threshold and the number of flagged examples are measured"
    return "set uses.anomaly.normal_labels to the labels of normal examples to measure how well the score separates"


def _normal(data: Data, split: str, normal: Sequence[str]) -> np.ndarray | None:
    """Whether each example of a split is normal, [N]; None if the labels do not say. Raises Skip."""
    if not normal:
        return None
    labels, classes = data.labels(split), data.spec.classes
    if labels is None or not (labels >= 0).any():
        if split == "test":
            raise Skip(f"normal labels are {', '.join(normal)}, but the {split} split has no labels")
        return None
    for name in normal:
        if name not in classes:
            raise Skip(f"normal label {name!r} must be one of {', '.join(classes)}")
    return np.isin(labels, [classes.index(name) for name in normal])


def fit(
    models: Sequence[Trained],
    data: Data,
    how: detector_lib.Settings,
    references: int,
    contamination: float,
    normal: np.ndarray | None,
) -> Detector:
    """The detector of models that were trained on the training split; `normal`: of the validation split, None = all.

    The threshold is a quantile of the scores of normal validation examples, else of cross-fitted training scores.
    """
    x = data.arrays("train")["x"]
    members = [detector_lib.fit_member(model, x, how, references)[0] for model in models]
    rows = np.arange(data.spec.validation) if normal is None else np.flatnonzero(normal)
    share = f"{100 * (1 - contamination):.4g} % quantile of"
    if len(rows):
        held = data.arrays("validation")["x"][rows]
        scores = Detector(members, np.zeros(1), contamination, "").score(held)
        about = f"{share} {len(rows):,} normal validation scores"
    else:
        parts = [detector_lib.cross_fitted(model, x, how, references) for model in models]
        scores, about = np.mean(parts, axis=0), f"{share} {x.shape[0]:,} cross-fitted training scores"
    return Detector(members, np.sort(scores), contamination, about)


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


def baselines(trained: Trained, data: Data, neighbours: int, references: int) -> dict[str, np.ndarray]:
    """Scores [N] of the test split: squared residual of PCA that explains 90 % of the variance; distance to the k-th
    nearest training example; isolation forest. Fitted to the training split, or to `references` examples of it."""
    from sklearn.decomposition import PCA
    from sklearn.ensemble import IsolationForest

    def values(split: str) -> np.ndarray:
        x = data.arrays(split)["x"]
        rows = np.sort(np.random.default_rng(0).permutation(x.shape[0])[:references]) if split == "train" else slice(None)
        x = dense(x[rows])
        flat = x.reshape(len(x), -1)
        return np.nan_to_num(flat / np.float32(255) if flat.dtype == np.uint8 else flat.astype(np.float32))

    train, test = values("train"), values("test")
    pca = PCA(VARIANCE, svd_solver="full").fit(train) if min(train.shape) > 1 else None
    from aejax.uses.neighbours import Points

    k = min(neighbours, len(train))
    found = {"knn": -Points(train, "euclidean").search(test, k).similarity[:, -1]}
    if pca is not None:
        found["pca"] = ((test - pca.inverse_transform(pca.transform(test))) ** 2).sum(1)
    found["isolation_forest"] = -IsolationForest(random_state=0).fit(train).score_samples(test)
    return found


def reasons_for(made: Detector, ranges: Mapping[str, np.ndarray]) -> reasons.Reasons | None:
    """Reasons by the first model; None unless the data are a dense table. ranges: see `reasons.ranges`."""
    field = made.members[0].model.spec.x
    if field.kind != "table" or field.sparse:
        return None
    return reasons.Reasons(field, made.members[0].statistics["variance"], ranges["low"], ranges["high"])


def explained(made: Detector, say: reasons.Reasons, x: np.ndarray) -> tuple[np.ndarray, Any]:
    """Scores [N] and texts [N] of examples [N, D] as the model takes them."""
    model, d = made.members[0].model, x.shape[1]
    values = model.map(made.pure_explained, x)
    mean, squares = values[:, 1 : d + 1], values[:, d + 1 :]
    return values[:, 0], say(model.spec.x.unscale(x), model.spec.x.unscale(mean), squares)


def _table(
    made: Detector, test: Any, scores: np.ndarray, truth: np.ndarray | None, say: reasons.Reasons | None
) -> dict[str, Any]:
    """The most anomalous test examples."""
    rows = np.argsort(-scores, kind="stable")[:LISTED]
    table: dict[str, Any] = {
        "row": rows.tolist(),
        "score": [float(f"{value:.6g}") for value in scores[rows]],
        "flag": (scores[rows] > made.threshold).astype(int).tolist(),
        "p_value": [float(f"{value:.4g}") for value in made.p_value(scores[rows])],
    }
    if truth is not None:
        table["anomaly"] = truth[rows].astype(int).tolist()
    if say:
        table["reasons"] = explained(made, say, dense(test[rows]))[1].to_pylist()
    return table


def _figures(
    made: Detector,
    data: Data,
    test: Any,
    scores: np.ndarray,
    truth: np.ndarray | None,
    curves: Mapping[str, np.ndarray],
) -> dict[str, Draw]:
    def examples() -> Any:
        from aejax.page.plots import anomaly_images, anomaly_rows

        rows = np.argsort(-scores, kind="stable")[:SHOWN]
        model, x = made.members[0].model, dense(test[np.sort(rows)])[np.argsort(np.argsort(rows))]
        if data.spec.x.kind == "image":
            x = x / np.float32(255) if x.dtype == np.uint8 else x
            return anomaly_images(x, model.map(model.pure_reconstruct, x))
        squares = model.map(lambda part: model.pure_errors(part)[0], x)
        names = data.spec.x.outputs or tuple(str(j) for j in range(squares.shape[1]))
        shares = np.sqrt(squares / made.members[0].statistics["variance"][None])
        return anomaly_rows(shares, [str(row) for row in rows], names)

    def histogram() -> Any:
        from aejax.page.plots import score_histogram

        return score_histogram(scores, truth, made.threshold, made.about)

    def detection() -> Any:
        from aejax.page.plots import detection_curves

        assert truth is not None
        return detection_curves(curves, truth)

    drawn: dict[str, Draw] = {"anomaly_scores": histogram, "anomalies": examples}
    return drawn | ({} if truth is None else {"detection": detection})
