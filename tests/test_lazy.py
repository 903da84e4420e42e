"""Sets that are read while training: the same batches in the same order, and the same parameters."""

import resource
import subprocess
import sys
import types

import numpy as np
import pyarrow
import pytest
from pyarrow import csv, parquet

import aejax
from aejax import run as run_lib
from aejax.data import feed, lazy, sources
from aejax.data.sources import images as images_lib
from aejax.errors import InputError, NonFiniteError
from aejax.parallel import mesh
from aejax.storage.checkpoint import Checkpoints
from aejax.training import trainer
from common import ROOT, assert_equal, command, finish, images, metrics, one_line, results, small, table
from test_folders import save, write_folder, write_tfds

N = 90


def write(kind, folder):
    """A set of N examples as a source of this kind; its fields."""
    folder = folder / "set"
    folder.mkdir(parents=True, exist_ok=True)
    x, y = images(N), np.arange(N) % 3
    if kind in ("images", "tfds"):
        arrays = {"x_train": x[:60], "y_train": y[:60], "x_test": x[60:], "y_test": y[60:]}
        return write_folder(folder, arrays) if kind == "images" else write_tfds(folder, arrays), {}
    if kind == "npy":
        np.save(folder / "a.npy", x)
        return f"npy:{folder}/a.npy", {}
    columns = dict(zip("abcdefg", table(N).T, strict=True)) | {"kind": [f"k{i}" for i in y]}
    (csv.write_csv if kind == "csv" else parquet.write_table)(pyarrow.table(columns), folder / f"a.{kind}")
    return f"{kind}:{folder}/a.{kind}", {"data__label_column": "kind"}


@pytest.mark.parametrize(
    "kind", ["npy", *(pytest.param(k, marks=pytest.mark.slow) for k in ("csv", "images", "parquet", "tfds"))]
)
def test_a_streamed_run_is_a_resident_one(tmp_path, monkeypatch, kind):
    source, fields = write(kind, tmp_path)
    uses = ("reconstruction", "probe") if kind == "images" else ("reconstruction",)
    monkeypatch.setattr(trainer, "BLOCK", 2000)  # bytes: several dispatches between two lines of metrics
    monkeypatch.setattr(lazy, "CHUNK", 3000)
    for resident in ("true", "false"):
        config = small(source, **fields, data__resident=resident, data__validation_fraction=0.1, train__batch_size=8,
                       train__log_steps=5, uses__run=uses)  # fmt: skip
        data = sources.load(config)
        assert isinstance(data.train["x"], lazy.Lazy) == (resident == "false")
        run_lib.run(config, tmp_path / resident, data)
    a, b = tmp_path / "true", tmp_path / "false"
    assert (a / "data.json").read_text() == (b / "data.json").read_text()
    assert metrics(a) == metrics(b)
    assert results(a) == results(b)
    assert_equal(aejax.load(a).params, aejax.load(b).params)


def test_grey_and_colour_are_brought_together(tmp_path):
    for i, x in enumerate([*images(8), *images(2, (6, 5, 3))]):
        save(tmp_path / f"{i}.png", x)
    found = [sources.load(small(f"images:{tmp_path}", data__resident=resident)) for resident in ("true", "false")]
    assert found[0].spec == found[1].spec
    np.testing.assert_array_equal(found[0].train["x"], np.asarray(found[1].train["x"]))


@pytest.mark.slow
def test_a_run_may_go_on_in_the_other_way(tmp_path):
    source, _ = write("npy", tmp_path)
    config = {"source": source, "train__batch_size": 8}
    for resident, epochs in (("false", 2), ("true", 4), ("false", 5)):
        run_lib.run(small(**config, data__resident=resident, train__epochs=epochs), tmp_path / "run")
    run_lib.run(small(**config, train__epochs=5), tmp_path / "whole")
    assert_equal(aejax.load(tmp_path / "run").params, aejax.load(tmp_path / "whole").params)


@pytest.mark.slow
def test_a_streamed_run_is_applied_to_any_input(tmp_path):
    source, _ = write("npy", tmp_path)
    run_lib.run(small(source, data__resident="false"), tmp_path / "run")
    np.savez(tmp_path / "in.npz", x=images(7))
    flags = [
        f"--workdir={tmp_path}/run",
        f"--input=npz:{tmp_path}/in.npz",
        f"--output={tmp_path}/codes.npy",
        "--what=codes",
    ]
    finish(command(*flags, module="aejax.predict"))
    np.testing.assert_array_equal(np.load(tmp_path / "codes.npy"), aejax.load(tmp_path / "run").encode(images(7)))


