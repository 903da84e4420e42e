"""Clustering: measures by brute force, recovery of known clusters, storage, predict, the figures, wrong input."""

import csv
import itertools

import numpy as np
import pytest
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.mixture import GaussianMixture

import aejax
from aejax import prediction
from aejax import run as run_lib
from aejax.data import sources, stream
from aejax.errors import InputError
from aejax.page import results
from aejax.storage import saved
from aejax.uses import runner
from aejax.uses.clustering import clusters, partitions
from aejax.uses.clustering import measure as clustering
from aejax.uses.clustering import view as cluster_view
from aejax.uses.data import Data
from common import command, finish, images, one_line, small, table, trained, trainer

HOW = partitions.Settings(clusters=3, restarts=3, seed=0, covariance="full", min_cluster_size=10, min_samples=5)
QUICK = {"restarts": 1, "methods": ("kmeans", "gmm", "hdbscan")}


def blobs(n=60, d=4, distance=20.0, seed=0):
    """Three Gaussians of n, n / 2 and n / 3 points, far apart; the points and their number."""
    rng = np.random.default_rng(seed)
    y = np.repeat([0, 1, 2], [n, n // 2, n // 3])
    return rng.standard_normal((len(y), d)) + distance * np.eye(3, d)[y], y


def grouped(seed=0):
    """A table of three groups of rows, and their names."""
    x, y = blobs(60, 7, seed=seed)
    return x * 3 + 50, [("red", "green", "blue")[k] for k in y]


@pytest.mark.parametrize("count", [2, 3, 5])
def test_accuracy_is_the_best_of_all_matchings(count):
    rng = np.random.default_rng(count)
    truth, cluster = rng.integers(0, 3, 40), rng.integers(-1, count - 1, 40)  # -1: noise is a cluster like others
    found = clustering.agreement(truth, cluster)
    own, labels = np.unique(cluster).tolist(), [0, 1, 2]
    padded = labels + [None] * max(len(own) - 3, 0)  # more clusters than labels: some have none
    best = max(
        np.mean(
            [dict(zip(own, choice, strict=False)).get(k) == y for k, y in zip(cluster.tolist(), truth, strict=True)]
        )
        for choice in itertools.permutations(padded, len(own))
    )
    assert found["acc"] == pytest.approx(best)
    assert found["ari"] == pytest.approx(adjusted_rand_score(truth, cluster))
    assert found["nmi"] == pytest.approx(normalized_mutual_info_score(truth, cluster))
    pairs = cluster_view.matching(truth, cluster)
    assert len(set(pairs.values())) == len(pairs) == min(len(own), 3)


def test_a_perfect_clustering_under_other_numbers():
    truth = np.array([0, 0, 1, 1, 2, 2])
    assert clustering.agreement(truth, np.array([7, 7, 0, 0, 3, 3])) == pytest.approx({"acc": 1, "nmi": 1, "ari": 1})


@pytest.mark.parametrize("method", partitions.USUAL)
def test_separated_gaussians_are_recovered(method):
    x, y = blobs()
    made, notes = partitions.fit(x, method, HOW)
    new, truth = blobs(seed=1)
    found = made.assign(new)
    assert notes == []
    assert len(made) == 3
    kept = found.cluster >= 0
    assert kept.mean() > 0.9
    np.testing.assert_array_equal(found.cluster[kept], truth[kept])  # the largest is number 0
    assert ((found.probability >= 0) & (found.probability <= 1)).all()
    np.testing.assert_allclose(made.centres, [x[y == k].mean(0) for k in range(3)], atol=0.5)


@pytest.mark.parametrize("method", ["kmeans", "gmm"])
@pytest.mark.parametrize("covariance", ["full", "diag"])
def test_assignment_and_probability_equal_scikit_learn(method, covariance):
    x, _ = blobs(distance=1.5)
    new, _ = blobs(distance=1.5, seed=1)
    found = partitions.fit(x, method, HOW._replace(covariance=covariance))[0].assign(new)
    if method == "kmeans":
        made = KMeans(3, n_init=3, random_state=0).fit(x)
        gaps = ((new[:, None] - made.cluster_centers_[None]) ** 2).sum(-1) * x.size / made.inertia_ / 2
        expected = np.exp(-gaps) / np.exp(-gaps).sum(1, keepdims=True)
    else:
        ridge = 1e-3 * x.var(0).mean()
        made = GaussianMixture(3, covariance_type=covariance, n_init=3, random_state=0, reg_covar=ridge, max_iter=300)
        expected = made.fit(x).predict_proba(new)
    np.testing.assert_allclose(found.probability, expected.max(1), rtol=1e-6)
    own = np.unique(np.stack([found.cluster, made.predict(new)]), axis=1)
    assert own.shape == (2, 3)  # one number of scikit-learn for each of ours


def test_sparse_points_are_clustered_as_dense_ones():
    x, _ = blobs(distance=2.0)
    x = np.where(x > 0.5, x, 0)
    plain, packed = (partitions.fit(rows, "kmeans", HOW)[0].assign(rows) for rows in (x, sparse.csr_array(x)))
    np.testing.assert_array_equal(plain.cluster, packed.cluster)
    np.testing.assert_allclose(plain.probability, packed.probability, rtol=1e-6)


def test_hdbscan_gives_fitted_points_their_own_clusters():
    rng = np.random.default_rng(0)
    x = np.concatenate([blobs()[0], rng.uniform(-30, 30, (15, 4))])
    made, _ = partitions.fit(x, "hdbscan", HOW)
    found = made.assign(x)
    np.testing.assert_array_equal(found.cluster, made.arrays["labels"])
    assert (found.cluster == -1).any()
    assert (found.probability[found.cluster < 0] == 0).all()


@pytest.mark.parametrize("scale", clusters.SCALES)
def test_stored_clusters_equal_the_fitted_ones(tmp_path, scale):
    model = trained(trainer(small(), table(60)))
    x = model.take(table(60))
    codes = model.map(model.pure_encode, x)
    made, _ = clusters.fit_all(model, codes, partitions.USUAL, HOW, scale)
    np.savez(tmp_path / "clusters.npz", **made.stored())
    loaded = clusters.load(tmp_path / "clusters.npz", model)
    for method in partitions.USUAL:
        for a, b in zip(made.of_taken(x, method), loaded.of_taken(x, method), strict=True):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(made.centres(method), loaded.centres(method))
    points = {"none": codes, "length": codes / np.linalg.norm(codes, axis=1, keepdims=True)}
    points["deviation"] = (codes - codes.mean(0)) / codes.std(0)
    np.testing.assert_allclose(made.place(codes), points[scale], rtol=1e-5, atol=1e-5)
    if scale != "length":  # the mean of the members' codes
        own = codes[made.of_taken(x, "kmeans").cluster == 0].mean(0)
        np.testing.assert_allclose(made.centres("kmeans")[0], own, rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError) as error:
        clusters.load(tmp_path / "clusters.npz", trained(trainer(small(seed=1), table(60))))
    one_line(error, "another checkpoint", "--use=clustering")


def test_the_use_on_images_with_labels():
    labels = (np.arange(100) % 3).tolist()
    run = trainer(small(), images(), labels)
    result = clustering.measure(trained(run), Data(run.experiment, run.data), **QUICK)
    terms = {"acc", "nmi", "ari", "silhouette"}
    names = {f"clustering/{s}{m}/{t}" for s in ("", "pixels/", "pca/") for m in ("kmeans", "gmm") for t in terms}
    assert names <= set(result.numbers)
    assert {f"clustering/hdbscan/{t}" for t in ("acc", "clusters", "noise")} <= set(result.numbers)
    assert set(results.baselines("clustering/gmm/ari", result.numbers)) == {"pixels", "pca"}
    assert all(results.about(name) for name in result.numbers)
    shown = result.tables["clusters"]
    assert len({len(column) for column in shown.values()}) == 1
    kmeans = [i for i, method in enumerate(shown["method"]) if method == "kmeans"]
    assert sum(shown["examples"][i] for i in kmeans) == run.data.spec.test
    assert set(result.figures) == {"cluster_map", "cluster_examples"}
    assert all(draw() is not None for draw in result.figures.values())


def test_groups_of_a_table_are_found_and_described():
    x, names = grouped()
    run = trainer(small(), x, names)
    result = clustering.measure(trained(run), Data(run.experiment, run.data), restarts=5)
    assert result.numbers["clustering/columns/kmeans/acc"] == 1
    assert result.numbers["clustering/columns/gmm/ari"] == 1
    assert result.numbers["clustering/pca/kmeans/nmi"] == pytest.approx(1)
    assert all(draw() is not None for draw in result.figures.values())


def test_a_constant_column_is_in_its_own_unit():
    values = np.array([[1.0, 7.0], [3.0, 7.0]])
    view = cluster_view.View(None, None, np.arange(2), values, {"kmeans": None}, None, values)
    np.testing.assert_array_equal(view._deviation(), [1, 1])


def test_without_labels_the_silhouette_chooses_the_number():
    x, _ = grouped()
    run = trainer(small(model__encoder__widths=(), model__code_activation="identity"), x)
    result = clustering.measure(trained(run), Data(run.experiment, run.data), **QUICK, most=6)
    assert {name.rpartition("/")[2] for name in result.numbers} == {"silhouette", "clusters", "noise"}
    assert "3 clusters: the largest silhouette" in result.notes[0]
    assert result.tables["numbers"]["clusters"] == [2, 3, 4, 5, 6]
    assert any("no labels" in note for note in result.notes)
    assert "label" not in result.tables["clusters"]
    assert all(draw() is not None for draw in result.figures.values())


def test_examples_without_a_label_are_not_measured():
    x, names = grouped()
    hidden = [name if i % 3 else "-1" for i, name in enumerate(names)]
    run = trainer(small(), x, hidden)
    model, data = trained(run), Data(run.experiment, run.data)
    result = clustering.measure(model, data, **QUICK)
    made, _ = clusters.fit_all(
        model, model.map(model.pure_encode, run.data.train["x"]), ("kmeans",), HOW._replace(restarts=1), "none"
    )
    y, found = run.data.test["y"], made.of_taken(run.data.test["x"]).cluster
    assert 0 < (y < 0).sum() < len(y)
    assert result.numbers["clustering/kmeans/ari"] == pytest.approx(adjusted_rand_score(y[y >= 0], found[y >= 0]))


def test_rows_limits_what_is_fitted():
    x, names = grouped()
    run = trainer(small(), x, names)
    result = clustering.measure(trained(run), Data(run.experiment, run.data), **QUICK, rows=40)
    assert f"fitted to 40 of {run.data.spec.train} training examples" in result.notes[0]
    assert result.arrays["clusters"]["hdbscan/points"].shape == (40, 3)


def test_predict_equals_evaluate(tmp_path):
    config = small(uses__run=("clustering",), uses__clustering__restarts=1, train__epochs=1)
    data = sources.from_array(images(), config, (np.arange(100) % 3).tolist())
    numbers = run_lib.run(config, tmp_path / "run", data)
    model, test = aejax.load(tmp_path / "run"), data.test
    for method in partitions.USUAL:
        made = prediction.clusters(model, tmp_path / "run", method)
        _, columns = made.function(stream.Batch(range(len(test["y"])), test["x"]), 0)
        own = clustering.agreement(test["y"], columns["cluster"])
        assert own == pytest.approx({term: numbers[f"clustering/{method}/{term}"] for term in own})
    first = prediction.clusters(model, tmp_path / "run", None).function(stream.Batch(range(9), test["x"][:9]), 0)[1]
    assert first["cluster"].tolist() == saved.load_clusters(tmp_path / "run", model, "").assign(
        test["x"][:9], "kmeans"
    ).cluster.tolist()  # fmt: skip


@pytest.mark.slow
def test_blank_examples_have_no_cluster(tmp_path):
    config = small("docstrings", uses__run=("clustering",), uses__clustering__restarts=1, uses__clustering__rows=300,
                   train__steps=2, pair__input="log", objective__likelihood="categorical")  # fmt: skip
    numbers = run_lib.run(config, tmp_path / "run")
    assert {"clustering/words/kmeans/ari", "clustering/lsa/gmm/ari"} <= set(numbers)
    assert "clustering/words/gmm/ari" not in numbers
    rows = list(csv.DictReader((tmp_path / "run/uses/clustering/clusters.csv").read_text().splitlines()))
    assert any(row["profile"] for row in rows)
    model = aejax.load(tmp_path / "run")
    made = prediction.clusters(model, tmp_path / "run", "gmm")
    _, columns = made.function(stream.Batch([0, 1], model.take(["matrix of arrays", "qqzz"])), 0)
    assert columns["cluster"][0] >= 0
    assert columns["cluster"][1] == -1
    np.testing.assert_array_equal(np.isnan(columns["probability"]), [False, True])
    assert made.notes() == ["rows without any value or known word, which have the cluster -1: 1"]


def test_clusters_from_python():
    x, names = grouped()
    model = aejax.fit(x, small(train__epochs=1), y=names)
    found = model.clusters(x, seed=1).assign(x)  # as many as there are classes
    assert sorted(set(found.cluster.tolist())) == [0, 1, 2]
    assert len(model.clusters(x, 5, "gmm", restarts=1).partitions["gmm"]) == 5
    assert model.clusters(x, method="hdbscan", min_samples=2).centres().shape[1:] == model.code_shape
    for arguments, words in (
        ({"number": 1}, ["clusters = 1", "at least 2"]),
        ({"number": 500}, ["clusters = 500", "at most the 110 rows"]),
        ({"method": "dbscan"}, ["methods = ('dbscan',)", "kmeans, gmm, hdbscan"]),
        ({"sale": "none"}, ["sale", "no such field", "scale"]),
    ):
        with pytest.raises(InputError) as error:
            model.clusters(x, **arguments)
        one_line(error, *words)


@pytest.mark.parametrize(
    ("labels", "fields", "words"),
    [
        (False, {}, ["uses.clustering.clusters = 0", "at least 2", "no labels", "uses.clustering.most"]),
        (True, {"clusters": 1}, ["uses.clustering.clusters = 1", "at least 2"]),
        (True, {"clusters": 500}, ["uses.clustering.clusters = 500", "at most 88", "training examples"]),
        (True, {"most": 500}, ["uses.clustering.most = 500", "at most 88"]),
        (True, {"rows": 2}, ["uses.clustering.clusters = 3", "at most 2"]),
        (True, {"methods": ("dbscan",)}, ["uses.clustering.methods = ('dbscan',)", "kmeans, gmm, hdbscan"]),
        (True, {"methods": ()}, ["uses.clustering.methods = ()", "at least one"]),
    ],
)
def test_wrong_settings_end_a_run_before_it_trains(tmp_path, labels, fields, words):
    x, names = grouped()
    config = small(uses__run=("clustering",), **{f"uses__clustering__{name}": v for name, v in fields.items()})
    with pytest.raises(InputError) as error:
        run_lib.run(config, tmp_path / "run", sources.from_array(x, config, names if labels else None))
    one_line(error, *words)
    assert not (tmp_path / "run").exists()


def test_hdbscan_alone_needs_no_number(tmp_path, capsys):
    run = trainer(small(), table(60))
    section = {"clustering": {**run.experiment.config.uses.clustering, "methods": ("hdbscan",), "min_cluster_size": 50}}
    found = runner.run(trained(run), Data(run.experiment, run.data), ["clustering"], tmp_path, section)
    assert found["clustering/hdbscan/clusters"] == 0
    assert found["clustering/hdbscan/noise"] == 1
    assert "every example is noise" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_then_predict(tmp_path):
    path, work = tmp_path / "t.csv", tmp_path / "run"
    x, _ = grouped()
    np.savetxt(path, x, delimiter=",", header="a,b,c,d,e,f,g", comments="")
    shared = ["--config.train.steps=20", "--config.objective.likelihood=squared_error", "--config.train.batch_size=16"]
    finish(command(f"--config=configs/ae.py:csv:{path}", f"--workdir={work}", *shared))
    asked = (f"--workdir={work}", "--what=clusters", f"--output={tmp_path / 'o.csv'}")
    _, err = finish(command(*asked, module="aejax.predict"), 2)
    assert f"python -m aejax.evaluate --workdir={work} --use=clustering" in err
    evaluate = (f"--workdir={work}", "--use=clustering")
    _, err = finish(command(*evaluate, module="aejax.evaluate"), 2)
    assert "--clustering.clusters=0: must be at least 2" in err
    out, _ = finish(command(f"--workdir={work}", "--use=all", module="aejax.evaluate"))
    assert "use clustering: left out: --clustering.clusters=0: must be at least 2" in out
    assert "use probe: left out: needs labels" in out
    assert "anomaly/threshold" in out
    finish(command(*evaluate, "--clustering.clusters=3", "--clustering.methods=gmm,", module="aejax.evaluate"))
    _, err = finish(command(*asked, "--method=kmeans", module="aejax.predict"), 2)
    assert "--method=kmeans: must be one that was fitted: gmm" in err
    finish(command(*asked, module="aejax.predict"))
    found = list(csv.DictReader((tmp_path / "o.csv").read_text().splitlines()))
    assert list(found[0]) == ["id", "cluster", "probability"]
    assert len(found) == len(x)
    assert {row["cluster"] for row in found} == {"0", "1", "2"}
    assert all(0 <= float(row["probability"]) <= 1 for row in found)
