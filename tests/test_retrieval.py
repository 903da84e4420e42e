import numpy as np
import pytest
from scipy import sparse
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfTransformer

from aejax import run as run_lib
from aejax.data import sources
from aejax.uses.retrieval import measure as retrieval
from common import images, small


def by_hand(points, labels, k):
    shares = []
    for i in range(len(points)):
        cosine = points @ points[i] / (np.linalg.norm(points, axis=1) * np.linalg.norm(points[i]))
        cosine[i] = -2
        nearest = np.argsort(-cosine)[:k]
        shares.append((labels[nearest] == labels[i]).mean())
    return np.mean(shares)


def test_precision_equals_a_loop():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 150)
    points = rng.standard_normal((150, 4)) + 2 * np.eye(4)[labels]
    found = retrieval.precision(points, labels)
    for k in (10, 100):
        assert found[f"test/precision_at_{k}"] == pytest.approx(by_hand(points, labels, k))


def test_fewer_examples_than_are_ranked():
    found = retrieval.precision(np.eye(3) + 0.1, np.array([0, 0, 1]), "lsa_")
    assert found == pytest.approx({"test/lsa_precision_at_10": 1 / 3, "test/lsa_precision_at_100": 1 / 3})


def test_examples_without_a_label_are_left_out():
    rng = np.random.default_rng(0)
    x, labels = rng.standard_normal((40, 6)), np.arange(40) % 3 - 1
    found = retrieval.precision(x, labels)
    assert found["test/precision_at_10"] == pytest.approx(by_hand(x[labels >= 0], labels[labels >= 0], 10))


def test_lsa_of_counts_is_the_svd_of_their_weights():
    rng = np.random.default_rng(0)
    train, test = (sparse.csr_array(rng.poisson(0.5, (n, 30)).astype(np.uint16)) for n in (80, 20))
    _, found = retrieval.lsa(*retrieval.weigh(train, test), 5)
    weights = TfidfTransformer(sublinear_tf=True).fit(train)
    axes = np.linalg.svd(weights.transform(train).toarray())[2][:5]
    expected = weights.transform(test).toarray() @ axes.T
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-2)
    _, dense = retrieval.lsa(*retrieval.weigh(train.toarray(), test.toarray()), 5)
    np.testing.assert_allclose(
        dense, TruncatedSVD(5, random_state=0).fit(train.astype(float)).transform(test), rtol=1e-6
    )


def test_a_missing_value_is_the_mean_of_its_column():
    x = np.array([[np.nan, 1.0], [2.0, 3.0]], np.float32)
    train, test = retrieval.weigh(x, x)
    np.testing.assert_array_equal(train, [[0, 1], [2, 3]])
    np.testing.assert_array_equal(test, train)


def test_a_run_measures_it_where_there_are_labels(tmp_path, capsys):
    config = small("digits", uses__run=("reconstruction", "retrieval"))
    found = run_lib.run(config, tmp_path / "run")
    assert 0 <= found["test/precision_at_100"] <= found["test/precision_at_10"] <= 1
    assert found["test/lsa_precision_at_10"] > 0.4
    unlabelled = sources.from_array(images(), config)
    assert "test/precision_at_10" not in run_lib.run(config, tmp_path / "unlabelled", unlabelled)
    assert "use retrieval: left out: needs labels of at least 2 classes" in capsys.readouterr().out