@pytest.mark.parametrize("shape", [(N, 12), (N, 12, 2)])
def test_streamed_series_are_resident_ones(tmp_path, monkeypatch, shape):
    x = np.random.default_rng(0).normal(5, 3, shape)
    x[3, 4:] = x[70, 2] = np.nan
    np.save(tmp_path / "a.npy", x)
    monkeypatch.setattr(lazy, "CHUNK", 3000)
    found = [
        sources.load(small(f"npy:{tmp_path}/a.npy", data__kind="series", data__resident=resident))
        for resident in ("true", "false")
    ]
    assert isinstance(found[1].train["x"], lazy.Lazy)
    assert found[0].describe() == found[1].describe()
    assert f"{np.isnan(x).sum():,} values that were not observed" in found[0].describe()
    for name in ("mean", "deviation"):  # summed in blocks of another size
        np.testing.assert_allclose(getattr(found[0].spec.x, name), getattr(found[1].spec.x, name), rtol=1e-12)
    np.testing.assert_allclose(found[0].train["x"], np.asarray(found[1].train["x"]), rtol=1e-6)


def test_streamed_images_and_series_are_told_by_their_first_values(tmp_path, monkeypatch):
    x = np.random.default_rng(0).random((N, 6, 5))
    monkeypatch.setattr(lazy, "CHUNK", 3000)
    config = small(f"npy:{tmp_path}/a.npy", data__resident="false")
    np.save(tmp_path / "a.npy", x)
    assert sources.load(config).spec.x.kind == "image"
    np.save(tmp_path / "a.npy", x - 0.5)
    assert sources.load(config).spec.x.kind == "series"
    x[80, 2, 3] = 1.5
    np.save(tmp_path / "a.npy", x)
    with pytest.raises(InputError) as error:
        sources.load(config)
    one_line(error, "[80, 2, 3, 0] = 1.5", "images", "set config.data.kind to series")


def test_batches_are_those_of_the_order_from_any_step():
    x = np.arange(50, dtype=np.float32).reshape(25, 2)
    order = feed.Feed(3, 25, 4)
    split = {"x": lazy.Lazy(lambda rows: x[rows], np.arange(25), (2,), x.dtype), "y": np.arange(25)}
    stream = feed.Stream(order, split, np.array([1, 2]))  # of each batch the rows of another process are not read
    for begin, end in ((0, 7), (7, 8), (8, 20), (3, 5), (40, 41)):
        for step, batch in zip(range(begin, end), stream.batches(begin, end), strict=True):
            rows = order.rows(step, step + 1)[0][1:3]
            np.testing.assert_array_equal(batch["x"], x[rows])
            np.testing.assert_array_equal(batch["y"], rows)


def test_rows_of_a_file_in_any_order(tmp_path):
    x = np.random.default_rng(0).standard_normal((30, 2, 3))
    np.save(tmp_path / "a.npy", x)
    found = lazy.npy(tmp_path / "a.npy")
    assert (found.shape, found.dtype, found.nbytes) == (x.shape, x.dtype, x.nbytes)
    for chosen in (np.array([5]), np.array([3, 4, 5, 9, 1, 0, 29]), slice(4, 20), np.arange(30) % 2 == 0, slice(0, 0)):
        np.testing.assert_array_equal(np.asarray(found[chosen]), x[chosen])
        np.testing.assert_array_equal(np.asarray(found[::-1][chosen]), x[::-1][chosen])
    np.testing.assert_array_equal(np.asarray(found.map(lambda x, rows: x[:, :1] * 2)[3:5]), x[3:5, :1] * 2)
    np.testing.assert_array_equal(np.asarray(lazy.spooled(np.split(x, 3), "x")[10:]), x[10:])


def test_what_is_decoded_is_kept_where_there_is_room(monkeypatch):
    x, read = images(20), []

    def decode(rows):
        read.extend(rows)
        return x[rows]

    found = lazy.Lazy(decode, np.arange(20), x.shape[1:], x.dtype)
    room = {"free": 2 * x.nbytes}
    monkeypatch.setattr(lazy.shutil, "disk_usage", lambda folder: types.SimpleNamespace(**room))
    kept = lazy.kept(found, "x")
    for _ in range(2):
        np.testing.assert_array_equal(np.asarray(kept[::-1]), x[::-1])
    assert read == list(range(20))  # once
    assert lazy.kept(kept, "x") is kept
    room["free"] -= 1
    assert lazy.kept(found, "x") is found


