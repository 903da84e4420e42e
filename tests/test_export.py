import json
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import aejax
import common
from aejax import experiment, export
from aejax.data import sources
from aejax.data.bags import dense
from aejax.errors import InputError
from aejax.trained import of_state
from common import ALIKE, CONFIGS, VAE, finish, get_config, images, one_line, quick, small, table, untransformed

# A process that cannot import aejax, nor what aejax is made of.
ALONE = """
import sys, time

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("aejax", "flax", "orbax", "ml_collections", "sklearn"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker())
import jax
import numpy as np

file, given, made = sys.argv[1:]
x = np.load(given)
begin = time.perf_counter()
function = jax.jit(jax.export.deserialize(open(file, "rb").read()).call)
np.asarray(function(x[:1]))
print("seconds", time.perf_counter() - begin)
y = np.asarray(function(x))
for n in (1, 2):
    assert np.allclose(function(x[:n]), y[:n], rtol=1e-4, atol=1e-5), n
np.save(made, y)
"""
METHODS = ("encode", "decode", "reconstruct", "score")
# Methods that a config's model refuses.
WITHOUT = {"inpainting_cvae": ("decode",)} | dict.fromkeys(("classifier", "captions", "dates"), METHODS[1:])


def untrained(config, x=None):
    """The model of a config at step 0, on x or on the config's source."""
    data = sources.load(config) if x is None else sources.from_array(x, config)
    built = experiment.build(config, data.spec)
    return of_state(built, jax.jit(built.init)()), data


def call(model, what):
    return jax.jit(jax.export.deserialize(export.export(model, what)).call)


