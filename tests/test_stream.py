"""`python -m aejax.predict`, its readers and its writers."""

import re
import statistics
import subprocess
import sys
import time
import types

import numpy as np
import pyarrow
import pytest
from pyarrow import csv, parquet

import aejax
from aejax import predict, prediction
from aejax import run as run_lib
from aejax.data import output, sources, stream
from aejax.data.dataset import SPLITS
from aejax.errors import InputError
from common import ROOT, UNSET, VAE, images, one_line, small, table
from test_bags import documents
from test_folders import save, write_folder
from test_sources import digit_like

pytestmark = pytest.mark.xdist_group("stream")  # they share fixtures

NAMES = [f"c{j}" for j in range(7)]
X = table()

# Flags of predict that a test does not set.


@pytest.fixture(scope="module")
def tabular(tmp_path_factory):
    """A run on a CSV file with names and labels, and its folder."""
    folder = tmp_path_factory.mktemp("tabular")
    rows = pyarrow.table([*X.T, ["p", "q"] * 50], names=[*NAMES, "kind"])
    csv.write_csv(rows, folder / "a.csv")
    config = small(f"csv:{folder}/a.csv", data__label_column="kind", data__validation_fraction=0.2)
    run_lib.run(config, folder / "run")
    return aejax.load(folder / "run"), folder


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    return aejax.fit(images(), small(**VAE), workdir=tmp_path_factory.mktemp("vae") / "run")


def applied(model, source, path, what="codes", split="all"):
    """What the command does, in this process; the array that it wrote."""
    rows = prediction.write(model, stream.read(source, model.config, model.spec, model.take, split), what, path)
    return rows, read(path, what)


def read(path, what):
    if path.suffix == ".npy":
        return np.load(path)
    if path.suffix == ".npz":
        return np.load(path)[what]
    found = csv.read_csv(path) if path.suffix == ".csv" else parquet.read_table(path)
    return np.stack([column.to_numpy() for column in found.columns[1:]], 1)  # after the ids


def fails(model, source, path, *names, what="codes", split="all"):
    with pytest.raises(InputError) as error:
        applied(model, source, path, what, split)
    one_line(error, *names)
    assert not list(path.parent.glob(f"*{path.name}*"))


# --- inputs


@pytest.mark.parametrize("kind", ["csv", "parquet", "npy", "npz"])
@pytest.mark.parametrize("what", ["codes", "reconstructions", "scores"])
def test_every_input_in_batches_gives_what_the_model_gives(tabular, tmp_path, monkeypatch, kind, what):
    model, _ = tabular
    monkeypatch.setattr(stream, "VALUES", 70)  # ten rows at a time
    x, path = table(95, seed=3), tmp_path / f"in.{kind}"
    # The columns in another order, beside some that the run does not know.
    shuffled = [("id", np.arange(95)), *reversed(list(zip(NAMES, x.T, strict=True))), ("kind", ["p"] * 95)]
    rows = pyarrow.table(dict(shuffled))
    {
        "csv": lambda: csv.write_csv(rows, path),
        "parquet": lambda: parquet.write_table(rows, path, row_group_size=40),
        "npy": lambda: np.save(path, x),
        "npz": lambda: np.savez(path, x=x),
    }[kind]()
    n, found = applied(model, f"{kind}:{path}", tmp_path / "out.npy", what)
    expected = {"codes": model.encode, "reconstructions": model.reconstruct, "scores": model.score}[what](x)
    assert n == 95
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_run_without_names_takes_all_columns_but_the_label(tmp_path):
    config = small(data__label_column="kind")
    model = aejax.fit(X, config)
    csv.write_csv(pyarrow.table([*X.T, ["p"] * 100], names=[*NAMES, "kind"]), tmp_path / "in.csv")
    parquet.write_table(pyarrow.table(list(X.T), names=NAMES), tmp_path / "in.parquet")
    expected = model.encode(X)
    for kind in ("csv", "parquet"):
        _, found = applied(model, f"{kind}:{tmp_path}/in.{kind}", tmp_path / "out.npy")
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    parquet.write_table(pyarrow.table(list(X.T[:3]), names=NAMES[:3]), tmp_path / "in.parquet")
    fails(model, f"parquet:{tmp_path}/in.parquet", tmp_path / "other.npy", "3 columns", "(7,)")


