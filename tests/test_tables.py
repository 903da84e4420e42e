"""Parquet; CSV is in test_sources.py, and both as streams in test_stream.py."""

import decimal

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from aejax.data import sources
from aejax.errors import InputError
from common import one_line, small, table

X = table(40, 4)
NAMES = ["a", "b", "c", "d"]


def write(folder, columns, name="t.parquet", **fields):
    parquet.write_table(pyarrow.table(columns), folder / name, **fields)
    return f"parquet:{folder / name}"


def fails(source, *names, **fields):
    with pytest.raises(InputError) as error:
        sources.load(small(source, **fields))
    one_line(error, *names)


def test_parquet_gives_what_csv_gives(tmp_path):
    label = ["x", "y"] * 20
    source = write(tmp_path, {**dict(zip(NAMES, X.T, strict=True)), "kind": label}, row_group_size=7)
    lines = [",".join([*map(repr, row.tolist()), kind]) for row, kind in zip(X, label, strict=True)]
    (tmp_path / "t.csv").write_text("\n".join([",".join([*NAMES, "kind"]), *lines]) + "\n")
    a = sources.load(small(source, data__label_column="kind"))
    b = sources.load(small(f"csv:{tmp_path}/t.csv", data__label_column="kind"))
    assert a.spec == b.spec
    assert a.spec.x.columns == tuple(NAMES)
    assert a.spec.classes == ("x", "y")
    np.testing.assert_array_equal(a.train["x"], b.train["x"])


def test_columns_of_any_kind_of_number(tmp_path):
    columns = {
        "int8": np.arange(40, dtype=np.int8),
        "float32": np.arange(40, dtype=np.float32) / 4,
        "bool": np.arange(40) % 2 == 0,
        "decimal": [decimal.Decimal(i) / 4 for i in range(40)],
        "code": pyarrow.array(["9", "10"] * 20).dictionary_encode(),
    }
    data = sources.load(small(write(tmp_path, columns), data__label_column="code", data__standardize=False))
    rows = np.concatenate([data.train["x"], data.test["x"]])
    i = np.arange(40)
    expected = np.stack([i, i / 4, i % 2 == 0, i / 4], 1)
    np.testing.assert_array_equal(rows[np.argsort(rows[:, 0])], expected)
    assert data.spec.classes == ("9", "10")


@pytest.mark.parametrize(
    ("columns", "names"),
    [
        ({"a": [[1.0, 2.0]] * 4}, ["a is nested", "list"]),
        ({"a": [{"b": 1}] * 4}, ["a is nested", "struct"]),
        ({"a": [1.0, 2.0, None, 4.0]}, ["row 2", "a is empty"]),
        ({"a": [1.0, np.nan, 3.0, 4.0]}, ["row 1", "a is empty or NaN"]),
        ({"a": [1.0, 2.0, np.inf, 4.0]}, ["row 2", "a is inf"]),
        ({"a": ["1", "2", "x", "4"]}, ["row 2", "'x'", "label_column"]),
        ({"a": pyarrow.array([], pyarrow.float64())}, ["no rows"]),
        ({}, ["no rows"]),
        ({"a": np.arange(3).astype("datetime64[D]")}, ["column a holds dates", "data.drop_columns=a"]),
    ],
)
def test_bad_parquet(tmp_path, columns, names):
    fails(write(tmp_path, columns), "t.parquet", *names)


def test_bad_labels_of_a_parquet_file(tmp_path):
    source = write(tmp_path, {"a": np.arange(4.0), "y": [[1]] * 4})
    fails(source, "y is nested", data__label_column="y")
    fails(source, "label_column", "a, y", data__label_column="w")
    source = write(tmp_path, {"a": np.arange(4.0), "z": ["p", None, "q", "p"]})
    fails(source, "row 1", "z is empty", data__label_column="z")


@pytest.mark.parametrize("keep", [0, 3, 4, 50, -1])
def test_truncated_parquet(tmp_path, keep):
    source = write(tmp_path, dict(zip(NAMES, X.T, strict=True)))
    path = tmp_path / "t.parquet"
    path.write_bytes(path.read_bytes()[:keep])
    fails(source, "t.parquet")
    fails(f"parquet:{tmp_path}/none.parquet", "no such file")
