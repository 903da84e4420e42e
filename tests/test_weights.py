"""export --format=npz: arrays by name, and the forward pass in NumPy alone."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

import aejax
import common
from aejax import experiment, export
from aejax.data import sources
from aejax.data.bags import dense
from aejax.errors import InputError
from aejax.models import ACTIVATIONS
from aejax.storage.reference import Model
from aejax.trained import Trained
from aejax.training import plan
from common import ALIKE, VAE, finish, get_config, images, one_line, quick, small, table, untransformed

# A process that can import NumPy and Python's own modules alone.
ALONE = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in ("numpy", "model", *sys.stdlib_module_names):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker())
sys.path.insert(0, ".")
import numpy as np
from model import Model

model, x = Model("model.npz"), np.load("x.npy")
np.savez("made.npz", codes=model.encode(x), reconstructions=model.reconstruct(x))
"""


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


def perturbed(config, x=None, y=None):
    """The model of a config, with parameters that are all random: initial biases are 0, initial scales 1. The noise
    has both signs, so that outputs keep the size of those of a new model."""
    config = plan.resolve(config)
    data = sources.load(config) if x is None else sources.from_array(x, config, y)
    built = experiment.build(config, data.spec)
    state, rng = jax.jit(built.init)(), np.random.default_rng(0)

    def noisy(leaf):
        size = rng.uniform(0.05, 0.3, leaf.shape) / np.sqrt(leaf.shape[0] if leaf.ndim > 1 else 1)
        return leaf + (rng.choice([-1, 1], leaf.shape) * size).astype(np.float32)

    params, variables = jax.tree.map(noisy, (state.params, state.variables))
    return Trained(built, params, variables), data