@pytest.mark.parametrize("split", SPLITS)
def test_splits_are_the_run_s_own(tabular, tmp_path, monkeypatch, split):
    model, _ = tabular
    monkeypatch.setattr(stream, "VALUES", 70)
    _, found = applied(model, model.config.data.source, tmp_path / "out.npy", split=split)
    expected = getattr(sources.load(model.config), split)["x"]
    np.testing.assert_allclose(found, model.map(model.pure_encode, expected), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_splits_of_a_source_that_has_them(tmp_path):
    arrays = digit_like(40)
    np.savez(tmp_path / "a.npz", **arrays)
    arrays = {name: x[..., None] if x.ndim == 3 else x for name, x in arrays.items()}
    for source in (f"npz:{tmp_path}/a.npz", write_folder(tmp_path / "images", arrays)):
        config = small(source, data__validation_fraction=0.25, train__batch_size=8, train__epochs=1)
        run_lib.run(config, tmp_path / "runs" / source[:3])
        model, data = aejax.load(tmp_path / "runs" / source[:3]), sources.load(config)
        for split in SPLITS:
            _, found = applied(model, source, tmp_path / "out.npz", split=split)
            np.testing.assert_allclose(found, model.encode(getattr(data, split)["x"]), rtol=1e-5, atol=1e-6)
        n, found = applied(model, source, tmp_path / "out.npz")
        assert n == 45
        raw = sources.raw(config)  # in the order of the source: of a folder, of its paths
        everything = np.concatenate([raw["x_train"], raw["x_test"]]).reshape(45, *model.spec.x.shape)
        np.testing.assert_allclose(found, model.encode(everything), rtol=1e-5, atol=1e-6)


def test_text(tmp_path):
    texts = documents()
    (tmp_path / "a.txt").write_text("\n".join(texts) + "\n")
    config = small(f"text:{tmp_path}/a.txt", objective__likelihood="categorical", data__text="tfidf")
    run_lib.run(config, tmp_path / "run")
    model = aejax.load(tmp_path / "run")
    (tmp_path / "new.txt").write_text("word01 word02\n\nnever seen\n")
    _, found = applied(model, f"text:{tmp_path}/new.txt", tmp_path / "out.npy", "scores")
    np.testing.assert_allclose(found, model.score(["word01 word02", "", "never seen"]), rtol=1e-5)
    n, found = applied(model, config.data.source, tmp_path / "out.parquet", "reconstructions", "test")
    assert n == 12
    assert parquet.read_table(tmp_path / "out.parquet").column_names == ["row", *model.spec.x.columns]
    fails(model, "csv:new.csv", tmp_path / "o.npy", "documents: text:FILE")


def test_images_of_the_wrong_shape(vae, tmp_path):
    x = images(5)
    for i in range(5):
        save(tmp_path / "in" / f"{i}.png", x[i])
    _, found = applied(vae, f"images:{tmp_path}/in", tmp_path / "out.npy", "reconstructions")
    np.testing.assert_allclose(found, vae.reconstruct(x), rtol=1e-5)
    for i in range(5):
        save(tmp_path / "in" / f"{i}.png", x[i, :4])
    fails(vae, f"images:{tmp_path}/in", tmp_path / "o.npy", "(4, 5, 1)", "(6, 5, 1)")
    np.save(tmp_path / "t.npy", X)
    fails(vae, f"npy:{tmp_path}/t.npy", tmp_path / "o.npy", "images")
    fails(vae, "text:a.txt", tmp_path / "o.npy", "this run takes", "(6, 5, 1)")


def test_input_that_does_not_fit(tabular, tmp_path):
    model, folder = tabular
    out, good = tmp_path / "out.npy", dict(zip(NAMES, X.T, strict=True))

    def write(**changes):
        columns = {name: column for name, column in (good | changes).items() if column is not None}
        parquet.write_table(pyarrow.table(columns), tmp_path / "in.parquet")
        csv.write_csv(pyarrow.table(columns), tmp_path / "in.csv")
        return [f"{kind}:{tmp_path}/in.{kind}" for kind in ("parquet", "csv")]

    for source in write(c2=None):
        fails(model, source, out, "no column 'c2'", "c0, c1, c3")
    for source, place in zip(write(c2=["1"] * 40 + ["a"] * 60), ("row 40", "row 40"), strict=True):
        fails(model, source, out, place, "c2 holds 'a'")
    for source, place in zip(write(c2=np.where(np.arange(100) == 40, np.nan, 0)), ("row 40", "row 40"), strict=True):
        fails(model, source, out, place, "c2")
    for source in write(c2=np.where(np.arange(100) == 40, 1e300, 0)):
        fails(model, source, out, "float32")
    parquet.write_table(pyarrow.table({**good, "c2": [[1.0]] * 100}), tmp_path / "in.parquet")
    fails(model, f"parquet:{tmp_path}/in.parquet", out, "c2 is nested")
    parquet.write_table(pyarrow.table(good).slice(0, 0), tmp_path / "in.parquet")
    fails(model, f"parquet:{tmp_path}/in.parquet", out, "no rows")
    np.save(tmp_path / "in.npy", X[:, :3])
    fails(model, f"npy:{tmp_path}/in.npy", out, "(100, 3)", "(rows, 7)")
    np.save(tmp_path / "in.npy", np.float64(3))
    fails(model, f"npy:{tmp_path}/in.npy", out, "no examples")
    fails(model, "digits", out, "must be (rows, 7)")
    fails(model, "nonsense:x", out, "must be one of")
    fails(model, "csv:none.csv", out, "no such file")
    fails(model, f"csv:{tmp_path}/in.csv", out, "--split=test", "own source", split="test")
    fails(model, f"csv:{folder}/a.csv", out, "must be one of all", split="half")


def test_a_source_that_has_grown_has_no_split(tabular, tmp_path):
    model, folder = tabular
    path = folder / "a.csv"
    text = path.read_text()
    try:
        path.write_text(text + text.splitlines()[-1] + "\n")
        fails(model, model.config.data.source, tmp_path / "o.npy", "101 examples", "held 100", split="test")
    finally:
        path.write_text(text)


# --- outputs


@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 1)])
@pytest.mark.parametrize("suffix", list(output.WRITERS))
def test_every_output_holds_the_rows_in_order(tmp_path, suffix, shape):
    x = np.random.default_rng(0).standard_normal((25, *shape)).astype(np.float32)
    path = tmp_path / f"out{suffix}"
    with output.opened(path, "made") as append:
        for begin in range(0, 25, 10):
            append(range(begin, min(begin + 10, 25)), x[begin : begin + 10])
    found = read(path, "made")
    np.testing.assert_array_equal(found.reshape(x.shape).astype(np.float32), x)
    if suffix in (".csv", ".parquet"):
        names = (csv.read_csv if suffix == ".csv" else parquet.read_table)(path).column_names
        made = ["made"] if not shape else [f"made_{j}" for j in range(int(np.prod(shape)))]
        assert names == ["row", *made]
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", list(output.WRITERS))
def test_an_error_leaves_the_old_file(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), output.opened(path, "made") as append:  # noqa: PT012
        append(range(3), np.zeros((3, 2)))
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_outputs_that_cannot_be(tmp_path):
    for name in ("out.txt", "none/out.csv", "none/out.npz", "none/out.parquet"):
        with pytest.raises(InputError) as error, output.opened(tmp_path / name, "made") as append:
            append(range(3), np.zeros((3, 2)))
        one_line(error, "--output", name)


