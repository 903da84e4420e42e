import gzip
import io
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.datasets import load_digits

from aejax.data import dataset, sources
from aejax.errors import InputError
from common import change, images, one_line, small, table

STEMS = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}


def idx(array):
    return struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape) + array.tobytes()


def write_idx(folder, arrays, compressed=False):
    folder.mkdir(exist_ok=True)
    for name, array in arrays.items():
        content = idx(array)
        path = folder / (STEMS[name] + (".gz" if compressed else ""))
        path.write_bytes(gzip.compress(content) if compressed else content)
    return f"idx:{folder}"


def digit_like(n=20, classes=4):
    x = images(n + 5, (4, 3))
    y = (np.arange(n + 5) % classes).astype(np.uint8)
    return {"x_train": x[:n], "y_train": y[:n], "x_test": x[n:], "y_test": y[n:]}


def load(source, **fields):
    return sources.load(small(source, **fields))


def fails(source, *names, **fields):
    with pytest.raises(InputError) as error:
        load(source, **fields)
    one_line(error, *names)


def one_line_message(error):
    assert "\n" not in str(error)


def csv(folder, text, encoding="utf-8"):
    path = folder / "table.csv"
    path.write_bytes(text.encode(encoding))
    return f"csv:{path}"


# --- digits and splits


def test_digits():
    data = load("digits")
    assert data.spec.x.shape == (8, 8, 1)
    assert (data.spec.train, data.spec.validation, data.spec.test) == (1437, 0, 360)
    assert data.train["x"].dtype == np.float32
    assert (data.train["x"].min(), data.train["x"].max()) == (0, 1)
    assert data.spec.classes == tuple("0123456789")
    assert data.spec.digest == load("digits").spec.digest


def test_digits_are_scikit_learns():
    raw, given = sources.raw(small("digits")), load_digits()
    test = np.isin(np.arange(len(given.target)), np.random.RandomState(0).permutation(len(given.target))[:360])
    for split, rows in (("train", ~test), ("test", test)):
        np.testing.assert_array_equal(raw[f"x_{split}"][..., 0] * 16, given.images[rows])
        np.testing.assert_array_equal(raw[f"y_{split}"], given.target[rows])


def test_validation_comes_from_the_training_split_alone():
    whole, split = load("digits"), load("digits", data__validation_fraction=0.1)
    assert (split.spec.train, split.spec.validation, split.spec.test) == (1293, 144, 360)
    np.testing.assert_array_equal(whole.test["x"], split.test["x"])
    rows = np.concatenate([split.train["x"], split.validation["x"]]).reshape(1437, -1)
    np.testing.assert_array_equal(np.sort(rows, 0), np.sort(whole.train["x"].reshape(1437, -1), 0))


@given(st.integers(2, 200), st.floats(0.01, 0.99), st.integers(0, 2**32 - 2))
def test_hold_out_is_seeded_and_loses_nothing(n, fraction, seed):
    x = np.arange(n, dtype=float)[:, None]
    config = change(small(), data__test_fraction=fraction, data__split_seed=seed, data__standardize=False)
    if not 1 <= round(n * fraction) < n:
        with pytest.raises(InputError):
            sources.from_array(x, config)
        return
    a, b = sources.from_array(x, config), sources.from_array(x, config)
    np.testing.assert_array_equal(a.test["x"], b.test["x"])
    assert sorted([*a.train["x"].ravel(), *a.test["x"].ravel()]) == list(range(n))


def test_the_split_does_not_depend_on_the_seed_of_training():
    a, b = (sources.from_array(images(), small(seed=seed)) for seed in (0, 1))
    np.testing.assert_array_equal(a.test["x"], b.test["x"])


@pytest.mark.parametrize("source", ["nonsense", "", "digits:x", "idx", "csv:", ":x"])
def test_unknown_sources(source):
    fails(source, "config.data.source")


@pytest.mark.parametrize("name", ["idx", "npz", "npy", "csv"])
def test_missing_files(name, tmp_path):
    fails(f"{name}:{tmp_path}/missing.{name}", "config.data.source", "missing")


# --- arrays


@given(hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2, min_side=4, max_side=20),
                  elements=st.floats(-1000, 1000, width=16)))  # fmt: skip
