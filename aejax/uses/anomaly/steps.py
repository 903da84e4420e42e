"""Anomalies in long series: scores of windows become scores of steps, and steps above the threshold intervals."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from aejax.data.windows import Part
from aejax.trained import Trained
from aejax.uses.anomaly.detector import STORED, Detector, Settings, blocks, cross_fitted, fit
from aejax.uses.anomaly.quality import baselines, quality, ranking_quality, separation
from aejax.uses.base import Draw, Result
from aejax.uses.data import Data

Columns = dict[str, Any]
INTERVALS = ("begin", "end", "channel", "score")


def measure(
    models: Sequence[Trained], data: Data, how: Settings, references: int, contamination: float, buffer: int
) -> Result:
    """Scores of the steps of the test part: the mean over the windows that cover a step of the score of the window.

    `anomaly/threshold` and `anomaly/flagged`; with labels also the numbers of `quality`, of steps and never adjusted to
    intervals, and `anomaly/vus_pr` (Paparrizos et al. 2022), by aeon, over buffers from 0 to `buffer` steps around the
    anomalies, the mean over the series.

    Baselines, each with auroc, average_precision and vus_pr: `anomaly/{pca,knn}`, fitted to the same windows and
    averaged in the same way; `anomaly/time`, a ramp; `anomaly/random`.
    """
    parts, buffer = data.dataset.parts, buffer or data.spec.x.shape[0]
    made = fit(models, data.arrays("train")["x"], [np.arange(data.spec.train)] * len(models), how, references)
    _calibrate(made, data, how, references, contamination)
    scores = {name: part.at_steps(made.score(data.arrays(name)["x"])) for name, part in parts.items()}
    test = parts["test"]
    numbers = {"threshold": made.threshold, "flagged": float((scores["test"] > made.threshold).sum())}
    notes = [f"threshold {made.threshold:.4g}: {made.about}"]
    truth, curves = test.label(), {"autoencoder": scores["test"]}
    if truth is None or len(np.unique(truth)) < 2:
        notes.append("the test part does not have both, normal and labelled anomalous steps: nothing is measured")
        truth = None
    else:
        numbers |= quality(scores["test"], truth == 1, made.threshold)
        curves |= simple(data, how.neighbours, references)
        for name, own in curves.items():
            before = "" if name == "autoencoder" else f"{name}/"
            numbers |= {f"{before}{term}": value for term, value in ranking_quality(own, truth == 1).items()}
            volume = vus_pr({"test": test}, {"test": own}, buffer)
            numbers |= {} if volume is None else {f"{before}vus_pr": volume}
        notes.append(
            f"vus_pr: buffers of 0 to {buffer} steps"
            if "vus_pr" in numbers
            else "vus_pr is left out: it needs aeon: pip install 'aejax[series]'"
        )
    table = intervals(made, test, data.arrays("test")["x"], scores["test"])
    if truth is not None:
        table["anomaly"] = table.pop("truth")
    table.pop("truth", None)
    return Result(
        {f"anomaly/{name}": value for name, value in numbers.items()},
        {"anomalies": table},
        _figures(made, test, scores["test"], truth, curves),
        notes,
        {STORED: made.stored()},
    )


def _calibrate(made: Detector, data: Data, how: Settings, references: int, contamination: float) -> None:
    """Set the threshold: a quantile of the scores of validation steps, else of cross-fitted training steps. Steps that
    are labelled as anomalies are left out."""
    parts, share = data.dataset.parts, f"{100 * (1 - contamination):.4g} % quantile of"
    if "validation" in parts:
        part, scores = parts["validation"], made.score(data.arrays("validation")["x"])
        about = "validation steps"
    else:
        part, x = parts["train"], data.arrays("train")["x"]
        fold = blocks(len(part))
        scores = np.mean([cross_fitted([model], x, fold, how, references) for model in made.models], axis=0)
        about = "training steps, cross-fitted in blocks but for the model: prefer a validation split"
    label, steps = part.label(), part.at_steps(scores)
    normal = steps if label is None else steps[label == 0]
    made.calibrate(normal, contamination)
    made.about = f"{share} the scores of {len(normal):,} {about}"


def simple(data: Data, neighbours: int, references: int, split: str = "test") -> dict[str, np.ndarray]:
    """Scores of the steps of a split by simple methods."""
    part = data.dataset.parts[split]
    found = baselines(data, neighbours, references, split, forest=False)
    time = np.concatenate([np.arange(begin, end) for _, begin, end in part.each()])
    found = {name: part.at_steps(own) for name, own in found.items()}
    return found | {"time": time.astype(float), "random": np.random.default_rng(0).random(len(time))}


def vus_pr(parts: Mapping[str, Part], scores: Mapping[str, np.ndarray], buffer: int) -> float | None:
    """Volume under the surface of precision and recall, by aeon; None without aeon.

    parts: one, or several that follow each other; scores: of the steps of each. The mean over the series that have both
    kinds of steps. The buffer goes from 0 to `buffer` steps: the default of aeon, 500, has no relation to the series.
    """
    try:
        from aeon.benchmarking.metrics.anomaly_detection import range_pr_vus_score
    except ImportError:
        return None
    own = {name: np.split(scores[name], _ends(part)) for name, part in parts.items()}
    values = []
    for i, one in enumerate(next(iter(parts.values())).series):
        assert one.label is not None
        label = np.concatenate([one.label[part.begin[i] : part.end[i]] for part in parts.values()]).astype(np.int64)
        score = np.concatenate([own[name][i] for name in parts]).astype(np.float64)
        if 0 < label.sum() < len(label):
            values.append(range_pr_vus_score(label, score, max_buffer_size=buffer))
    return float(np.mean(values))


def runs(flag: np.ndarray) -> list[tuple[int, int]]:
    """The runs of true values: (first, one after the last)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flag.astype(np.int8), [0]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def step_columns(made: Detector, part: Part, scores: np.ndarray) -> tuple[list[Any], Columns]:
    """(id of the series, columns) of each step, with the scores of its windows."""
    steps = part.at_steps(scores).astype(np.float32)
    ids = [one.name for one, begin, end in part.each() for _ in range(begin, end)]
    return ids, {
        "time": [time for one, begin, end in part.each() for time in one.time[begin:end]],
        "score": steps,
        "threshold": np.full(len(steps), made.threshold, np.float32),
        "flag": (steps > made.threshold).astype(np.int8),
        "p_value": made.p_value(steps),
    }