def test_parquet_rows_are_written_in_large_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(output, "VALUES", 100)
    with output.opened(tmp_path / "out.parquet", "made") as append:
        for i in range(90):
            append(range(3 * i, 3 * i + 3), np.full((3, 2), i))
    groups = parquet.ParquetFile(tmp_path / "out.parquet").metadata
    assert groups.num_row_groups == 6
    np.testing.assert_array_equal(read(tmp_path / "out.parquet", "")[:, 0], np.repeat(np.arange(90), 3))


# --- the command


def run(*arguments, code=0):
    done = subprocess.run(
        [sys.executable, "-m", "aejax.predict", *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    if code:
        assert done.stderr.count("\n") == 1, done.stderr
        assert done.stderr.startswith("aejax: ")
    return done.stdout + done.stderr


@pytest.mark.slow
def test_the_command(tabular, tmp_path):
    model, folder = tabular
    given = ["--workdir", folder / "run", "--input", f"csv:{folder}/a.csv", "--output", tmp_path / "o.csv"]
    said = run(*given, "--what=reconstructions", "--split=test", "--checkpoint=best")
    written = (tmp_path / "o.csv").read_text()
    run(*given[:2], *given[4:], "--what=reconstructions", "--split=test", "--checkpoint=best")
    assert (tmp_path / "o.csv").read_text() == written  # the run's own source needs no --input
    assert re.search(r"reconstructions of 20 rows in .* s, \d+ rows/s", said)
    assert csv.read_csv(tmp_path / "o.csv").column_names == ["row", *NAMES]
    best = aejax.load(folder / "run", "best")
    expected = best.spec.x.unscale(best.map(best.pure_reconstruct, sources.load(model.config).test["x"]))
    np.testing.assert_allclose(read(tmp_path / "o.csv", ""), expected, rtol=1e-5)
    assert "is no run directory" in run("--workdir", tmp_path, *given[2:], code=2)
    (tmp_path / "b.csv").write_text("z\n1\n")
    assert "no column 'c0'" in run(*given[:3], f"csv:{tmp_path}/b.csv", *given[4:], code=2)


def test_bad_command_lines(tabular, tmp_path, monkeypatch):
    _, folder = tabular
    none = dict.fromkeys(("workdir", "output", "input", "n")) | {"split": "all", "checkpoint": "last"}
    workdir, samples = {"workdir": folder / "run"}, {"what": "samples", "n": 3}
    both = workdir | {"output": tmp_path / "o.npy"}
    for given, names in [
        ({}, ["--workdir=... is needed"]),
        (workdir, ["--output=... is needed"]),
        (both | {"what": "samples"}, ["--n=... is needed with --what=samples"]),
        (both | samples | {"input": "digits"}, ["takes no --input"]),
        (both | samples | {"split": "test"}, ["no --split"]),
        (both | samples, ["gaussian"]),
        (both | {"n": 3, "input": "digits"}, ["--n=3"]),
        (both | {"input": f"npy:{tmp_path}/o.npy"}, ["--output", "is the --input"]),
        (both | {"input": "csv:none.csv"}, ["--input = 'csv:none.csv': no such file"]),
        (both | {"input": "digits", "output": tmp_path / "o.txt"}, ["--output", ".npz, .npy, .csv, .parquet"]),
    ]:
        monkeypatch.setattr(predict.flags, "FLAGS", types.SimpleNamespace(**UNSET | none | {"what": "codes"} | given))
        with pytest.raises(InputError) as error:
            predict.main()
        one_line(error, *names)
        assert not list(tmp_path.iterdir())


def test_samples(vae, tmp_path):
    z = vae.prior(50, seed=3)
    parts = (stream.Batch(range(i, min(i + 20, 50)), z[i : i + 20]) for i in range(0, 50, 20))
    prediction.write(vae, stream.Rows(parts), "samples", tmp_path / "o.npz")
    np.testing.assert_allclose(read(tmp_path / "o.npz", "samples"), vae.sample(50, seed=3), rtol=1e-5)


# --- more rows than memory should hold

ROWS, COLUMNS = 1_000_000, 100
MEASURED = """
import atexit, pathlib, runpy, sys
sys.argv = sys.argv[1:]
atexit.register(lambda: print(pathlib.Path("/proc/self/status").read_text()))
runpy.run_module("aejax.predict", run_name="__main__")
"""


@pytest.mark.timed
def test_a_million_rows_are_streamed(tmp_path):
    """Peak memory and rows/s beside the encoder alone; run with -s to see them."""
    rng = np.random.default_rng(0)
    names, mix = [f"c{j}" for j in range(COLUMNS)], rng.standard_normal((5, COLUMNS))
    schema = pyarrow.schema([(name, pyarrow.float64()) for name in names])

    def block(n):
        x = rng.standard_normal((n, 5)) @ mix + 0.1 * rng.standard_normal((n, COLUMNS))
        return pyarrow.table(list(np.ascontiguousarray(x.T)), schema=schema)

    parquet.write_table(block(5000), tmp_path / "small.parquet")
    # One row group, as pandas writes it.
    parquet.write_table(pyarrow.concat_tables([block(50_000) for _ in range(ROWS // 50_000)]), tmp_path / "big.parquet")
    config = small(f"parquet:{tmp_path}/small.parquet", model__encoder__widths=(256, 128, 64), train__epochs=1)
    run_lib.run(config, tmp_path / "run")

    def peak(name):
        """Peak memory of the command in bytes, as the kernel counts it from the start of the program."""
        source = f"--input=parquet:{tmp_path}/{name}.parquet"
        arguments = ["predict", f"--workdir={tmp_path}/run", f"--output={tmp_path}/o.npy", source]
        done = subprocess.run([sys.executable, "-c", MEASURED, *arguments], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        print("\n" + done.stdout.splitlines()[0])
        return int(re.search(r"VmHWM:\s+(\d+) kB", done.stdout)[1]) * 1024

    before, after, size = peak("small"), peak("big"), ROWS * COLUMNS * 8
    print(f"\npeak memory {before / 1e6:.0f} MB at start-up, {after / 1e6:.0f} MB for a table of {size / 1e6:.0f} MB")
    assert after < before + size / 4

    model = aejax.load(tmp_path / "run")
    x = rng.standard_normal((200_000, COLUMNS), np.float32)
    model.map(model.pure_encode, x[:5000])
    source = f"parquet:{tmp_path}/big.parquet"
    runs = {
        "the encoder alone": lambda: [model.map(model.pure_encode, x) for _ in range(ROWS // len(x))],
        "from file to file": lambda: applied(model, source, tmp_path / "o.npy")[1],
    }
    wall, cpu = {name: [] for name in runs}, {name: [] for name in runs}
    for _ in range(5):
        for name, function in runs.items():
            begin = time.perf_counter(), time.process_time()
            found = function()
            wall[name].append(time.perf_counter() - begin[0])
            cpu[name].append(time.process_time() - begin[1])
    ratios = [statistics.median(np.divide(*seconds.values())) for seconds in (wall, cpu)]
    for name in runs:
        print(f"{name}: {ROWS / statistics.median(wall[name]):.0f} rows/s, {statistics.median(cpu[name]):.2f} s of CPU")
    print(f"rows/s {ratios[0]:.2f} of the encoder's, by CPU time {ratios[1]:.2f}")
    assert found.shape == (ROWS, 3)
    assert ratios[0] >= 0.4  # 0.6 where nothing else runs