def written(model, folder):
    export.write(model, None, folder / "model.npz", "npz")
    return Model(folder / "model.npz")


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize(
    ("fields", "x"),
    [slow({}, images()), (VAE, images()), slow({}, table())],
    ids=["autoencoder", "vae", "standardised"],
)
def test_numpy_alone_gives_what_the_model_gives(tmp_path, fields, x):
    model = aejax.fit(x, small(**fields, train__epochs=1))
    written(model, tmp_path)
    np.save(tmp_path / "x.npy", x)
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "made.npz") as made:
        np.testing.assert_allclose(made["codes"], model.encode(x), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(made["reconstructions"], model.reconstruct(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("path", quick(without=ALIKE))
def test_every_variant_or_none(tmp_path, path):
    model, data = perturbed(untransformed(path))
    files = export.write(model, None, tmp_path / "model.npz", "npz")
    about = json.loads((tmp_path / "model.npz.json").read_text())
    with np.load(tmp_path / "model.npz") as archive:
        assert {name: [*archive[name].shape] for name in archive} == {n: a["shape"] for n, a in about["arrays"].items()}
        kernel = next(iter(archive[name] for name in archive if name.endswith("layers_0/kernel")), None)
        assert kernel is None or kernel.dtype == np.float32
    if model.config.model.name != "mlp" or path.stem == "inpainting_cvae":
        assert about["reference"].startswith("none: ")
        assert [file.name for file in files] == ["model.npz", "model.npz.json"]
        with pytest.raises(ValueError, match="holds no steps: none: "):
            Model(tmp_path / "model.npz")
        return
    found, x = Model(tmp_path / "model.npz"), dense(data.test["x"])[:50].astype(data.test["x"].dtype)
    codes, last = (
        model.encode(x),
        "classify" if model.spec.classes and model.objective.pair.supervised else "reconstruct",
    )
    assert_close(found.encode(x), codes)
    made, expected = getattr(found, last)(x), getattr(model, last)(x)
    assert_close(made, expected)
    if last == "reconstruct":
        assert_close(found.decode(codes), model.decode(codes))


@pytest.mark.parametrize(
    "fields",
    [
        *(slow({"model__encoder__activation": name, "model__code_activation": name}) for name in ACTIVATIONS),
        {"model__encoder__norm": "layer", "model__decoder__tied": True},
        {"model__encoder__norm": "batch", "model__encoder__widths": (9, 8), "model__decoder__tied": True},
        {"model__bottleneck__name": "topk", "model__bottleneck__topk__k": 2, "model__bottleneck__topk__test": 2,
         "model__bottleneck__topk__begin": 3},
        slow({"data__standardize": False, "pair__input": "log"}),
        slow({"data__standardize": False, "pair__input": "proportions", "objective__likelihood": "categorical"}),
    ],
    ids=lambda fields: "-".join(map(str, fields.values())),
)  # fmt: skip
def test_every_part(tmp_path, fields):
    x = np.abs(table()) / 50
    model, _ = perturbed(small(**fields), x)
    found = written(model, tmp_path)
    assert_close(found.encode(x), model.encode(x))
    assert_close(found.reconstruct(x), model.reconstruct(x))


@pytest.mark.parametrize("missing", [slow("mean"), "indicator", slow("mask")])
def test_a_table_with_gaps_and_categories(tmp_path, missing):
    rng = np.random.default_rng(0)
    x = table(60, 3)
    x[rng.random(x.shape) < 0.2] = np.nan
    colours = [("red", "green", "blue")[i % 3] for i in range(60)]
    cells = [["" if np.isnan(v) else repr(float(v)) for v in row] for row in x]
    rows = [",".join([*row, colour]) for row, colour in zip(cells, colours, strict=True)]
    (tmp_path / "t.csv").write_text("\n".join(["a,b,c,colour", *rows]) + "\n")
    config = small(f"csv:{tmp_path / 't.csv'}", data__missing=missing, train__batch_size=8,
                   objective__likelihood="gaussian", data__categorical="onehot")  # fmt: skip
    model, _ = perturbed(config)
    order = model.spec.x.categories["colour"]
    given = np.column_stack([x, [order.index(colour) for colour in colours]])
    found = written(model, tmp_path)
    call = jax.export.deserialize(bytearray(export.export(model, "reconstruct"))).call
    assert_close(found.reconstruct(given), call(given.astype(np.float32)))
    assert found.about["input"]["categories"] == {"colour": list(order)}
    assert found.about["input"]["category"] == "goes in as its index in the list, from 0"
    assert found.about["input"]["empty cell"] == "goes in as NaN"
    for wrong in (-1, 3, 0.5):
        given[7, 3] = wrong
        with pytest.raises(
            ValueError, match=f"row 7, column 3: {float(wrong)} must be the index of a category, 0 to 2"
        ):
            found.encode(given)


def test_what_cannot_be_is_one_line(tmp_path):
    model, _ = perturbed(small(), table())
    for what, file, format, parts in (
        (None, "model.bin", "npz", ["model.bin", ".npz"]),
        ("encode", "model.npz", "npz", ["--what=encode", "whole model"]),
        (None, "model.bin", "stablehlo", ["--what=..."]),
    ):
        with pytest.raises(InputError) as error:
            export.write(model, what, tmp_path / file, format)
        one_line(error, *parts)
        assert not list(tmp_path.iterdir())
    found = written(model, tmp_path)
    written(model, tmp_path)  # again, over its own files
    (tmp_path / "train.py").write_text("import aejax  # of the user")
    with pytest.raises(InputError) as error:
        export.write(model, None, tmp_path / "train.npz", "npz")
    one_line(error, "train.py", "would replace")
    assert not (tmp_path / "train.npz").exists()
    for use, x in ((found.encode, np.zeros((2, 3))), (found.decode, np.zeros(3)), (found.classify, np.zeros((2, 7)))):
        with pytest.raises(ValueError, match=r"must be \(rows, |has the steps encode, decode"):
            use(x)


@pytest.mark.slow
def test_the_command_says_where_there_is_no_reference(tmp_path):
    conv = get_config("conv", train__epochs=1, figures__enabled=False)
    aejax.fit(images(200, (8, 8, 1)), conv, workdir=tmp_path / "run")
    flags = [f"--workdir={tmp_path / 'run'}", f"--output={tmp_path / 'model.npz'}", "--format=npz"]
    out, _ = finish(common.command(*flags, module="aejax.export"))
    assert "code in NumPy: none: " in out
    assert not (tmp_path / "model.py").exists()


def test_of_a_text_the_counts_of_its_words_go_in(tmp_path):
    texts = ["one two two", "two three", "three three four one", "four"] * 12
    model, _ = perturbed(small(data__text="tfidf", objective__likelihood="categorical"), texts)
    counts = np.array([[text.split().count(word) for word in model.spec.x.columns] for text in texts], np.float32)
    assert_close(written(model, tmp_path).encode(counts), model.encode(texts))
