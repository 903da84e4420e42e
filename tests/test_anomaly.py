"""Anomaly detection: scores by their formulas, threshold, p-values, reasons, the estimator, predict."""

import csv
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score, roc_auc_score
from sklearn.neighbors import NearestNeighbors
from sklearn.utils.estimator_checks import parametrize_with_checks

import aejax
from aejax import export, prediction
from aejax import run as run_lib
from aejax.data import bags, sources, stream
from aejax.errors import InputError
from aejax.sklearn import AnomalyDetector, fit_all
from aejax.training import population
from aejax.uses.anomaly import detector, reasons
from aejax.uses.anomaly import measure as anomaly
from aejax.uses.data import Data
from common import command, finish, images, one_line, small, table, trained, trainer

TINY = {"model__encoder__widths": (), "model__bottleneck__size": 2, "train__steps": 20}


@pytest.fixture(scope="module")
def fitted():
    """A detector of every term on a table, and what it was fitted to."""
    run = trainer(small(train__epochs=2), table(60))
    model = trained(run)
    x = run.data.train["x"]
    made = {
        name: detector.fit([model], x, [np.arange(len(x))], detector.Settings({name: 1.0}, True, 3), 1000)
        for name in detector.TERMS
    }
    return model, x, made


def by_hand(model, x):
    """Squared residuals and codes."""
    return (np.asarray(x) - model.map(model.pure_reconstruct, x)) ** 2, model.map(model.pure_encode, x)


@pytest.mark.parametrize("name", detector.TERMS)
def test_a_term_equals_its_formula(fitted, name):
    model, x, made = fitted
    new = model.take(table(20, seed=5))
    (train_squares, train_codes), (squares, codes) = by_hand(model, x), by_hand(model, new)
    variance = train_squares.mean(0)
    variance = np.maximum(variance, 1e-3 * variance.mean())
    centred = codes - train_codes.mean(0)
    inverse = np.linalg.inv(np.cov(train_codes, rowvar=False))
    nearest = NearestNeighbors(n_neighbors=3).fit(train_codes)
    term = {
        "squared_error": squares.sum(1),
        "standardized": (squares / variance).mean(1),
        "code_knn": nearest.kneighbors(codes)[0].mean(1),
        "code_distance": (centred**2).sum(1),
        "code_mahalanobis": np.einsum("ni,ij,nj->n", centred, inverse, centred),
    }[name]
    # Location and scale: of the training rows, each without itself among its neighbours.
    own = {
        "squared_error": train_squares.sum(1),
        "standardized": (train_squares / variance).mean(1),
        "code_knn": nearest.kneighbors()[0].mean(1),
        "code_distance": ((train_codes - train_codes.mean(0)) ** 2).sum(1),
        "code_mahalanobis": np.einsum(
            "ni,ij,nj->n", train_codes - train_codes.mean(0), inverse, train_codes - train_codes.mean(0)
        ),
    }[name]
    expected = (np.log(term) - np.log(own).mean()) / np.log(own).std()
    np.testing.assert_allclose(made[name].score(new), expected, rtol=5e-3, atol=5e-3)


def test_combined_is_the_weighted_sum_of_logarithms(fitted):
    model, x, made = fitted
    rows = [np.arange(len(x))]
    both = detector.fit([model], x, rows, detector.Settings({"standardized": 1.0, "code_knn": 4.0}, True, 3), 1000)

    def raw(one, scores):
        return scores * one.statistics["scale"][0] + one.statistics["location"][0]

    parts = [raw(made[name], made[name].score(x)) for name in ("standardized", "code_knn")]
    np.testing.assert_allclose(raw(both, both.score(x)), parts[0] + 4 * parts[1], rtol=1e-3, atol=1e-3)


