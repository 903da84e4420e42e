"""Exact search, signed codes, measures of rankings, and the index of a model."""

import time

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

import aejax
from aejax.errors import InputError
from aejax.uses.data import Data
from aejax.uses.neighbours import Points, mean_distance
from aejax.uses.retrieval import bits, index, ranking
from aejax.uses.retrieval import measure as retrieval
from common import images, one_line, small, trained, trainer


def by_hand(points, queries, metric):
    """Every similarity in float64, [Q, N]."""
    points, queries = points.astype(np.float64), queries.astype(np.float64)
    if metric == "euclidean":
        return -np.linalg.norm(queries[:, None] - points[None], axis=2)
    return (queries @ points.T) / np.linalg.norm(queries, axis=1)[:, None] / np.linalg.norm(points, axis=1)[None]


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize(("n", "k"), [(1, 1), (5, 5), (40, 7), (2500, 100)])
def test_search_equals_all_similarities(metric, n, k):
    rng = np.random.default_rng(n)
    points, queries = (rng.standard_normal((m, 6)).astype(np.float32) + 50 for m in (n, 300))  # far from the origin
    found = Points(points, metric).search(queries, k)
    full = by_hand(points, queries, metric)
    np.testing.assert_allclose(found.similarity, -np.sort(-full, axis=1)[:, :k], atol=3e-6)
    np.testing.assert_allclose(np.take_along_axis(full, found.rows, axis=1), found.similarity, atol=3e-6)


def test_a_point_is_no_neighbour_of_itself():
    points = np.random.default_rng(0).standard_normal((100, 3)).astype(np.float32)
    points[50:60] = points[0]  # ten rows of one place
    found = Points(points, "euclidean").search(points, 12, np.arange(100))
    assert found.rows.shape == (100, 12)
    assert not (found.rows == np.arange(100)[:, None]).any()
    assert (found.similarity[0] == 0).sum() == 10


def test_zero_vectors_have_cosine_0():
    found = Points(np.eye(2, dtype=np.float32), "cosine").search(np.zeros((1, 2)), 2)
    np.testing.assert_array_equal(found.similarity, 0)


def test_itq_halves_each_bit_and_keeps_neighbours():
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((4, 8)) * 10
    codes = (centres[np.arange(400) % 4] + rng.standard_normal((400, 8))).astype(np.float32)
    signs = bits.itq(codes, 8)
    np.testing.assert_allclose(signs.projection.T @ signs.projection, np.eye(8), atol=1e-5)  # a rotation
    packed = signs.pack(codes)
    assert packed.shape == (400, 1)
    plain = (codes - signs.mean) @ signs.projection > signs.threshold
    assert abs(plain.mean(0) - 0.5).max() <= 1 / 400
    distance = (plain[:, None] != plain[None]).sum(2)
    found = bits.Bits(packed).search(packed[:30], 5)
    np.testing.assert_array_equal(-found.similarity, np.sort(distance[:30], axis=1)[:, :5])
    np.testing.assert_array_equal(np.concatenate(list(bits.Bits(packed).similarities(packed))), -distance)


def test_itq_lowers_the_error_of_its_bits():
    """‖sign(V R) − V R‖² with the rotation is below that of PCA's own axes."""
    codes = np.random.default_rng(0).standard_normal((500, 6)) @ np.diag([9, 5, 3, 2, 1, 0.5])
    signs = bits.itq(codes, 6)
    rotated = (codes - signs.mean) @ signs.projection
    plain = (codes - codes.mean(0)) @ np.linalg.svd(codes - codes.mean(0))[2].T
    scale = plain.std()
    rotated, plain = rotated / scale, plain / scale
    assert ((np.sign(rotated) - rotated) ** 2).sum() < ((np.sign(plain) - plain) ** 2).sum()


def test_more_bits_than_units_are_refused():
    with pytest.raises(InputError) as error:
        bits.itq(np.zeros((5, 3)), 4)
    one_line(error, "bits = 4", "3 units")


def test_measures_of_a_ranking_equal_scikit_learn():
    rng = np.random.default_rng(0)
    labels, queries = rng.integers(0, 3, 500), rng.integers(0, 4, 60)  # nothing is relevant to class 3
    similarity = rng.standard_normal((60, 500)).astype(np.float32)
    found = ranking.measure([similarity[:25], similarity[25:]], queries, labels)
    asked = np.flatnonzero(queries < 3)
    average = [average_precision_score(labels == queries[i], similarity[i]) for i in asked]
    assert found["map"] == pytest.approx(np.mean(average))
    nearest = labels[np.argsort(-similarity[asked], axis=1)[:, :100]] == queries[asked, None]
    assert found["precision_at_10"] == pytest.approx(nearest[:, :10].mean())
    assert found["precision_at_100"] == pytest.approx(nearest.mean())
    assert found["recall_at_100"] == pytest.approx(
        np.mean([hits.sum() / (labels == queries[i]).sum() for hits, i in zip(nearest, asked, strict=True)])
    )


@pytest.fixture(scope="module")
def model():
    return aejax.fit(images(), small())