def intervals(made: Detector, part: Part, x: Any, steps: np.ndarray) -> Columns:
    """Runs of steps above the threshold: id, begin, end (both included), channel, largest score, share of anomalies.

    The channel has the largest mean squared residual in the windows that cover the run, by the first model, in units of
    its mean over the training windows. steps: scores of the steps of the part.
    """
    model = made.model
    field, table = model.spec.x, {name: list[Any]() for name in ("id", *INTERVALS, "truth")}
    variance = made.statistics["variance"][0].reshape(field.shape).mean(0)
    of = functools.partial(_by_channel, model, field.shape)
    shares = part.at_steps(model.map(of, x) / variance[None]) if field.shape[1] > 1 else np.zeros((len(steps), 1))
    channels = field.columns or tuple(str(j) for j in range(field.shape[1]))
    for (one, begin, _), own, share in zip(
        part.each(), np.split(steps, _ends(part)), np.split(shares, _ends(part)), strict=True
    ):
        for first, after in runs(own > made.threshold):
            label = None if one.label is None else one.label[begin + first : begin + after].mean()
            row = [one.name, one.time[begin + first], one.time[begin + after - 1]]
            row += [channels[int(share[first:after].mean(0).argmax())], float(f"{own[first:after].max():.6g}")]
            for name, value in zip(table, (*row, label), strict=True):
                table[name].append(value)
    return table


def interval_columns(made: Detector, part: Part, x: Any) -> tuple[Any, Columns]:
    """(id of the series, columns) of each interval of windows x, as arrays of Arrow: there may be none."""
    import pyarrow

    table = intervals(made, part, x, part.at_steps(made.score(x)))
    time = pyarrow.array([part.series[0].time[0]]).type
    types = dict(
        zip(("id", *INTERVALS), (pyarrow.string(), time, time, pyarrow.string(), pyarrow.float32()), strict=True)
    )
    columns = {name: pyarrow.array(table[name], kind) for name, kind in types.items()}
    return columns.pop("id"), columns


def _by_channel(model: Trained, shape: tuple[int, ...], x: Any) -> Any:
    return model.pure_errors(x)[1].reshape(-1, *shape).mean(1)


def _ends(part: Part) -> np.ndarray:
    return np.cumsum([end - begin for _, begin, end in part.each()])[:-1]


def _figures(
    made: Detector, test: Part, scores: np.ndarray, truth: np.ndarray | None, curves: Mapping[str, np.ndarray]
) -> dict[str, Draw]:
    def series() -> Any:
        from aejax.uses.anomaly.plots import anomaly_series

        own = list(zip(test.each(), np.split(scores, _ends(test)), strict=True))
        flagged = [int((part > made.threshold).sum()) for _, part in own]
        labelled = [0 if one.label is None else int(one.label[begin:end].sum()) for (one, begin, end), _ in own]
        (one, begin, end), score = own[int(np.argmax(labelled if any(labelled) else flagged))]
        known = {} if one.label is None else {"labelled": runs(one.label[begin:end] == 1)}
        columns = made.model.spec.x.columns
        value, shades = one.value[begin:end], known | {"flagged": runs(score > made.threshold)}
        return anomaly_series(np.arange(begin, end), value, score, made.threshold, shades, columns, one.name)

    return {"anomaly_series": series} | separation(scores, truth, curves, made.threshold, made.about)