def test_no_room_for_a_temporary_file_is_one_line():
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(InputError) as error:
            lazy.spooled([np.zeros((10, 2))] * 10, "a.csv")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    one_line(error, "a.csv", "TMPDIR")


def test_every_device_gets_its_rows():
    over = mesh.make(1)
    rows = mesh.held(over, 6)
    np.testing.assert_array_equal(rows, np.arange(6))
    x = np.arange(36).reshape(2, 6, 3)
    np.testing.assert_array_equal(mesh.put_held({"x": x}, rows, 6, mesh.batch(over, 1))["x"], x)


@pytest.mark.slow
@pytest.mark.parametrize("resident", ["true", "false"])
def test_no_step_follows_one_that_failed(tmp_path, monkeypatch, resident):
    x = images(N).astype(np.float32) / 255
    source, _ = write("npy", tmp_path)
    np.save(tmp_path / "set" / "a.npy", x)
    monkeypatch.setattr(trainer, "BLOCK", 1)  # a dispatch for each step
    config = small(source, data__resident=resident, train__batch_size=8, optim__learning_rate=1e18, optim__name="sgd")
    with pytest.raises(NonFiniteError) as error:
        run_lib.run(config, tmp_path / "run")
    assert "step 1: not finite" in str(error.value)
    with Checkpoints(tmp_path / "run" / "checkpoints" / "last", read_only=True) as checkpoints:
        assert checkpoints.latest() == 1


def test_what_is_large_is_streamed(tmp_path, monkeypatch):
    for kind in ("npy", "csv"):
        source, fields = write(kind, tmp_path)
        for most, kept in ((10**9, True), (1000, False)):
            monkeypatch.setattr(lazy, "limit", lambda most=most: most)
            assert isinstance(sources.load(small(source, **fields)).train["x"], lazy.Lazy) != kept


TABLE = "p,flag,kind\n" + "".join(f"{i},{'True' if i % 3 else 'False'},{i % 2:02}\n" for i in range(20))
TABLES = {
    "truth values are numbers": (TABLE, ()),
    "a label is NA": (TABLE.replace("19,True,01", "19,True,NA"), ("row 19", "column kind is empty or NA")),
    "a hexadecimal number": (TABLE.replace("19,", "0x1f,"), ("row 19", "'0x1f'")),
    "an underscore": (TABLE.replace("19,", "1_9,"), ("row 19", "'1_9'")),
}


@pytest.mark.parametrize("case", TABLES)
def test_a_table_is_read_alike_wherever_it_is_kept(tmp_path, case):
    text, refused = TABLES[case]
    (tmp_path / "a.csv").write_text(text)
    found = []
    for resident in ("true", "false"):
        config = small(f"csv:{tmp_path}/a.csv", data__label_column="kind", data__resident=resident)
        if refused:
            with pytest.raises(InputError) as error:
                sources.load(config)
            one_line(error, *refused)
        else:
            found.append(sources.load(config))
    if not refused:
        assert found[0].spec == found[1].spec
        assert found[0].spec.x.columns == ("p", "flag")
        assert found[0].spec.classes == ("00", "01")
        np.testing.assert_array_equal(found[0].train["x"], np.asarray(found[1].train["x"]))


@pytest.mark.parametrize("place", [(40, 7), (40, 3, 2, 0)], ids=["table", "images"])
def test_the_place_of_a_wrong_value_is_that_in_the_file(tmp_path, monkeypatch, place):
    monkeypatch.setattr(lazy, "CHUNK", 1000)
    x = images(50).astype(np.float32) / 255
    x = x.reshape(50, -1) if len(place) == 2 else x
    x[place] = np.nan
    np.save(tmp_path / "a.npy", x)
    for resident in ("true", "false"):
        with pytest.raises(InputError) as error:
            sources.load(small(f"npy:{tmp_path}/a.npy", data__resident=resident))
        one_line(error, f"x{list(place)} = nan")