def test_a_likelihood_score_is_that_of_the_model(fitted):
    model, x, _ = fitted
    made = detector.fit([model], x, [np.arange(len(x))], detector.settings("likelihood", (), (), 5, "table"), 1000)
    expected = model.map(model.pure_score, x)
    np.testing.assert_allclose(made.score(x), (expected - expected.mean()) / expected.std(), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_an_ensemble_is_the_mean_of_its_members(fitted):
    model, x, _ = fitted
    run = trainer(small(seed=3), table(60))
    other = trained(run)
    how, rows = detector.settings("combined", (), (), 5, "table"), np.arange(len(x))
    both = detector.fit([model, other], x, [rows, rows], how, 1000)
    alone = [detector.fit([one], x, [rows], how, 1000).score(x) for one in (model, other)]
    np.testing.assert_allclose(both.score(x), np.mean(alone, axis=0), rtol=1e-3, atol=1e-3)
    assert pickle.loads(pickle.dumps(both)).score(x).tolist() == both.score(x).tolist()


def test_p_values_and_threshold_of_known_scores(fitted):
    made = fitted[2]["standardized"]
    made.calibrate(np.arange(99.0)[::-1], 0.1)
    np.testing.assert_allclose(made.p_value(np.array([-1.0, 50.0, 98.0, 99.0])), [1.0, 0.5, 0.02, 0.01])
    assert made.threshold == 89
    scores = np.arange(-1, 100, 0.5)
    np.testing.assert_array_equal(scores > made.threshold, made.p_value(scores) <= 0.1)
    made.calibrate(np.arange(5.0), 0.1)  # too few for a p-value of 0.1
    assert made.threshold == 4


def test_neighbours_are_sought_among_the_references_alone(fitted):
    model, x, _ = fitted
    made = detector.fit([model], x, [np.arange(len(x))], detector.Settings({"code_knn": 1.0}, False, 50), 7)
    assert np.isfinite(made.statistics["points"]).all(axis=(0, 2)).sum() == 7
    assert np.isfinite(made.score(x)).all()  # with fewer than 50 neighbours, of all


def test_quality_equals_scikit_learn():
    rng = np.random.default_rng(0)
    truth, scores = rng.random(200) < 0.2, rng.standard_normal(200)
    scores[truth] += 1
    found = anomaly.quality(scores, truth, 0.8)
    assert found["auroc"] == pytest.approx(roc_auc_score(truth, scores))
    assert found["average_precision"] == pytest.approx(average_precision_score(truth, scores))
    for name, score in (("f1", f1_score), ("precision", precision_score), ("recall", recall_score)):
        assert found[name] == pytest.approx(score(truth, scores > 0.8))
    assert found["flagged_normal"] == pytest.approx((scores[~truth] > 0.8).mean())
    assert found["precision_at_n"] == pytest.approx(truth[np.argsort(-scores)[: truth.sum()]].mean())


def digits_without_nine(**fields):
    return small("digits", data__train_labels=tuple(range(9)), train__epochs=2, **fields)


def test_the_use_on_labelled_images(tmp_path):
    run = trainer(digits_without_nine(data__validation_fraction=0.1))
    result = anomaly.measure(trained(run), Data(run.experiment, run.data))
    names = {"auroc", "average_precision", "f1", "precision", "recall", "precision_at_n", "threshold", "flagged"}
    names |= {f"{b}/{m}" for b in ("pca", "knn", "isolation_forest") for m in ("auroc", "average_precision")}
    assert {f"anomaly/{name}" for name in names} <= set(result.numbers)
    assert result.numbers["anomaly/knn/auroc"] > 0.9
    assert "validation scores" in result.notes[0]
    scores = np.array(result.tables["anomalies"]["score"])
    assert (np.diff(scores) <= 0).all()
    assert all(draw() is not None for draw in result.figures.values())


def test_without_normal_labels_only_the_threshold_is_measured():
    run = trainer(small(), table(60))
    result = anomaly.measure(trained(run), Data(run.experiment, run.data))
    assert set(result.numbers) == {"anomaly/threshold", "anomaly/flagged"}
    assert "cross-fitted" in result.notes[0]
    assert "no labels" in result.notes[1]
    assert all(draw() is not None for draw in result.figures.values())


@pytest.mark.parametrize(("labels", "normal"), [(["a"] * 60, ("a",)), (["a", "b"] * 30, ("a", "b"))])
def test_labels_of_one_kind_give_a_threshold(labels, normal):
    run = trainer(small(), table(60), labels)
    result = anomaly.measure(trained(run), Data(run.experiment, run.data), normal_labels=normal)
    assert set(result.numbers) == {"anomaly/threshold", "anomaly/flagged"}
    assert "does not have both" in result.notes[1]


@pytest.mark.parametrize(("labels", "words"), [(None, ["there are none"]), (["a", "b"] * 30, ["labels", "a, b"])])
def test_unknown_normal_labels_end_a_run_before_it_trains(tmp_path, labels, words):
    config = small(uses__run=("anomaly",), uses__anomaly__normal_labels=("c",))
    with pytest.raises(ValueError, match="normal_labels") as error:
        run_lib.run(config, tmp_path / "run", sources.from_array(table(60), config, labels))
    one_line(error, "uses.anomaly.normal_labels = ('c',)", *words)
    assert not (tmp_path / "run").exists()


def test_examples_without_a_label_are_not_measured():
    labels = np.array(["a", "b", "-1"])[np.random.default_rng(0).integers(0, 3, 60)].tolist()
    run = trainer(small(), table(60), labels)
    result = anomaly.measure(trained(run), Data(run.experiment, run.data), normal_labels=("a",))
    listed = result.tables["anomalies"]["anomaly"]
    assert set(listed) == {-1, 0, 1}
    truth = np.array(listed)
    scores = np.array(result.tables["anomalies"]["score"])
    assert result.numbers["anomaly/auroc"] == pytest.approx(roc_auc_score(truth[truth >= 0] == 1, scores[truth >= 0]))


def test_reasons_name_the_columns_that_contribute_most():
    run = trainer(small(), table(60))
    field = run.data.spec.x
    x = field.unscale(run.data.train["x"])
    say = reasons.Reasons(field, np.ones(7), **reasons.ranges(field, run.data.train["x"]))
    squares = np.zeros((2, 7))
    squares[0, [4, 2, 1]] = 9, 4, 1
    squares[1, [0, 5, 6]] = 1, 2, 3
    scaled = run.data.train["x"][:2]
    moved = (x[:2] + 1 - np.array(field.mean)) / np.array(field.deviation)  # one more in the units of the table
    texts = say.texts(np.asarray(say.pure(scaled, moved.astype(np.float32), squares))).to_pylist()
    low, high = np.percentile(x, (5, 95), axis=0)
    assert [part.split(" ")[1] for part in texts[0].split("; ")] == ["4", "2", "1"]
    assert [part.split(" ")[1] for part in texts[1].split("; ")] == ["6", "5", "0"]
    first = texts[0].split("; ")[0]
    value = float(first.split(" ")[2])
    assert value == pytest.approx(x[0, 4], rel=1e-3)
    assert f"(expected {float(f'{x[0, 4] + 1:.4g}')}".rstrip("0").rstrip(".") in first
    assert float(first.split("usual ")[1].split(" ")[0]) == pytest.approx(low[4], rel=1e-3)
    assert float(first.split(" to ")[1][:-1]) == pytest.approx(high[4], rel=1e-3)


def test_reasons_name_categories_and_empty_cells(tmp_path):
    path = tmp_path / "t.csv"
    lines = [f"{i % 7},{'red' if i % 3 else 'blue'}" for i in range(60)]
    path.write_text("\n".join(["size,colour", *lines, "5,green", ",red"]) + "\n")
    config = small(f"csv:{path}", data__categorical="onehot", data__missing="indicator", train__batch_size=8)
    run = trainer(config)
    model = trained(run)
    made = detector.fit(
        [model],
        run.data.train["x"],
        [np.arange(run.data.spec.train)],
        detector.settings("standardized", (), (), 5, "table"),
        100,
    )
    say = anomaly.reasons_for(made, reasons.ranges(run.data.spec.x, run.data.train["x"]))
    _, texts = made.explainer(say)(run.data.train["x"][:5])
    assert all("usual" in text for text in texts.to_pylist())
    variance = made.statistics["variance"][0]
    for start, end in run.data.spec.x.groups:  # the indicators of a category that is always known
        assert (variance[start:end] >= 0.0099 * run.data.train["x"][:, start:end].var(0)).all()
    (start, end), own = run.data.spec.x.groups[0], run.data.train["x"][:2]
    mean = own.copy()
    mean[1, start:end] = np.roll(mean[1, start:end], 1)  # another category is expected in the second row
    texts = say.texts(np.asarray(say.pure(*map(jnp.asarray, (own, mean, np.ones_like(own)))))).to_pylist()
    assert "colour" not in texts[0]
    assert "colour" in texts[1]
    texts = say.texts(np.asarray(say.pure(*map(jnp.asarray, (own, mean, np.zeros_like(own))))))
    assert texts.to_pylist() == ["", ""]  # nothing contributes


@pytest.mark.slow
def test_a_run_then_predict(tmp_path):
    path = tmp_path / "t.csv"
    rows = table(200)
    np.savetxt(path, rows, delimiter=",", header="a,b,c,d,e,f,g", comments="")
    work = tmp_path / "run"
    flags = [
        "--config=configs/ae.py:csv:" + str(path),
        f"--workdir={work}",
        "--config.train.steps=20",
        "--config.objective.likelihood=squared_error",
        "--config.train.batch_size=16",
    ]
    finish(command(*flags))
    asked = (f"--workdir={work}", "--what=anomalies", f"--output={tmp_path / 'o.csv'}")
    _, err = finish(command(*asked, module="aejax.predict"), 2)
    assert f"python -m aejax.evaluate --workdir={work} --use=anomaly" in err
    finish(command(f"--workdir={work}", "--use=anomaly", module="aejax.evaluate"))
    finish(command(*asked, module="aejax.predict"))
    found = list(csv.DictReader((tmp_path / "o.csv").read_text().splitlines()))
    assert list(found[0]) == ["id", "score", "threshold", "flag", "p_value", "reasons"]
    assert len(found) == 200
    for row in found:
        assert int(row["flag"]) == (float(row["score"]) > float(row["threshold"]))
        assert row["reasons"].count("usual") == 3
    assert 0.005 < np.mean([int(row["flag"]) for row in found]) < 0.2
    finish(command(*asked[:2], f"--output={tmp_path / 'o.npz'}", module="aejax.predict"))
    with np.load(tmp_path / "o.npz") as stored:
        assert stored["reasons"].tolist() == [row["reasons"] for row in found]


@pytest.mark.slow
def test_examples_that_hold_nothing_have_no_score(tmp_path):
    config = small("docstrings", uses__run=("anomaly",), train__steps=2, figures__enabled=False, pair__input="log",
                   objective__likelihood="categorical")  # fmt: skip
    run_lib.run(config, tmp_path / "run")
    model = aejax.load(tmp_path / "run")
    made = prediction.anomalies([model], tmp_path / "run", None)
    _, columns = made.function(stream.Batch([0, 1], model.take(["matrix of arrays", "qqzz"])), 0)
    np.testing.assert_array_equal(np.isnan(columns["score"]), [False, True])
    assert columns["flag"][1] == 0
    assert np.isnan(columns["p_value"][1])
    assert made.notes() == ["rows without any value or known word, which have no score: 1"]
    assert bags.blanks(np.array([[1.0, np.nan], [np.nan, np.nan]])).tolist() == [False, True]


@pytest.mark.slow
def test_maps_are_written_for_flagged_images(tmp_path):
    work = tmp_path / "run"
    run_lib.run(small("digits", uses__run=("anomaly",), train__epochs=1), work)
    model = aejax.load(work)
    made = prediction.anomalies([model], work, tmp_path / "maps")
    x = (
        model.data.test["x"][:300]
        if isinstance(model.data.test, dict)
        else np.asarray(model.data.arrays("test")["x"][:300])
    )
    ids = [f"folder/{i // 2}.{('png', 'bmp')[i % 2]}" for i in range(len(x))]  # two of each stem
    _, columns = made.function(stream.Batch(ids, x), 0)
    names = {i: f"folder__{i // 2}" + (".bmp.png" if i % 2 else ".png") for i in range(len(x))}
    flagged = sorted(names[int(i)] for i in np.flatnonzero(columns["flag"]))
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == flagged
    assert flagged


@pytest.mark.slow
def test_a_detector_of_another_checkpoint_is_refused(tmp_path):
    work = tmp_path / "run"
    run_lib.run(small("digits", uses__run=("anomaly",), train__epochs=1), work)
    other = aejax.fit(images(shape=(8, 8, 1)), small(train__epochs=1))
    with pytest.raises(InputError) as error:
        prediction.anomalies([other], work, None)
    one_line(error, "another checkpoint", "--use=anomaly")


@pytest.mark.slow
def test_members_equal_runs_with_their_seeds():
    """A population is its runs in one program: the same draws, batches and parameters."""
    fields = {"train__epochs": 2, "model__encoder__dropout": 0.2}
    runs = [trainer(small(seed=seed, **fields), table(60)) for seed in (0, 5)]
    data = runs[0].data
    experiments = [run.experiment for run in runs]
    states, losses = population.train(experiments, [data] * 2, [np.arange(data.spec.train)] * 2)
    assert [len(loss) for loss in losses] == [runs[0].steps] * 2
    for run, state in zip(runs, states, strict=True):
        alone = run.init()
        for start, end in run.intervals(0):
            alone, _ = run.run(alone, start, end)
        for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(alone.params), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_detectors_that_are_fitted_together_equal_those_fitted_alone():
    """Of other data, seeds and numbers of members; the second has another program."""
    tables = [table(120), table(90), table(100)]
    own = [{"members": 3}, {"members": 2, "model__encoder__widths": (5,)}, {"members": 3, "seed": 7}]
    together = fit_all([AnomalyDetector(**(TINY | fields)) for fields in own], tables)
    for fields, x, found in zip(own, tables, together, strict=True):
        alone = AnomalyDetector(**(TINY | fields)).fit(x)
        np.testing.assert_allclose(found.score_samples(x), alone.score_samples(x), rtol=1e-3, atol=1e-3)
        assert found.threshold_ == pytest.approx(alone.threshold_, rel=1e-3)


@pytest.fixture(scope="module")
def estimator():
    return AnomalyDetector(**TINY, members=3).fit(table(120))


def test_the_estimator_has_the_signs_of_scikit_learn(estimator):
    x = table(120)
    strange = x + 200 * np.random.default_rng(0).standard_normal(x.shape)
    assert (estimator.predict(strange) == -1).mean() > 0.9
    assert (estimator.predict(x) == 1).mean() > 0.85
    np.testing.assert_allclose(estimator.decision_function(x), estimator.score_samples(x) - estimator.offset_)
    assert estimator.offset_ == -estimator.threshold_
    np.testing.assert_array_equal(estimator.predict(x), np.where(estimator.decision_function(x) < 0, -1, 1))
    assert (estimator.p_values(strange) < 0.05).mean() > 0.9
    assert len(estimator.detector_.calibration) == 120


def test_the_estimator_is_cloned_and_pickled(estimator):
    assert clone(estimator).get_params() == estimator.get_params()
    assert estimator.get_params()["members"] == 3
    x = table(20, seed=3)
    loaded = pickle.loads(pickle.dumps(estimator))
    np.testing.assert_array_equal(loaded.score_samples(x), estimator.score_samples(x))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"contamination": 0.0}, ["contamination = 0.0", "(0, 0.5]"]),
        ({"members": 0}, ["members = 0", "at least 1"]),
        ({"members": 40}, ["members = 40", "80 rows"]),
    ],
)
def test_bad_fields_of_the_estimator(fields, words):
    with pytest.raises(InputError) as error:
        AnomalyDetector(**TINY, **fields).fit(table(60))
    one_line(error, *words)


# As for the Autoencoder.
EXPECTED = {"check_do_not_raise_errors_in_init_or_set_params": "refuses unknown names at once"} | dict.fromkeys(
    ("check_outliers_train", "check_outliers_fit_predict"),
    "expects the threshold to be a quantile of the scores of rows that were fitted; it is one of rows that were not",
)


@pytest.mark.slow
@parametrize_with_checks([AnomalyDetector(**TINY, members=2)], expected_failed_checks=lambda estimator: EXPECTED)
def test_checks_of_scikit_learn(estimator, check):
    check(estimator)


def test_the_exported_scores_are_those_of_the_detector(fitted):
    model, _x, made = fitted
    both = made["code_knn"]
    both.calibrate(np.arange(20.0), 0.1)
    exported = jax.export.deserialize(bytearray(export.export(model, "anomalies", both)))
    rows = table(7, seed=5).astype(np.float32)
    np.testing.assert_allclose(exported.call(rows), both.score(model.take(rows)), rtol=1e-4, atol=1e-4)
    about = export.describe(model, "anomalies", both)
    assert about["output"]["threshold"] == both.threshold
    assert about["output"]["shape"] == ["batch"]