def test_tables_are_standardised_and_back(x):
    data = sources.from_array(x, small())
    train = data.train["x"].astype(np.float64)
    assert train.dtype == np.float64
    assert data.train["x"].dtype == np.float32
    raw = data.spec.x.unscale(train)
    spread = np.maximum(np.abs(raw).max(0), 1.0)
    np.testing.assert_allclose(train.mean(0), 0, atol=1e-3 * np.sqrt(len(train)))
    constant = np.ptp(raw, axis=0) <= 1e-9 * spread
    np.testing.assert_allclose(train.std(0)[~constant], 1, rtol=1e-3)
    np.testing.assert_allclose(
        data.spec.x.unscale(data.spec.x.apply(x)), x, rtol=1e-5, atol=1e-5 * np.abs(x).max() + 1e-9
    )


def test_a_constant_column_gets_deviation_1():
    data = sources.from_array(table(), small())
    assert data.spec.x.deviation[-1] == 1
    assert not data.train["x"][:, -1].any()


def test_the_test_split_is_scaled_by_the_training_split():
    raw = {"x_train": table(seed=0), "x_test": table(seed=1)}
    data = dataset.build(raw, small())
    expected = (raw["x_test"] - raw["x_train"].mean(0)) / np.where(np.arange(7) < 6, raw["x_train"].std(0), 1)
    np.testing.assert_allclose(data.test["x"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("value", [1e300, -1e300, 1e39])
def test_a_table_that_float32_cannot_hold(value):
    x = table()
    x[3, 2] = value
    with pytest.raises(InputError) as error:
        sources.from_array(x, small(data__standardize=False))
    one_line(error)


@pytest.mark.parametrize(
    ("x", "names"),
    [
        (np.full((20, 3), np.nan), ["[0, 0]", "finite"]),
        (np.array([["a", "b"]] * 20), ["numbers"]),
        (np.array([[None, 1]] * 20), ["[0, 0]", "data.missing"]),
        (np.full((20, 4, 4, 1), 1.5), ["[0, 1]", "1.5"]),
        (np.full((20, 4, 4), np.nan), ["channel number 0", "no observed value in the training split"]),
        (np.full((20, 4, 4), 255), ["uint8", "int64"]),
        (np.zeros((20, 4, 4, 1), complex), ["complex"]),
        (np.zeros(20), ["rank"]),
        (np.zeros((2, 3, 4, 5, 6, 7)), ["rank"]),
        (np.float64(3), ["rank"]),
        (np.zeros((0, 4)), ["no examples"]),
        (np.zeros((5, 0)), ["no examples"]),
        (np.zeros((1, 4)), ["test_fraction"]),
    ],
)
def test_bad_arrays(x, names):
    with pytest.raises(InputError) as error:
        sources.from_array(x, small())
    one_line(error, *names)


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64, bool])
def test_image_dtypes(dtype):
    x = images() if dtype == np.uint8 else (images() / 255).astype(dtype)
    data = sources.from_array(x[..., 0], small())
    assert data.spec.x.shape == (6, 5, 1)
    assert data.train["x"].dtype == (np.uint8 if dtype == np.uint8 else np.float32)


# --- labels


def test_labels_are_numbered_and_named():
    y = np.array(["b", "a", "c", "a"] * 10)
    data = sources.from_array(table(40), small(), y)
    assert data.spec.classes == ("a", "b", "c")
    assert data.train["y"].dtype == np.int32
    names = np.concatenate([data.train["y"], data.test["y"]])
    np.testing.assert_array_equal(np.bincount(names), [20, 10, 10])


def test_minus_one_among_names_is_no_label():
    y = ["cat", -1, "dog", "cat"] * 10
    data = sources.from_array(np.zeros((40, 3)), small(), np.array(y))
    assert data.spec.classes == ("cat", "dog")
    found = np.concatenate([data.train["y"], data.test["y"]])
    assert np.bincount(found + 1).tolist() == [10, 20, 10]


def test_minus_one_is_no_label():
    y = np.array([-1, 3, 7, 3] * 10)
    data = sources.from_array(table(40), small(), y)
    assert data.spec.classes == ("3", "7")
    assert set(np.concatenate([data.train["y"], data.test["y"]]).tolist()) == {-1, 0, 1}


@pytest.mark.parametrize(
    "y", [np.zeros(39), np.zeros((40, 2)), np.full(40, 0.5), np.full(40, np.nan), np.array([None] * 40)]
)
def test_bad_labels(y):
    with pytest.raises(InputError) as error:
        sources.from_array(table(40), small(), y)
    one_line(error, "y")


def test_more_classes_in_test_than_in_train(tmp_path):
    arrays = digit_like()
    arrays["y_test"][0] = 9
    data = load(write_idx(tmp_path / "d", arrays))
    assert data.spec.classes == ("0", "1", "2", "3", "9")
    assert data.test["y"][0] == 4


# --- idx


