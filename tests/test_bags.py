"""Sparse matrices and documents: read, kept sparse, trained on, used."""

import csv
import json

import numpy as np
import pytest
from scipy import sparse
from scipy.special import softmax
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

import aejax
from aejax import run as run_lib
from aejax.data import bags, sources
from aejax.data.sources import text
from aejax.errors import InputError
from common import check, images, one_line, small, table
from test_sources import npz

WORDS = [f"word{i:02}" for i in range(30)]
TEXT = {"objective__likelihood": "categorical", "pair__input": "log"}


def documents(n=60, seed=0):
    """Of two topics, each with words of its own."""
    rng = np.random.default_rng(seed)
    topics = np.array([[3.0] * 15 + [0.2] * 15, [0.2] * 15 + [3.0] * 15])
    topics /= topics.sum(1, keepdims=True)
    return [" ".join(rng.choice(WORDS, 12, p=topics[i % 2])) for i in range(n)]


def counts(n=60, seed=0):
    return sparse.csr_array(CountVectorizer(vocabulary=WORDS).transform(documents(n, seed)))


def parts(x, name):
    return {
        f"{name}_data": x.data,
        f"{name}_indices": x.indices,
        f"{name}_indptr": x.indptr,
        f"{name}_shape": np.array(x.shape),
    }


def fails(source, *names, **fields):
    def both():
        config = small(source, **fields)
        check(config)
        check(config, sources.load(config).spec)

    with pytest.raises(InputError) as error:
        both()
    one_line(error, *names)


# --- sparse matrices


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "bsr", "dia"])
def test_what_scipy_writes(tmp_path, form):
    x = counts()
    sparse.save_npz(tmp_path / "a.npz", x.asformat(form))
    data = sources.load(small(f"npz:{tmp_path}/a.npz"))
    expected = sources.from_array(x, small())
    assert data.spec == expected.spec
    assert data.spec.x.sparse
    assert data.spec.x.dtype == "uint16"
    assert sparse.issparse(data.train["x"])
    dense = sources.from_array(x.toarray(), small(data__standardize=False))
    np.testing.assert_array_equal(data.train["x"].toarray(), dense.train["x"])
    assert (data.spec.x.low, data.spec.x.high) == (dense.spec.x.low, dense.spec.x.high)


def test_sparse_splits_with_labels(tmp_path):
    x, test, y = counts(), counts(10, seed=1), np.array(["a", "b"] * 30)
    source = npz(tmp_path, **parts(x, "x_train"), **parts(test, "x_test"), y_train=y, y_test=y[:10])
    data = sources.load(small(source))
    np.testing.assert_array_equal(data.test["x"].toarray(), test.toarray())
    assert data.spec.classes == ("a", "b")


def test_equal_matrices_have_one_digest():
    x = counts()
    twice = sparse.coo_array((np.tile(x.data / 2, 2), (np.tile(x.tocoo().row, 2), np.tile(x.tocoo().col, 2))), x.shape)
    assert sources.from_array(twice, small()).spec == sources.from_array(x, small()).spec


def test_sparse_floats_stay_floats():
    x = counts() * 0.5
    data = sources.from_array(x - sparse.csr_array(([9.5], ([3], [4])), x.shape), small())
    assert data.spec.x.dtype == "float32"
    assert data.spec.x.low < -8


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"x_indices": lambda a: a + 30}, ["sparse matrix"]),
        ({"x_indices": lambda a: -a - 1}, ["sparse matrix"]),
        ({"x_indptr": lambda a: a[::-1]}, ["sparse matrix"]),
        ({"x_indptr": lambda a: a[:-1]}, ["sparse matrix"]),
        ({"x_shape": lambda a: a[:1]}, ["sparse matrix"]),
        ({"x_shape": lambda a: np.array([60, 5])}, ["sparse matrix"]),
        ({"x_data": lambda a: a[:-1]}, ["sparse matrix"]),
        ({"x_data": lambda a: np.where(np.arange(len(a)) == 5, np.nan, a)}, ["x[0, ", "nan"]),
        ({"x_data": lambda a: a.astype("U1")}, ["numbers"]),
        ({"x_data": lambda a: a + 1j}, ["complex"]),
    ],
)
def test_bad_sparse_parts(tmp_path, change, names):
    arrays = parts(counts(), "x")
    for name, function in change.items():
        arrays[name] = function(arrays[name])
    fails(npz(tmp_path, **arrays), *names)


