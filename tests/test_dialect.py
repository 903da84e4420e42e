"""CSV files as people have them: read right, or refused with the way out; never read wrong."""

import csv
import gzip
import io

import numpy as np
import pandas as pd
import pytest

from aejax.data import sources
from aejax.errors import InputError
from common import one_line, small

X = np.random.default_rng(0).standard_normal((30, 4)).round(3)
NAMES = ["a", "b", "c", "d"]


def read(tmp_path, content, name="table.csv", **fields):
    """The raw arrays of a CSV file of this content."""
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return sources.raw(small(f"csv:{path}", **fields))


def text(separator=",", decimal=".", names=NAMES, rows=X, end="\n"):
    lines = [separator.join(names)] if names else []
    lines += [separator.join(f"{v:.3f}".replace(".", decimal) for v in row) for row in rows]
    return end.join(lines) + end


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (text(), []),
        (text(";"), ["separator semicolon"]),
        (text("\t"), ["separator tab"]),
        (text("|"), ["separator bar"]),
        (text(";", ","), ["separator semicolon", "decimal comma"]),
        (text(end="\r\n"), []),
        (text(end="\r"), []),
        (text().encode("utf-8-sig"), []),
        (text().encode("utf-16"), ["encoding utf-16"]),
        (text(names=["ä", "ö", "ü", "ß"]).encode("cp1252"), ["encoding cp1252"]),
        (gzip.compress(text().encode(), mtime=0), []),
        ("\n\n" + text(), []),
        (text().replace("a,b", '"a, first",b'), []),
    ],
)
def test_a_table_is_read_and_the_unusual_said(tmp_path, content, said):
    raw = read(tmp_path, content)
    np.testing.assert_array_equal(raw["x"], X)
    assert len(raw["columns"]) == 4
    assert raw["notes"] == said


def test_a_first_line_of_numbers_is_a_row(tmp_path):
    raw = read(tmp_path, text(names=None))
    np.testing.assert_array_equal(raw["x"], X)
    assert raw["notes"] == ["no header: the first line is a row"]


def test_a_row_of_numbers_with_a_label_is_a_row(tmp_path):
    lines = [",".join([*map(str, row), "dog" if i % 2 else "cat"]) for i, row in enumerate(X)]
    raw = read(tmp_path, "\n".join(lines), data__label_column="f4")
    np.testing.assert_array_equal(raw["x"], X)
    assert raw["y"].tolist() == ["cat", "dog"] * 15


@pytest.mark.parametrize("names", [["900", "1000", "1100", "1200"], ["0", "1", "2", "3"], ["0.5", "1.0", "1.5", "2.0"]])
def test_an_even_sequence_above_the_rows_names_the_columns(tmp_path, names):
    raw = read(tmp_path, text(names=names))
    np.testing.assert_array_equal(raw["x"], X)
    assert raw["columns"] == names
    assert f"the numbers {names[0]}, {names[1]}, ..." in raw["notes"][0]


def test_the_header_may_be_told(tmp_path):
    numbers = text(names=["900", "1000", "1100", "1200"])
    assert len(read(tmp_path, numbers, data__header="no")["x"]) == 31
    assert len(read(tmp_path, text(names=None), data__header="yes")["x"]) == 29


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("0,1\n" + "1,0\n0,1\n" * 10, ["data.header", "yes or no"]),
        ("a b c\n" + "1 2 3\n" * 5, ["data.separator", "spaces"]),
        ("a;b\n" + "1,234;5,678\n" * 5, ["data.decimal", "thousands"]),
        ("a;b\n1,5;2.5\n", ["data.decimal", "name the decimal sign"]),
        ("a,b\n1,2\n3\n", ["data.separator", "1 to 2 cells"]),
        (b"PK\x03\x04....", ["zip archive; unpack it"]),
        ("", ["no rows"]),
        ("a,a\n1,2\n", ["stands twice"]),
        ("a,when\n1,2020-01-01\n2,2020-01-02\n", ["column when holds dates", "data.drop_columns=when"]),
        ("a,b\n1,x\n2,y\n", ["row 0: column b holds 'x'", "categorical=onehot", "drop_columns=b", "label_column=b"]),
        ("a,b\n1,2\n3,\n", ["row 1: column b is empty", "data.missing", "data.drop_columns=b"]),
        ("a,b\n1,2\n3,inf\n", ["row 1: column b is inf"]),
        ("a,b\n" + "1,2\n" * 400000 + "1,oops\n", ["row 400000: column b holds 'oops'"]),
        ('a,b\n1,"2\n"\n3,"4\n"\n5,"x\n"\n', ["row 2: column b holds"]),
        (gzip.compress(b"a,b\r1,2\r3,\r", mtime=0), ["row 1: column b is empty"]),
    ],
)
def test_a_table_that_cannot_be_read_is_refused_in_one_line_with_the_way_out(tmp_path, content, parts):
    with pytest.raises(InputError) as error:
        read(tmp_path, content)
    one_line(error, *parts)