def test_a_file_that_is_cut_short_while_it_is_read_is_one_line(tmp_path):
    np.save(tmp_path / "a.npy", images(50))
    x = lazy.npy(tmp_path / "a.npy")
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-9])
    with pytest.raises(InputError) as error:
        np.asarray(x[40:])
    one_line(error, "a.npy", "ends before its last row")


def test_a_folder_for_temporary_files_that_is_none_is_not_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(lazy.tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "none"))
    with pytest.raises(InputError) as error:
        lazy.spooled([np.zeros((10, 2))], "a.csv")
    one_line(error, "TMPDIR = ", "none'")


def test_bad_input(tmp_path):
    def fails(source, *parts, **fields):
        with pytest.raises(InputError) as error:
            sources.load(small(source, **fields, data__resident="false"))
        one_line(error, *parts)

    fails("digits", "config.data.resident = 'false'", "npy:FILE")
    source, _ = write("npy", tmp_path)
    fails(source, "config.data.binarize = 'static'", "data.resident", data__binarize="static")
    fails(f"npy:{tmp_path}/none.npy", "no such file")
    np.save(tmp_path / "nan.npy", np.full((20, 3), np.nan))
    fails(f"npy:{tmp_path}/nan.npy", "finite")
    (tmp_path / "a.csv").write_text("p,q\n1,2\n3,four\n")
    fails(f"csv:{tmp_path}/a.csv", "row 1", "'four'")
    fails(f"parquet:{tmp_path}/a.csv", "is not a parquet file")
    parquet.write_table(pyarrow.table({"p": [1.0]}), tmp_path / "a.parquet")
    fails(f"csv:{tmp_path}/a.parquet", "write parquet:FILE")
    fails(f"csv:{tmp_path}", "is a folder")
    (tmp_path / "empty.csv").write_text("p,q\n")
    fails(f"csv:{tmp_path}/empty.csv", "empty.csv", "no rows")
    for i, x in enumerate([*images(3), *images(1, (5, 5, 1))]):
        save(tmp_path / "mixed" / f"{i}.png", x)
    fails(f"images:{tmp_path}/mixed", "3.png", "config.data.image_size")
    part = images_lib.Part(
        range(3), lambda rows: ([x[:4] if i < 2 else np.repeat(x[:4], 3, -1) for i in rows], ["abc"[i] for i in rows])
    )
    with pytest.raises(InputError, match="c: is in colour"):
        np.asarray(images_lib.streamed({"": part}, small())["x"])
    _, err = finish(command(f"--config=configs/vae.py:images:{tmp_path}/mixed", "--config.data.resident=no"), 2)
    assert err == "aejax: config.data.resident = 'no': must be one of auto, true, false\n"


MEMORY = """
import re, sys
sys.path[:0] = ["tests"]
from common import small
from aejax import run as run_lib

def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])

for i, source in enumerate(sys.argv[3:]):  # the first, a small one, imports and compiles
    begun = peak()
    config = small(source, data__resident="false", data__test_fraction=0.01, train__epochs=1, train__batch_size=512)
    config.data.kind = sys.argv[2]
    run_lib.run(config, f"{sys.argv[1]}/{i}")
print(peak() - begun)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["npy", "parquet", "series"])
def test_memory_stays_under_half_of_the_set(tmp_path, kind):
    def save(n):
        if kind == "series":  # windows of three channels
            x = np.random.default_rng(0).standard_normal((n, 384), np.float32)
            np.save(tmp_path / f"{n}.npy", x.reshape(n, 128, 3))
            return f"npy:{tmp_path}/{n}.npy", x.nbytes
        x = np.random.default_rng(0).integers(0, 256, (n, 784), np.uint8)
        path = tmp_path / f"{n}.{kind}"
        if kind == "npy":
            np.save(path, x.reshape(-1, 28, 28))
            return f"npy:{path}", x.nbytes
        rows = pyarrow.table({str(i): x[:, i].astype(np.float32) for i in range(784)})
        parquet.write_table(rows, path, row_group_size=10_000)
        return f"parquet:{path}", rows.nbytes

    large = {"npy": 1_250_000, "parquet": 250_000}.get(kind, 500_000)
    (first, _), (source, size) = save(2000), save(large)
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, tmp_path, kind if kind == "series" else "auto", first, source],
        cwd=ROOT, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    grown = int(done.stdout.splitlines()[-1])
    print(f"{kind}: {grown / 1e6:.0f} MB for a set of {size / 1e6:.0f} MB")
    assert grown < size / 2