@given(x=hnp.arrays(np.uint8, st.tuples(st.integers(2, 9), st.integers(1, 6), st.integers(1, 6))), gz=st.booleans())
def test_idx_round_trip(tmp_path, x, gz):
    y = np.arange(len(x), dtype=np.uint8)
    folder = tmp_path / str(gz)
    source = write_idx(folder, {"x_train": x, "y_train": y, "x_test": x[:1], "y_test": y[:1]}, gz)
    data = load(source)
    np.testing.assert_array_equal(data.train["x"][..., 0], x)
    np.testing.assert_array_equal(data.train["y"], y)
    np.testing.assert_array_equal(data.test["x"][..., 0], x[:1])


@pytest.mark.parametrize("keep", [0, 1, 3, 4, 5, 15, 16, 17, -1])
@pytest.mark.parametrize("compressed", [False, True])
def test_truncated_idx(tmp_path, keep, compressed):
    source = write_idx(tmp_path / "d", digit_like(), compressed)
    path = next((tmp_path / "d").glob("train-images*"))
    path.write_bytes(path.read_bytes()[:keep])
    fails(source, str(path))


def test_idx_whose_sizes_overflow(tmp_path):
    source = write_idx(tmp_path / "d", digit_like())
    path = tmp_path / "d" / STEMS["x_train"]
    path.write_bytes(struct.pack(">4I", 0x803, 2**31, 2**31, 4))  # the product is 0 modulo 2**64
    fails(source, str(path), "found 0")


def test_idx_with_a_missing_part(tmp_path):
    source = write_idx(tmp_path / "d", digit_like())
    (tmp_path / "d" / STEMS["y_test"]).unlink()
    fails(source, STEMS["y_test"])


def test_idx_with_more_images_than_labels(tmp_path):
    arrays = digit_like()
    arrays["y_train"] = arrays["y_train"][:-1]
    fails(write_idx(tmp_path / "d", arrays), "y_train")


# --- npz and npy


def npz(folder, **arrays):
    np.savez(folder / "a.npz", **arrays)
    return f"npz:{folder}/a.npz"


@given(x=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=3, max_dims=4, min_side=2, max_side=4)))
def test_npz_and_npy_give_the_same(tmp_path, x):
    np.save(tmp_path / "a.npy", x)
    a, b = load(npz(tmp_path, x=x), data__test_fraction=0.5), load(f"npy:{tmp_path}/a.npy", data__test_fraction=0.5)
    np.testing.assert_array_equal(a.train["x"], b.train["x"])
    assert a.spec == b.spec


def test_npz_with_a_test_split(tmp_path):
    arrays = digit_like()
    data = load(npz(tmp_path, **arrays))
    np.testing.assert_array_equal(data.test["x"][..., 0], arrays["x_test"])
    np.testing.assert_array_equal(data.test["y"], arrays["y_test"])


@pytest.mark.parametrize(
    ("arrays", "names"),
    [
        ({"z": images()}, ["x_train", "found z"]),
        ({}, ["nothing"]),
        ({"x_train": images(), "x_test": images(shape=(6, 6, 1))}, ["differ in shape"]),
        ({"x_train": images(), "x_test": images() / 255.0}, ["uint8", "float"]),
        ({"x": np.array([[object()]] * 9)}, ["a.npz"]),
        ({"x": images(), "columns": np.array(3)}, None),
        ({"x": images(), "extra": np.array([object()])}, None),
        ({"x": table(), "columns": np.array(3)}, None),
    ],
)
def test_npz_contents(tmp_path, arrays, names):
    source = npz(tmp_path, **arrays)
    if names is None:
        assert load(source).spec.train == 80
    else:
        fails(source, *names)


def test_object_array_in_npy(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}]), allow_pickle=True)
    fails(f"npy:{tmp_path}/a.npy", "a.npy", "Object arrays")


def test_npz_named_npy_and_the_reverse(tmp_path):
    np.save(tmp_path / "a.npy", images())
    npz(tmp_path, x=images())
    fails(f"npz:{tmp_path}/a.npy", "a.npy")
    fails(f"npy:{tmp_path}/a.npz", "a.npz")


@pytest.mark.parametrize("kind", ["npz", "npy"])
@pytest.mark.parametrize("keep", [0, 5, 100, -10])
def test_truncated_npz_and_npy(tmp_path, kind, keep):
    stream = io.BytesIO()
    (np.savez_compressed(stream, x=images()) if kind == "npz" else np.save(stream, images()))
    path = tmp_path / f"a.{kind}"
    path.write_bytes(stream.getvalue()[:keep])
    fails(f"{kind}:{path}", str(path))