def test_pandas_index_is_left_out_with_and_without_labels(tmp_path):
    frame = pd.DataFrame(X, columns=NAMES)
    for labelled in (False, True):
        content = (frame.assign(y=["p", "q"] * 15) if labelled else frame).to_csv()
        raw = read(tmp_path, content, data__label_column="y" if labelled else "")
        np.testing.assert_array_equal(raw["x"], X)
        assert raw["notes"][0] == "left out: the first column, which numbers the rows"
    frame.set_index(pd.Index(range(30), name="n")).to_parquet(tmp_path / "t.parquet")
    assert sources.raw(small(f"parquet:{tmp_path / 't.parquet'}"))["columns"] in ([*NAMES, "n"], ["n", *NAMES], NAMES)


def test_columns_are_chosen_dropped_and_named(tmp_path):
    assert read(tmp_path, text(), data__columns=("c", "a"))["columns"] == ["c", "a"]
    assert read(tmp_path, text(), data__drop_columns=("b",))["columns"] == ["a", "c", "d"]
    assert read(tmp_path, text(), data__id_column="d")["columns"] == ["a", "b", "c"]
    for fields, parts in (
        ({"data__columns": ("e",)}, ["data.columns", "a, b, c, d"]),
        ({"data__drop_columns": ("e",)}, ["data.drop_columns", "a, b, c, d"]),
        ({"data__id_column": "e"}, ["data.id_column", "a, b, c, d"]),
        ({"data__columns": ("a", "b"), "data__label_column": "b"}, ["data.columns", "'b'"]),
    ):
        with pytest.raises(InputError) as error:
            read(tmp_path, text(), **fields)
        one_line(error, *parts)


def test_partitioned_parquet_is_one_table(tmp_path):
    frame = pd.DataFrame(X, columns=NAMES).assign(part=["p", "q", "r"] * 10)
    frame.to_parquet(tmp_path / "parts", partition_cols=["part"])
    raw = sources.raw(small(f"parquet:{tmp_path / 'parts'}", data__label_column="part"))
    assert sorted(map(tuple, raw["x"])) == sorted(map(tuple, X))
    order = {tuple(row): part for row, part in zip(X, frame.part, strict=True)}
    assert [order[tuple(row)] for row in raw["x"]] == raw["y"].tolist()


def written(random):
    """A table of numbers as pandas or csv writes it in one of many ways: its bytes, file name and fields."""
    n, width = int(random.integers(5, 40)), int(random.integers(2, 7))
    x = random.standard_normal((n, width)) * 10.0 ** random.integers(-2, 4)
    x = x.round(random.integers(0, 5)) if random.random() < 0.7 else x
    gaps = random.random(x.shape) < 0.1 if random.random() < 0.3 else np.zeros(x.shape, bool)
    x = np.where(gaps, np.nan, x)
    names = [f"column {j}" for j in range(width)]
    kind = random.integers(4)
    names = [str(100 + 25 * j) for j in range(width)] if kind == 0 else names
    header, index = bool(random.random() < 0.8), bool(random.random() < 0.2)
    separator = str(random.choice([",", ";", "\t", "|"]))
    decimal = "," if separator != "," and random.random() < 0.4 else "."
    encoding = str(random.choice(["utf-8", "utf-8-sig", "utf-16", "cp1252"]))
    end = str(random.choice(["\n", "\r\n", "\r"]))
    quoting = int(random.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]))
    form = {"sep": separator, "decimal": decimal, "index": index and header, "header": header, "lineterminator": end}
    content = pd.DataFrame(x, columns=names).to_csv(**form, quoting=quoting, na_rep=str(random.choice(["", "NA"])))
    data = content.encode(encoding)
    packed = random.random() < 0.2
    return (gzip.compress(data) if packed else data), "t.csv.gz" if packed else "t.csv", x


@pytest.mark.parametrize("count", [30, pytest.param(300, marks=pytest.mark.slow)])
def test_generated_tables_are_read_right_or_refused(tmp_path, count):
    refused: list[str] = []
    for seed in range(count):
        data, name, x = written(np.random.default_rng(seed))
        try:
            raw = read(tmp_path, data, name, data__missing="mask")
        except InputError as error:
            refused.append(f"{seed}: {error}")
            continue
        np.testing.assert_array_equal(raw["x"], x, err_msg=str((seed, raw["notes"], data[:200])))
    print(f"{count - len(refused)} read right, {len(refused)} refused with the field that decides")
    assert all("config." in line for line in refused)
    assert len(refused) < 0.15 * count


def test_the_csv_module_s_own_dialects(tmp_path):
    for dialect in ("excel", "excel-tab", "unix"):
        file = io.StringIO()
        writer = csv.writer(file, dialect)
        writer.writerows([NAMES, *X.tolist()])
        np.testing.assert_array_equal(read(tmp_path, file.getvalue())["x"], X)