def test_bad_files_of_scipy(tmp_path):
    x = counts()
    fields = {"format": np.array(b"csr"), "shape": np.array(x.shape), "data": x.data, "indptr": x.indptr}
    fails(npz(tmp_path, **fields, indices=x.indices + 100), "a.npz", "sparse matrix")
    fails(npz(tmp_path, **fields), "a.npz", "sparse matrix")
    fails(npz(tmp_path, **{**fields, "format": np.array(b"xyz")}, indices=x.indices), "a.npz", "sparse matrix")


def test_a_sparse_table_that_the_device_should_not_hold(tmp_path):
    x = sparse.csr_array(([1.5], ([0], [0])), (20_000, 100_000))
    sparse.save_npz(tmp_path / "a.npz", x)
    fails(f"npz:{tmp_path}/a.npz", "config.data.source", "7.5 GiB", "more than 4")


@pytest.mark.slow
def test_a_model_of_a_sparse_table_takes_both_forms():
    x = counts()
    model = aejax.fit(x, small())
    np.testing.assert_array_equal(model.encode(x), model.encode(x.toarray()))
    assert model.reconstruct(x).shape == x.shape
    other = aejax.fit(table(60, 30), small())
    np.testing.assert_array_equal(other.encode(x), other.encode(x.toarray()))


# --- documents


@pytest.mark.parametrize("weighting", bags.WEIGHTINGS)
def test_weights_are_those_of_scikit_learn_on_the_training_split_alone(weighting):
    texts = [*documents(), "only here"]
    config = small(data__text=weighting, data__vocabulary=20, data__test_fraction=0.3)
    data = sources.from_array(texts, config)
    held = np.zeros(61, bool)
    held[np.random.RandomState(0).permutation(61)[:18]] = True
    train_texts = [t for t, out in zip(texts, held, strict=True) if not out]
    test_texts = [t for t, out in zip(texts, held, strict=True) if out]
    if weighting == "tfidf":
        vectorizer = TfidfVectorizer(max_features=20)
    else:
        vectorizer = CountVectorizer(max_features=20, binary=weighting == "binary")
    expected = vectorizer.fit_transform(train_texts).toarray()
    np.testing.assert_allclose(data.train["x"].toarray(), expected, rtol=1e-6)
    np.testing.assert_allclose(data.test["x"].toarray(), vectorizer.transform(test_texts).toarray(), rtol=1e-6)
    assert data.spec.x.columns == tuple(vectorizer.get_feature_names_out())
    np.testing.assert_allclose(data.spec.x.apply(test_texts).toarray(), data.test["x"].toarray(), rtol=1e-6)


def test_common_words_are_left_out():
    texts = [f"the {text}" for text in documents()]
    assert "the" in sources.from_array(texts, small()).spec.x.columns
    assert "the" not in sources.from_array(texts, small(data__max_df=0.9)).spec.x.columns


@pytest.mark.parametrize("suffix", ["txt", "csv", "parquet"])
def test_text_files_give_what_a_list_gives(tmp_path, suffix):
    import pyarrow
    from pyarrow import csv as arrow_csv
    from pyarrow import parquet

    texts, y = ["", *documents(59)], ["p", "q"] * 30
    path, fields = tmp_path / f"a.{suffix}", {}
    rows = pyarrow.table({"n": range(60), "body": texts, "group": y})
    if suffix == "txt":
        path.write_text("\n".join(texts) + "\n")
    else:
        (arrow_csv.write_csv if suffix == "csv" else parquet.write_table)(rows, path)
        fields = {"data__text_column": "body", "data__label_column": "group"}
    data = sources.load(small(f"text:{path}", **fields))
    expected = sources.from_array(texts, small(), y if fields else None)
    np.testing.assert_array_equal(data.train["x"].toarray(), expected.train["x"].toarray())
    assert data.spec.x.columns == expected.spec.x.columns
    assert data.spec.classes == expected.spec.classes == (("p", "q") if fields else ())


def test_documents_of_a_csv_hold_lines_and_any_word(tmp_path):
    # Longer than the blocks in which it is read, so that some end within a document.
    texts = [f"first {i}\nsecond line, {'long ' * 400}" for i in range(2500)] + ["NA", "null"] * 10
    with open(tmp_path / "a.csv", "w", newline="") as file:
        csv.writer(file).writerows([["body"], *([text] for text in texts)])
    config = small(f"text:{tmp_path}/a.csv", data__text_column="body")
    assert [text for part in text.batches(f"{tmp_path}/a.csv", config) for text in part] == texts