# --- csv

ROWS = "".join(f"{i},{i * 2},{'ab'[i % 2]}\n" for i in range(10))


def test_csv_with_a_label(tmp_path):
    data = load(csv(tmp_path, "p,q,kind\n" + ROWS), data__label_column="kind")
    assert data.spec.x.columns == ("p", "q")
    assert data.spec.classes == ("a", "b")
    assert data.spec.x.shape == (2,)
    x = data.spec.x.unscale(np.concatenate([data.train["x"], data.test["x"]]))
    np.testing.assert_allclose(np.sort(x[:, 1]), np.arange(10) * 2, atol=1e-5)


def test_integer_labels_of_a_csv_keep_their_numbers(tmp_path):
    text = "p,y\n" + "".join(f"{i},{10 if i % 2 else 9}\n" for i in range(10))
    assert load(csv(tmp_path, text), data__label_column="y").spec.classes == ("9", "10")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_csv_without_a_header_keeps_its_first_row(tmp_path, encoding):
    data = load(csv(tmp_path, "".join(f"{i},{i * i}\n" for i in range(10)), encoding))
    assert data.spec.train + data.spec.test == 10


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ["table.csv"]),
        ("p,q\n", ["no rows"]),
        ("p,q\n1,2\n3,nan\n5,6\n", ["row 1", "q"]),
        ("p,q\n1,2\n3,\n5,6\n", ["row 1", "q"]),
        ("p,q\n1,2\n3,inf\n5,6\n", ["row 1", "q", "inf"]),
        ("p,q\n1,2\n3,four\n5,6\n", ["row 1", "q", "'four'"]),
        ("p,q\n1,2\n3\n5,6\n", ["table.csv", "1 to 2 cells"]),
        ("p,q\n1,2\n3,4,5\n5,6\n", ["table.csv", "2 to 3 cells"]),
        ("p,q\n\n1,2\n\n3,nan\n5,6\n", ["row 1", "q"]),
        ("p,p\n1,2\n3,4\n", ["twice", "p"]),
        ("p,q\n1,2020-01-01\n3,2020-01-02\n", ["column q holds dates", "data.drop_columns=q"]),
        ('p,q\n1,"2\n3,4\n', ["table.csv"]),
    ],
)
def test_bad_csv(tmp_path, text, names):
    fails(csv(tmp_path, text), *names)


@pytest.mark.parametrize("content", [b"p,q\n1,\xff\n3,4\n", b"\x00\x01\x02", bytes(range(256))])
def test_csv_that_is_no_text(tmp_path, content):
    (tmp_path / "table.csv").write_bytes(content)
    fails(f"csv:{tmp_path}/table.csv", "table.csv")


def test_csv_that_is_not_in_the_encoding_that_is_named(tmp_path):
    (tmp_path / "table.csv").write_bytes(b"p,\xff\n1,2\n3,4\n")
    fails(f"csv:{tmp_path}/table.csv", "config.data.encoding = 'utf-8'", "table.csv", data__encoding="utf-8")


def test_label_column_missing(tmp_path):
    fails(csv(tmp_path, "p,q,kind\n" + ROWS), "config.data.label_column", "kind", data__label_column="kid")


def test_empty_label(tmp_path):
    fails(csv(tmp_path, "p,kind\n1,a\n2,\n3,b\n"), "row 1", "kind", data__label_column="kind")


odd = st.sampled_from(
    ["", "nan", "NaN", "inf", "-inf", "1e999", "0x1", "1,5", "true", "NULL", "1_0", "٣", " 1", '"', "\t"]
)
cell = st.one_of(st.integers(-(2**70), 2**70).map(str), st.floats().map(repr), odd)


@given(rows=st.lists(st.lists(cell, min_size=2, max_size=2), min_size=3, max_size=8), header=st.booleans())
def test_any_csv_is_read_or_refused_in_one_line(tmp_path, rows, header):
    text = ("p,q\n" if header else "") + "".join(",".join(row) + "\n" for row in rows)
    try:
        data = load(csv(tmp_path, text))
    except InputError as error:
        one_line_message(error)
    else:
        assert all(np.isfinite(split["x"]).all() for split in (data.train, data.test))


@given(content=st.binary(max_size=200), name=st.sampled_from(["npz", "npy", "csv"]))
def test_any_bytes_are_read_or_refused_in_one_line(tmp_path, content, name):
    (tmp_path / "any").write_bytes(content)
    try:
        load(f"{name}:{tmp_path}/any")
    except InputError as error:
        one_line_message(error)