def test_an_index_finds_the_examples_themselves(model, tmp_path):
    names = [f"image {i}" for i in range(30)]
    made = model.index(images(30, seed=4), names, metric="euclidean")
    found = made.search(images(30, seed=4)[:5], 3)
    assert found.neighbours[:, 0].tolist() == names[:5]
    np.testing.assert_allclose(found.similarity[:, 0], 0, atol=1e-5)
    made.save(tmp_path / "index.npz")
    again = index.load(tmp_path / "index.npz", model).search(images(30, seed=4)[:5], 3)
    np.testing.assert_array_equal(again.neighbours, found.neighbours)
    signed = model.index(images(30, seed=4), bits=3)
    assert signed.search(images(30, seed=4)[:5], 1).similarity.tolist() == [[0]] * 5


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda m: m.index(images(5), metric="manhattan"), ["metric = 'manhattan'", "cosine, euclidean"]),
        (lambda m: m.index(images(5), ids=["a"]), ["ids", "(5,)"]),
        (lambda m: m.index(images(5)).search(images(1), 6), ["k = 6", "[1, 5]"]),
        (lambda m: m.index(images(5)[:0]), ["no rows"]),
        (lambda m: m.index(images(5), bits=9), ["bits = 9", "3 units"]),
        (lambda m: m.index(images(5)).save("x.csv"), ["x.csv", ".npz"]),
    ],
)
def test_bad_index(model, act, words):
    with pytest.raises(InputError) as error:
        act(model)
    one_line(error, *words)


def test_an_index_of_another_model_is_refused(model, tmp_path):
    model.index(images(5)).save(tmp_path / "index.npz")
    with pytest.raises(InputError) as error:
        index.load(tmp_path / "index.npz", aejax.fit(images(), small(seed=1, train__epochs=1)))
    one_line(error, "of another model")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(InputError) as error:
        index.load(tmp_path / "other.npz", model)
    one_line(error, "is no index")


@pytest.mark.slow
def test_a_query_of_unknown_words_is_refused():
    texts = ["red green blue", "green blue black", "one two three", "two three four"] * 5
    model = aejax.fit(texts, train__steps=2, train__batch_size=4)
    made = model.index(texts[:4])
    assert made.search("red green blue", 1).neighbours.shape == (1, 1)
    for query in ("nothing known", ""):
        with pytest.raises(InputError) as error:
            made.search(["red", query], 1)
        one_line(error, "query 1", "none of the")


def test_the_use_measures_code_values_projection_and_bits():
    run = trainer(small("digits"))
    result = retrieval.measure(trained(run), Data(run.experiment, run.data), bits=(3, 300), queries=50)
    numbers = result.numbers
    for name in ("", "pixels/", "pca/", "bits_3/", "bits_3/pca_itq/"):
        for term in ("precision_at_10", "precision_at_100", "map", "recall_at_100"):
            assert 0 <= numbers[f"retrieval/{name}{term}"] <= 1, name
    assert numbers["retrieval/pixels/precision_at_10"] > 0.9
    assert not [name for name in numbers if "bits_300" in name]
    assert "bits = 300" in " ".join(result.notes)
    table = result.tables["neighbours"]
    assert table["rank"][:8] == list(range(1, 9))
    assert result.figures["neighbours"]() is not None


@pytest.mark.parametrize("n", [3, 70])
def test_the_mean_distance_is_that_of_a_search(n):
    points = np.random.default_rng(0).standard_normal((n, 4)).astype(np.float32)
    own = Points(points, "euclidean")
    expected = -own.search(points[:3] + 1, min(n, 5)).similarity.mean(1)
    found = mean_distance(points[:3] + 1, own.points, own.origin, 5)  # of all points if there are fewer
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.timed
def test_speed_beside_faiss():
    """10,000 queries among 60,000 codes of 30 units: the nearest 10, two threads each, in turn, medians."""
    faiss = pytest.importorskip("faiss", reason="pip install 'aejax[faiss]'")
    faiss.omp_set_num_threads(2)
    rng = np.random.default_rng(0)
    codes, queries = (rng.standard_normal((n, 30)).astype(np.float32) for n in (60_000, 10_000))
    flat, own = faiss.IndexFlatL2(30), Points(codes, "euclidean")
    flat.add(codes)
    searches = {"faiss": lambda: flat.search(queries, 10)[1], "aejax": lambda: own.search(queries, 10).rows}
    found = {name: search() for name, search in searches.items()}
    assert (found["faiss"] == found["aejax"]).mean() > 0.999  # but for ties within rounding
    seconds: dict[str, list[float]] = {name: [] for name in searches}
    for _ in range(7):
        for name, search in searches.items():
            start = time.perf_counter()
            search()
            seconds[name].append(time.perf_counter() - start)
    median = {name: float(np.median(values)) for name, values in seconds.items()}
    ratio = median["faiss"] / median["aejax"]
    print(f"\nfaiss {median['faiss']:.3f} s, aejax {median['aejax']:.3f} s, ratio {ratio:.2f}")
    assert ratio > 0.8