def test_bad_text(tmp_path):
    def write(name, content):
        (tmp_path / name).write_bytes(content)
        return f"text:{tmp_path}/{name}"

    fails("text:none.txt", "no such file")
    fails(write("a.txt", b""), "no documents")
    fails(write("b.txt", b"\n\n\n\n\n"), "b.txt", "vocabulary")
    fails(write("c.txt", b"abc\n\xff\xfe\n"), "c.txt", "UTF-8")
    fails(write("d.txt", b"abc\n"), "data.text_column", data__text_column="x")
    fails(write("d.txt", b"abc\n"), "data.label_column", data__label_column="x")
    fails(write("e.csv", b"x,y\nabc,1\n"), "data.text_column")
    fails(write("e.csv", b"x,y\nabc,1\n"), "no column 'z'", "x, y", data__text_column="z")
    fails(write("f.csv", b"x,y\nabc,1\n,2\n"), "row 1", "x is empty", data__text_column="x")
    fails(write("d.txt", b"abc\n"), "data.vocabulary", data__vocabulary=0)
    fails(write("d.txt", b"abc\n"), "data.text", "tfidf", data__text="words")
    fails(write("d.txt", b"abc\n"), "data.max_df", data__max_df=0.0)


# --- training


def test_categorical_and_its_input_need_counts(tmp_path):
    np.save(tmp_path / "table.npy", table())
    np.save(tmp_path / "images.npy", images())
    for field, value in (("objective__likelihood", "categorical"), ("pair__input", "proportions")):
        name = "config." + field.replace("__", ".")
        fails(f"npy:{tmp_path}/table.npy", name, "standardised", **{field: value})
        fails(f"npy:{tmp_path}/images.npy", name, "images", **{field: value})
        x = sparse.csr_array(-counts().astype(float))
        sparse.save_npz(tmp_path / "negative.npz", x)
        fails(f"npz:{tmp_path}/negative.npz", name, "counts", "found -", **{field: value})
    sparse.save_npz(tmp_path / "counts.npz", counts())
    fails(f"npz:{tmp_path}/counts.npz", "bernoulli", "[0, 1]", objective__likelihood="bernoulli")
    config = small(f"npz:{tmp_path}/counts.npz", **TEXT)
    check(config, sources.load(config).spec)


@pytest.mark.slow
@pytest.mark.parametrize("weighting", bags.WEIGHTINGS)
def test_a_run_on_documents_is_loaded_with_its_vocabulary(tmp_path, weighting):
    texts = documents()
    (tmp_path / "a.txt").write_text("\n".join(texts) + "\n")
    likelihood = "bernoulli" if weighting == "binary" else "categorical"
    fields = {"data__text": weighting, "objective__likelihood": likelihood, "figures__enabled": True}
    found = run_lib.run(small(f"text:{tmp_path}/a.txt", **fields), tmp_path / "run")
    assert all(np.isfinite(value) for value in found.values())
    assert (tmp_path / "run" / "figures" / "codes.png").exists()
    model = aejax.load(tmp_path / "run")
    assert set(model.spec.x.columns) == set(WORDS)
    x = model.spec.x.apply(texts)
    np.testing.assert_array_equal(model.encode(texts), model.encode(x))
    np.testing.assert_array_equal(model.score(texts), model.score(x.toarray()))
    assert model.encode(["unheard of", ""]).shape == (2, 3)
    if likelihood == "categorical":
        r = model.reconstruct(texts)
        np.testing.assert_allclose(r.sum(1), 1, rtol=1e-5)
        np.testing.assert_allclose(model.score(texts), -(x.toarray() * np.log(r)).sum(1), rtol=1e-4)
    json.loads((tmp_path / "run" / "data.json").read_text())


@pytest.mark.slow
def test_the_encoder_is_given_the_transformed_counts():
    x = counts()
    for name, function in {"log": np.log1p, "proportions": lambda a: a / a.sum(1, keepdims=True)}.items():
        config = small(pair__input=name, objective__likelihood="categorical", model__encoder__widths=())
        model = aejax.fit(x, config)
        layer = model.params["encoder"]["layers_0"]
        expected = function(x.toarray().astype(float)) @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])
        np.testing.assert_allclose(model.encode(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_two_topics_are_found():
    config = small(**TEXT, model__bottleneck__size=1, train__epochs=60, optim__learning_rate=1e-2)
    x = counts(200)
    model = aejax.fit(x, config)
    r = model.reconstruct(counts(10, seed=5))
    topics = np.array([[3.0] * 15 + [0.2] * 15, [0.2] * 15 + [3.0] * 15])
    expected = (topics / topics.sum(1, keepdims=True))[np.arange(10) % 2]
    assert np.abs(r - expected).mean() < 0.4 * np.abs(expected - expected[::-1]).mean()
    np.testing.assert_allclose(softmax(np.log(r), axis=1), r, rtol=1e-4)
