"""Anomaly detection: scores, a threshold, and how well they separate labelled anomalies."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from aejax.data.bags import dense
from aejax.data.spec import Spec
from aejax.errors import FieldError, InputError
from aejax.fields import Field, above, at_least, each, one_of, some_of, within
from aejax.trained import Trained
from aejax.uses.anomaly import steps
from aejax.uses.anomaly.detector import FOLDS, SCORES, STORED, TERMS, Detector, Settings, cross_fitted, fit, settings
from aejax.uses.anomaly.quality import baselines, quality, ranking_quality, separation
from aejax.uses.anomaly.reasons import Reasons, ranges
from aejax.uses.base import Draw, Metric, Result, Skip
from aejax.uses.data import Data

LISTED, SHOWN = 100, 8  # most anomalous test examples in the table, and in the figure
MAPPED, SIDE = 1000, 224  # training images that give the scale of the maps, and pixels along a side of a map
METRICS = {
    "auroc": Metric("area under the ROC curve: probability that an anomaly has the larger score", "", "higher"),
    "average_precision": Metric("area under the precision-recall curve of the anomalies", "", "higher"),
    "f1": Metric("harmonic mean of precision and recall at the threshold", "", "higher"),
    "precision": Metric("share of the flagged examples that are anomalies", "", "higher"),
    "recall": Metric("share of the anomalies that are flagged", "", "higher"),
    "vus_pr": Metric(
        "volume under the surface of range-based precision and recall over the buffers around the anomalies",
        "",
        "higher",
    ),
    "precision_at_n": Metric("share of anomalies among the n largest scores, for n anomalies", "", "higher"),
    "threshold": Metric("score above which an example is flagged"),
    "flagged": Metric("test examples above the threshold"),
    "flagged_normal": Metric("share of the normal test examples above the threshold", "", "lower"),
}


def measure(
    trained: Trained | Sequence[Trained],
    data: Data,
    *,
    score: Annotated[
        str, Field("score: likelihood | standardized | code_knn | code_mahalanobis | combined", one_of(SCORES))
    ] = "combined",
    terms: Annotated[tuple, Field("terms of the combined score; () = those for the kind of data", some_of(TERMS))] = (),
    weights: Annotated[
        tuple, Field("weight of the logarithm of each of the terms", each(above(0), float, "floats above 0"))
    ] = (),
    neighbours: Annotated[int, Field("training codes whose mean distance is the term code_knn", at_least(1))] = 5,
    references: Annotated[int, Field("most training codes among which neighbours are sought", at_least(2))] = 5_000,
    contamination: Annotated[
        float, Field("share of normal examples that the threshold flags", within(0, 0.5, brackets="(]"))
    ] = 0.05,
    normal_labels: Annotated[tuple, Field("labels of normal examples; () = data.train_labels")] = (),
    buffer: Annotated[
        int, Field("series: largest buffer of vus_pr around an anomaly, in steps; 0 = a window", at_least(0))
    ] = 0,
) -> Result:
    """Of several models of one program the scores are the mean of their standardised scores.

    `anomaly/threshold` and `anomaly/flagged`; with labels also `anomaly/{auroc,average_precision,f1,precision,
    recall,precision_at_n,flagged_normal}` of the test split.

    Baselines, fitted to the training split: `anomaly/{pca,knn,isolation_forest}/{auroc,average_precision}`.

    Of windows of long series the examples are steps: see `steps.measure`.
    """
    models = [trained] if isinstance(trained, Trained) else trained
    trained = models[0]
    pair = trained.objective.pair
    if pair.supervised or pair.conditional:
        raise Skip("needs a model whose target is its own example, without a condition")
    config, kind = trained.config, data.spec.x.kind
    if data.dataset.parts:
        how = settings(score, terms, weights, neighbours, kind)
        return steps.measure(models, data, how, references, contamination, buffer)
    normal = tuple(str(name) for name in normal_labels or config.data.train_labels)
    truth = _truth(data, normal)
    how = settings(score, terms, weights, neighbours, kind)
    made = fitted(models, data, how, references, contamination, normal)
    test = data.arrays("test")["x"]
    scores = made.score(test)
    numbers = {"threshold": made.threshold, "flagged": float((scores > made.threshold).sum())}
    curves = {"autoencoder": scores}
    if truth is not None:
        known = truth >= 0
        numbers |= quality(scores[known], truth[known] == 1, made.threshold)
        curves |= baselines(data, neighbours, references)
        for name in [name for name in curves if name != "autoencoder"]:
            found = ranking_quality(curves[name][known], truth[known] == 1)
            numbers |= {f"{name}/{term}": value for term, value in found.items()}
    dense_table = data.spec.x.kind == "table" and not data.spec.x.sparse
    beside: Mapping[str, Any] = ranges(data.spec.x, data.train) if dense_table else {}
    if data.spec.x.kind == "image":
        beside = {"brightest": brightest(trained, data.train[:MAPPED])}
    table = _table(made, test, scores, truth, reasons_for(made, beside))
    return Result(
        {f"anomaly/{name}": value for name, value in numbers.items()},
        {"anomalies": table},
        _figures(made, data, test, scores, truth, curves),
        [f"threshold {made.threshold:.4g}: {made.about}", *([] if truth is not None else [_unlabelled(data, normal)])],
        {STORED: made.stored() | dict(beside)},
    )


def check(config: Any, spec: Spec) -> Iterator[FieldError]:
    """Errors of the section `uses.anomaly` on data of `spec`."""
    normal = tuple(str(name) for name in config.uses.anomaly.normal_labels)
    for name in normal:
        if name not in spec.classes:
            allowed = f"must be labels of the data: {', '.join(spec.classes) or 'there are none'}"
            yield FieldError("uses.anomaly.normal_labels", normal, allowed)


def _unlabelled(data: Data, normal: Sequence[str]) -> str:
    if normal:
        return (
            f"the test split does not have both, examples labelled {', '.join(normal)} and others: only the threshold "
            "and the number of flagged examples are measured"
        )
    if not data.spec.classes:
        return "no labels: only the threshold and the number of flagged examples are measured"
    return "set uses.anomaly.normal_labels to the labels of normal examples to measure how well the score separates"


def _truth(data: Data, normal: Sequence[str]) -> np.ndarray | None:
    """1 = anomaly, 0 = normal, -1 = no label, of each test example [N]; None if there are not both kinds."""
    if not normal:
        return None
    labels = data.labels("test")
    if labels is None:
        return None
    truth = np.where(labels < 0, -1, ~np.isin(labels, _numbers(data, normal)))
    return truth if 0 in truth and 1 in truth else None


def _numbers(data: Data, normal: Sequence[str]) -> list[int]:
    return [data.spec.classes.index(name) for name in normal]


def _normal_rows(data: Data, split: str, normal: Sequence[str]) -> np.ndarray:
    """The rows of a split with a normal label, or all rows if there are no labels to tell."""
    labels = data.labels(split) if normal else None
    return (
        np.flatnonzero(np.isin(labels, _numbers(data, normal)))
        if labels is not None
        else np.arange(getattr(data.spec, split))
    )


def fitted(
    models: Sequence[Trained],
    data: Data,
    how: Settings,
    references: int,
    contamination: float,
    normal: Sequence[str],
) -> Detector:
    """The detector of models that were trained on the training split; `normal`: the labels of normal examples.

    The threshold is a quantile of the scores of normal validation examples, else of cross-fitted training scores.
    """
    x, n = data.arrays("train")["x"], data.spec.train
    share = f"{100 * (1 - contamination):.4g} % quantile of"
    made = fit(models, x, [np.arange(n)] * len(models), how, references)
    rows = _normal_rows(data, "validation", normal)
    if len(rows):
        made.calibrate(made.score(data.arrays("validation")["x"][rows]), contamination)
        made.about = f"{share} {len(rows):,} validation scores"
        return made
    fold, rows = np.random.default_rng(0).permutation(n) % FOLDS, _normal_rows(data, "train", normal)
    scores = np.mean([cross_fitted([model], x, fold, how, references) for model in models], axis=0)
    made.calibrate(scores[rows], contamination)
    made.about = f"{share} {len(rows):,} training scores, cross-fitted but for the model: prefer a validation split"
    return made


def reasons_for(made: Detector, stored: Mapping[str, np.ndarray]) -> Reasons | None:
    """Reasons by the first model; None unless the data are a dense table. stored: `reasons.ranges`."""
    field = made.model.spec.x
    if field.kind != "table" or field.sparse:
        return None
    return Reasons(field, made.statistics["variance"][0], stored["low"], stored["high"])


class Maps:
    """Writes a PNG of each image: the image, its reconstruction, and a map of the error, from left to right."""

    def __init__(self, made: Detector, stored: Mapping[str, np.ndarray], folder: Path):
        self.model, self.brightest, self.folder = made.model, float(stored["brightest"]), folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"--maps={folder}: cannot be written: {error.strerror}") from error

    def write(self, ids: Sequence[Any], x: np.ndarray) -> None:
        """FOLDER/ID.png (an ID that ends in .png as it is) for images [n, H, W, C] as the model takes them."""
        from PIL import Image

        from aejax.uses.anomaly.plots import heat

        x = x / np.float32(255) if x.dtype == np.uint8 else x
        r = self.model.map(self.model.pure_reconstruct, x)
        wide = [
            np.broadcast_to(images, (*images.shape[:3], 3)) if images.shape[-1] == 1 else images[..., :3]
            for images in (x, r)
        ]
        joined = np.concatenate([*wide, heat((x - r) ** 2, self.brightest)], axis=2)
        zoom = max(1, SIDE // x.shape[1])
        for name, pixels in zip(ids, joined, strict=True):
            pixels = np.round(255 * np.clip(pixels, 0, 1)).astype(np.uint8).repeat(zoom, 0).repeat(zoom, 1)
            Image.fromarray(pixels).save(self.folder / f"{str(name).removesuffix('.png').replace('/', '__')}.png")


def brightest(trained: Trained, x: np.ndarray) -> float:
    """The error that the maps show in the lightest colour: 99.9th percentile over pixels of images [n, H, W, C]."""
    r = trained.map(trained.pure_reconstruct, x)
    return float(np.sqrt(np.percentile(((x - r) ** 2).mean(-1), 99.9))) or 1.0


def _table(
    made: Detector, test: Any, scores: np.ndarray, truth: np.ndarray | None, say: Reasons | None
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
        table["anomaly"] = truth[rows].tolist()
    if say:
        table["reasons"] = made.explainer(say)(dense(test[rows]))[1].to_pylist()
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
        from aejax.uses.anomaly.plots import anomaly_images, anomaly_rows

        rows = np.argsort(-scores, kind="stable")[:SHOWN]
        model, x = made.model, dense(test[np.sort(rows)])[np.argsort(np.argsort(rows))]
        if data.spec.x.kind == "image":
            x = x / np.float32(255) if x.dtype == np.uint8 else x
            return anomaly_images(x, model.map(model.pure_reconstruct, x))
        squares = model.map(lambda part: model.pure_errors(part)[1], x)
        names = data.spec.x.outputs or tuple(str(j) for j in range(squares.shape[1]))
        shares = np.sqrt(squares / made.statistics["variance"][0][None])
        return anomaly_rows(shares, [str(row) for row in rows], names)

    return {"anomalies": examples} | separation(scores, truth, curves, made.threshold, made.about)