def alone(folder, x):
    """What the file in `folder` gives for x in a process that cannot import aejax, and what it printed."""
    np.save(folder / "x.npy", x)
    arguments = [folder / "model.bin", folder / "x.npy", folder / "y.npy"]
    process = subprocess.run(
        [sys.executable, "-I", "-c", ALONE, *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    return np.load(folder / "y.npy"), dict(line.split() for line in process.stdout.splitlines())


def run(*arguments, code=0):
    return finish(common.command(*arguments, module="aejax.export"), code)


@pytest.mark.slow
def test_the_file_runs_where_aejax_cannot_be_imported(tmp_path):
    model = aejax.fit(images(), small(**VAE), workdir=tmp_path / "run")
    run(f"--workdir={tmp_path / 'run'}", "--what=encode", f"--output={tmp_path / 'model.bin'}")
    x = images(50, seed=1)
    codes, _ = alone(tmp_path, x)
    np.testing.assert_allclose(codes, model.encode(x), atol=1e-5)
    sidecar = json.loads((tmp_path / "model.bin.json").read_text())
    assert sidecar["input"] == {"name": "examples", "unit": "0 to 255", "shape": ["batch", 6, 5, 1], "dtype": "uint8"}
    assert sidecar["output"] == {"name": "codes", "unit": "of the code", "shape": ["batch", 3], "dtype": "float32"}
    assert sidecar["platforms"] == ["cpu", "cuda", "tpu"]
    assert not list(tmp_path.glob(".*.tmp"))


@pytest.mark.parametrize("path", quick("vae", without=ALIKE))
def test_every_variant_is_what_the_model_is(path):
    model, data = untrained(untransformed(path))
    stored = model.spec.x.kind in ("image", "video", "tokens")
    x = data.test["x"] if stored else dense(data.test["x"]).astype(np.float32)
    for what in METHODS:
        if what in WITHOUT.get(path.stem, ()):
            continue
        given = model.encode(x[:9]) if what == "decode" else x[:9]
        made, expected = call(model, what)(given), getattr(model, what)(given)
        np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-5, err_msg=what)
        sidecar = export.describe(model, what)
        assert sidecar["input"]["shape"] == ["batch", *given.shape[1:]]
        assert sidecar["output"]["shape"] == ["batch", *expected.shape[1:]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_table_goes_in_as_it_is(dtype):
    # A mean of 10⁶ deviations: in one float32 subtraction the column would be off by percents.
    x = table(200)
    x[:, 0] = x[:, 0] * 0.01 + 1e6
    x[:, 1] = x[:, 1] * 1e-9
    x = x.astype(np.float32)
    model, _ = untrained(small(), x)
    given = x.astype(dtype)
    deviation = np.array(model.spec.x.deviation)
    np.testing.assert_allclose(call(model, "encode")(given), model.encode(x), atol=1e-5)
    np.testing.assert_allclose(call(model, "score")(given), model.score(x), rtol=1e-5)
    for what, into in (("reconstruct", given), ("decode", model.encode(x))):
        made, expected = np.asarray(call(model, what)(into), np.float64), getattr(model, what)(into)
        # float32 has seven digits: of the mean, where that is the larger.
        allowed = 1e-5 * deviation + 1e-7 * np.abs(expected)
        assert (np.abs(made - expected) <= allowed).all(), what


@pytest.mark.parametrize(
    ("weighting", "given", "made"),
    [("counts", "counts", "shares"), ("tfidf", "counts", "shares"), ("binary", "counts", "[0, 1]")],
)
def test_of_a_text_the_counts_of_its_words_go_in(weighting, given, made):
    texts = ["one two two", "two three", "three three four one", "", "four"] * 12
    likelihood = "bernoulli" if weighting == "binary" else "categorical"
    model, _ = untrained(small(data__text=weighting, objective__likelihood=likelihood), texts)
    words = model.spec.x.columns
    counts = np.array([[text.split().count(word) for word in words] for text in texts], np.float32)
    np.testing.assert_allclose(call(model, "encode")(counts), model.encode(texts), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(call(model, "score")(counts), model.score(texts), rtol=1e-5, atol=1e-6)
    sidecar = export.describe(model, "reconstruct")
    assert given in sidecar["input"]["unit"]
    assert made in sidecar["output"]["unit"]


def test_a_table_that_is_not_standardised():
    model, data = untrained(small(data__standardize=False), table())
    np.testing.assert_allclose(call(model, "encode")(data.test["x"]), model.encode(data.test["x"]), rtol=1e-5)


def test_one_line_where_it_cannot_be(tmp_path):
    model, _ = untrained(small(), table() * 1e-60)
    for what in METHODS:
        with pytest.raises(InputError) as error:
            export.export(model, what)
        one_line(error, "float32")
    switches, _ = untrained(get_config("conv", model__conv__upsample="unpool"))
    with pytest.raises(InputError) as error:
        export.export(switches, "decode")
    one_line(error, "unpool", "switches")
    conditional, _ = untrained(get_config("inpainting_cvae"))
    with pytest.raises(InputError) as error:
        export.export(conditional, "decode")
    one_line(error, "decode", "besides the code")
    with pytest.raises(InputError) as error:
        export.export(switches, "sample")
    one_line(error, "encode, decode, reconstruct, score, classify, anomalies or write")


def test_onnx_asks_for_its_packages(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    model, _ = untrained(small(), table())
    with pytest.raises(InputError) as error:
        export.write(model, "encode", tmp_path / "model.onnx", "onnx")
    one_line(error, "--format=onnx", "pip install 'aejax[onnx]'")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the converter
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_onnx_is_what_the_model_is(tmp_path, path):
    pytest.importorskip("jax2onnx")
    import onnxruntime

    model, data = untrained(untransformed(path))
    if path.stem in ("conv", "k_sparse"):  # the converter lacks a primitive; its program is not valid
        with pytest.raises(InputError) as error:
            export.write(model, "encode", tmp_path / "model.onnx", "onnx")
        one_line(error, "--format=onnx", "cannot convert", "--format=stablehlo")
        return
    x = data.test["x"] if model.spec.x.kind == "image" else dense(data.test["x"]).astype(np.float32)
    for what in METHODS:
        if what in WITHOUT.get(path.stem, ()):
            continue
        given = model.encode(x[:9]) if what == "decode" else x[:9]
        export.write(model, what, tmp_path / "model.onnx", "onnx")
        session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
        expected = getattr(model, what)(given)
        for n in (1, 2, 9):
            (made,) = session.run(["output"], {"input": given[:n]})
            np.testing.assert_allclose(made, expected[:n], rtol=1e-5, atol=1e-5, err_msg=what)
    assert json.loads((tmp_path / "model.onnx.json").read_text())["names"] == {"input": "input", "output": "output"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_onnx_of_a_table_of_large_means(tmp_path):
    pytest.importorskip("jax2onnx")
    import onnxruntime

    x = table(200)
    x[:, 0] = x[:, 0] * 0.01 + 1e6
    x = x.astype(np.float32)
    model, _ = untrained(small(), x)
    export.write(model, "encode", tmp_path / "model.onnx", "onnx")
    (made,) = onnxruntime.InferenceSession(tmp_path / "model.onnx").run(None, {"input": x})
    np.testing.assert_allclose(made, model.encode(x), atol=1e-5)


@pytest.mark.slow
def test_bad_input_of_the_command(tmp_path):
    aejax.fit(images(), small(train__epochs=1), workdir=tmp_path / "run")
    workdir, output = f"--workdir={tmp_path / 'run'}", f"--output={tmp_path / 'model.bin'}"
    for arguments, names in (
        ([f"--workdir={tmp_path}", "--what=encode", output], [str(tmp_path), "no run directory"]),
        ([workdir, "--what=codes", output], ["codes", "encode|decode|reconstruct|score"]),
        ([workdir, "--what=encode"], ["--output"]),
        ([workdir, "--what=encode", "--checkpoint=best", output], ["best"]),
        (
            [workdir, "--what=encode", f"--output={tmp_path / 'missing' / 'model.bin'}"],
            ["missing", "cannot be written"],
        ),
    ):
        _, err = run(*arguments, code=2)
        assert err.count("\n") == 1, err
        for name in names:
            assert name in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


@pytest.mark.timed
def test_speed(tmp_path):
    """The file loads in under 2 s and is at least as fast per row as `encode`: the 2.8 million weights of `deep`."""
    x = images(20_000, (28, 28, 1))
    model, _ = untrained(get_config("deep"), x)
    export.write(model, "encode", tmp_path / "model.bin")
    codes, printed = alone(tmp_path, x)
    np.testing.assert_allclose(codes, model.encode(x), atol=1e-5)
    exported = call(model, "encode")
    batches = np.split(x[:19_456], 19)  # of the rows that encode takes at a time
    seconds = {"exported": [], "encode": []}
    for _ in range(15):
        begin = time.perf_counter()
        for batch in batches:
            np.asarray(exported(batch))
        middle = time.perf_counter()
        model.encode(x[:19_456])
        seconds["exported"].append(middle - begin)
        seconds["encode"].append(time.perf_counter() - middle)
    ratio = float(np.median(np.divide(seconds["encode"], seconds["exported"])))
    rates = [round(19_456 / np.median(values)) for values in seconds.values()]
    start = float(printed["seconds"])
    print(f"loaded and run once in {start:.2f} s; rows/s of the file and of encode: {rates}, ratio {ratio:.2f}")
    assert start < 2
    assert ratio > 0.9
