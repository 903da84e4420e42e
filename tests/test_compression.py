"""Compression: portable arithmetic, bits-back coding, quantised codes, the file, the commands, wrong input."""

import os

import jax
import numpy as np
import pytest
from scipy import stats

import aejax
from aejax import archive
from aejax import run as run_lib
from aejax.errors import InputError
from aejax.models import bottlenecks, layers
from aejax.page import report
from aejax.uses.compression import bits_back, codec, fixed_point, portable, quantizer, rates
from aejax.uses.compression import measure as compression
from aejax.uses.compression import plots as rate_plots
from aejax.uses.compression.bits_back import BitsBack
from aejax.uses.compression.codec import Form
from aejax.uses.data import Data
from common import VAE, command, finish, images, one_line, small, trained, trainer

BINARY = np.where(images(300) > 127, 255, 0).astype(np.uint8)
FORM = Form(BINARY.shape[1:], "uint8")


def vae(x=BINARY, **fields):
    """An untrained variational autoencoder of binary images, and its data."""
    run = trainer(small(**(VAE | fields)), x)
    return trained(run), Data(run.experiment, run.data)


def model(run, quantizer=None):
    """The model of a trainer as `aejax.load` gives it."""
    own = trained(run)
    made = aejax.Model(own.experiment, own.params, own.variables)
    made.quantizer, made._data = quantizer, Data(run.experiment, run.data)
    return made


@pytest.fixture(scope="module")
def lossless():
    """A variational autoencoder of binary images."""
    return model(trainer(small(**VAE), BINARY))


@pytest.fixture(scope="module")
def lossy():
    """An autoencoder of grey images with the quantiser of the use, and what the use measured."""
    made = model(trainer(small(), images(200)))
    made.found = compression.measure(made, made.data)
    made.quantizer = quantizer.restored(made.found.arrays["quantizer"])
    return made


# --- portable arithmetic -----------------------------------------------------------------------------


def test_portable_functions_agree_with_those_of_scipy():
    x = np.linspace(-30, 30, 10_001)
    np.testing.assert_allclose(portable.exp(x), np.exp(x), rtol=1e-15)
    np.testing.assert_allclose(portable.normal_cdf(x), stats.norm.cdf(x), rtol=2e-7)
    t = np.linspace(0, 1, 1001)
    np.testing.assert_allclose(portable.log1p(t), np.log1p(t), rtol=0, atol=1e-15)
    quantiles = portable.normal_quantiles(9)
    np.testing.assert_allclose(quantiles[1:-1], stats.norm.ppf(np.arange(1, 512) / 512), atol=2e-7)
    assert (np.diff(quantiles) > 0).all()


def test_portable_functions_use_no_library_of_mathematics(monkeypatch):
    for name in ("exp", "log", "log1p", "tanh", "expm1"):
        monkeypatch.setattr(np, name, None)
    for function in portable.ACTIVATIONS.values():
        assert np.isfinite(function(np.linspace(-20, 20, 50))).all()


@pytest.mark.parametrize("name", list(layers.ACTIVATIONS))
def test_portable_activations_agree_with_those_of_the_model(name):
    x = np.linspace(-8, 8, 401)
    expected = layers.ACTIVATIONS[name](x.astype(np.float32))
    np.testing.assert_allclose(portable.ACTIVATIONS[name](x), expected, rtol=2e-6, atol=2e-6)


# --- the network in integers ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("norm", "activation"),
    [
        ("batch", "relu"),
        *(pytest.param(*both, marks=pytest.mark.slow) for both in (("layer", "tanh"), ("none", "gelu"))),
    ],
)
def test_fixed_point_network_agrees_with_the_float_one(norm, activation):
    fields = {"model__encoder__norm": norm, "model__decoder__norm": norm}
    fields |= {"model__encoder__activation": activation, "model__encoder__widths": (8, 7)}
    model, data = vae(**fields)
    x = np.asarray(data.test[:])
    network = fixed_point.Network(model, "encoder", 1.0)
    found = network(x)
    np.testing.assert_allclose(found[:, :3], model.encode(x), atol=2e-3)
    z = np.random.default_rng(0).standard_normal((20, 3))
    means = portable.sigmoid(fixed_point.Network(model, "decoder", 6.0)(z))
    np.testing.assert_allclose(means.reshape(-1, *BINARY.shape[1:]), model.decode(z), atol=1e-3)


def test_fixed_point_sums_are_exact_in_any_order():
    model, data = vae(model__encoder__widths=(40, 30), model__encoder__activation="silu")
    x = np.asarray(data.test[:]).reshape(len(data.test), -1)
    network = fixed_point.Network(model, "encoder", 1.0)
    found = network(x)
    np.testing.assert_array_equal(found, network(x, batch=7))
    order = np.random.default_rng(0).permutation(x.shape[1])
    first = network.layers[0]
    permuted = fixed_point.Layer(first.kernel[order], *list(vars(first).values())[1:])
    inputs = np.rint(x * 2.0**fixed_point.GRID)
    np.testing.assert_array_equal(first(inputs), permuted(inputs[:, order]))
    integers = [
        [sum(int(a) * int(b) for a, b in zip(row, k, strict=True)) for k in first.kernel.T] for row in inputs[:3]
    ]
    np.testing.assert_array_equal(inputs[:3] @ first.kernel, np.array(integers, dtype=object).astype(float))


def test_weights_that_are_too_large_are_refused():
    with pytest.raises(InputError) as error:
        fixed_point._layer(np.full((3, 2), 1e12), np.zeros(2), "relu", None, bound=1.0)
    one_line(error, "too large")


# --- bits-back coding ------------------------------------------------------------------------------------


def test_the_bits_of_an_interval_have_the_probability_of_the_gaussian():
    coder = BitsBack(vae()[0])
    rng = np.random.default_rng(0)
    mean, deviation = rng.normal(0, 1.5, (1, 3)), np.array([[1.0, 0.1, 0.01]])
    z = np.searchsorted(coder.edges, mean + deviation * rng.standard_normal((1, 3))) - 1
    logs = 0.0
    for level in range(bits_back.DEPTH):
        upper = coder._upper(z >> (bits_back.DEPTH - level), level, mean, deviation)
        bit = z >> (bits_back.DEPTH - level - 1) & 1
        logs = logs + np.log2(np.where(bit, upper, 1 - upper))
    low, high = (stats.norm.cdf((coder.edges[z + k] - mean) / deviation) for k in (0, 1))
    np.testing.assert_allclose(logs, np.log2(high - low), atol=0.02)


def test_lossless_coding_reaches_the_bound(lossless):
    x = codec.binary(BINARY)
    words, seed = BitsBack(lossless).compress(x)
    np.testing.assert_array_equal(BitsBack(lossless, batch=5).decompress(words, len(x), seed), x)
    bound = (
        -compression.elbo_nats(lossless, x.reshape(-1, *BINARY.shape[1:]).astype(np.float32), 50) * len(x) / np.log(2)
    )
    assert 32 * (len(words) - seed) == pytest.approx(bound, rel=0.02)
    gain = [32 * len(BitsBack(lossless).compress(x[:n])[0]) for n in (0, 1)]
    assert gain[0] == 32 * seed
    assert gain[1] > gain[0]


def test_deviations_that_are_nearly_zero_or_large_are_decoded():
    coder = BitsBack(vae()[0])
    mean = np.array([[0.0, 9.0, -9.0]] * 20)
    for deviation in (1e-30, 1e-3, 50.0):
        import constriction

        words = np.random.default_rng(0).integers(1, 2**32, 500, dtype=np.uint32)
        ans, (_, bernoulli) = constriction.stream.stack.AnsCoder(words), bits_back._models()
        z = coder._pop(ans, bernoulli, mean, np.full_like(mean, deviation))
        coder._push(ans, bernoulli, z, mean, np.full_like(mean, deviation))
        np.testing.assert_array_equal(ans.get_compressed(), words)


@pytest.mark.parametrize("raw", ["uint8", "float32", "float64", "bool"])
def test_the_type_and_the_shape_come_back(lossless, raw):
    x = (BINARY[:9, ..., 0] / 255).astype(raw) * (255 if raw == "uint8" else 1)
    x = x.astype(raw)
    back = lossless.decompress(lossless.compress(x))
    assert back.dtype == x.dtype
    np.testing.assert_array_equal(back, x)


@pytest.mark.slow
def test_binary_tables_are_compressed_too():
    rows = np.random.default_rng(0).integers(0, 2, (60, 5)).astype(float)
    model = aejax.fit(rows, small(**VAE, data__standardize=False))
    np.testing.assert_array_equal(model.decompress(model.compress(rows)), rows)


# --- the file -------------------------------------------------------------------------------------------


def test_altered_files_are_refused(lossless):
    content = lossless.compress(BINARY[:20])
    rng = np.random.default_rng(0)
    messages = []
    for i in range(200):
        other = bytearray(content)
        if i % 4 == 3:
            other = other[: rng.integers(len(other))] if i % 8 == 3 else other + rng.bytes(rng.integers(1, 9))
        else:
            for place in rng.integers(0, len(other), rng.integers(1, 4)):
                other[place] ^= int(rng.integers(1, 256))
        if bytes(other) == content:  # two changes of one byte that undo each other
            other[0] ^= 1
        with pytest.raises(InputError) as error:
            lossless.decompress(bytes(other))
        one_line(error, "the compressed data: ")
        messages.append(str(error.value))
    assert len(messages) == 200
    assert {m.partition(": ")[2].split(":")[0] for m in messages} == {
        "is no file of aejax.compress",
        "is truncated or altered",
    }


def test_a_file_of_another_model_or_version_is_refused(lossless, monkeypatch):
    content = lossless.compress(BINARY[:3])
    with pytest.raises(InputError) as error:
        codec.decompress(vae(seed=1)[0], content, "FILE", None)
    one_line(error, "FILE: was compressed by another model")
    monkeypatch.setattr("aejax.uses.compression.container.VERSION", 2)
    with pytest.raises(InputError) as error:
        lossless.decompress(content)
    one_line(error, "has version 1 of the format; this aejax reads 2")


def test_a_machine_that_decodes_to_other_values_says_so(lossless, monkeypatch):
    content = lossless.compress(BINARY[:30])
    exact = portable.sigmoid
    monkeypatch.setattr(bits_back, "sigmoid", lambda x: exact(x + 1e-3))
    with pytest.raises(InputError) as error:
        lossless.decompress(content)
    one_line(error, "the compressed data: ")


# --- quantised codes ------------------------------------------------------------------------------------


def test_quantised_codes_cost_their_entropy_and_come_back():
    rng = np.random.default_rng(0)
    codes = rng.standard_normal((20_000, 3)) * [3, 1, 0.1]
    made = quantizer.fit(codes, np.eye(3), [0.5], ordered=True)
    new = rng.standard_normal((5000, 3)) * [3, 1, 0.1]
    q = made.quantize(new, 0.5)
    content = made.encode(q, 0.5)
    np.testing.assert_array_equal(made.decode(content, len(q), 3, 0.5), q)
    assert np.abs(made.dequantize(q, 0.5) - new).max() < 0.2501
    entropy = sum(len(q) * stats.entropy(np.unique(q[:, j], return_counts=True)[1], base=2) for j in range(3))
    assert 8 * len(content) == pytest.approx(entropy, rel=0.01)
    q[7], q[8, 1] = 10**6, -(10**9)  # beyond the table
    np.testing.assert_array_equal(made.decode(made.encode(q, 0.5), len(q), 3, 0.5), q)
    again = quantizer.restored(made.stored())
    assert again.fingerprint == made.fingerprint
    assert again.encode(q, 0.5) == made.encode(q, 0.5)


def test_units_are_scaled_by_the_jacobian_and_uncorrelated():
    rng = np.random.default_rng(0)
    decoder = rng.standard_normal((3, 6))  # r = z W
    codes = rng.standard_normal((2000, 3)) @ rng.standard_normal((3, 3)) + 2
    made = quantizer.fit(codes, decoder @ decoder.T, [0.1], ordered=False)
    np.testing.assert_allclose(made.forward @ made.backward, np.eye(3), atol=1e-9)
    moved = made.backward @ decoder  # by one in each unit
    np.testing.assert_allclose(moved @ moved.T, np.eye(3), atol=1e-9)
    spread = np.cov((codes - codes.mean(0)) @ made.forward, rowvar=False)
    np.testing.assert_allclose(spread, np.diag(np.diag(spread)), atol=1e-9)
    assert (np.diff(np.diag(spread)) < 0).all()


def test_the_metric_of_a_linear_decoder():
    run = trainer(small(model__encoder__widths=(), model__bottleneck__size=3), images())
    model = trained(run)
    kernel = np.asarray(model.params["decoder"]["layers_0"]["kernel"], np.float64)
    codes = model.encode(images())
    np.testing.assert_allclose(compression.metric(model, codes), kernel @ kernel.T, rtol=1e-5, atol=1e-6)


def test_rates_are_interpolated():
    points = [rates.Point("model", n, s, 2 * n / s, n * s**2, 0.0) for n in (1, 2) for s in (1.0, 2.0, 4.0)]
    assert rates.rate_at(points, 3.0) == pytest.approx(2 / 3**0.5)
    assert rates.rate_at(points, 0.5) is None
    assert rate_plots.envelope([(1, 5), (2, 6), (3, 1)]) == [(1, 5), (3, 1)]


def test_tiles_are_undone():
    x = images(7, (3, 4, 2))
    np.testing.assert_array_equal(rates.untiled(rates.tiles(x), x.shape), x)


def test_lossy_files_decode_to_the_reconstructions(lossy):
    x = images(200)
    sizes = []
    for step in (0.5, 2.8):
        content = lossy.compress(x, step=step)
        sizes.append(len(content))
        back = lossy.decompress(content)
        assert back.dtype == np.uint8
        made = lossy.quantizer
        codes = made.dequantize(made.quantize(lossy.encode(x), step), step)
        np.testing.assert_allclose(back / 255, np.clip(lossy.decode(codes), 0, 1), atol=0.51 / 255)
    assert sizes[0] > sizes[1]
    assert lossy.compress(x) == lossy.compress(x, step=0.25)


# --- nested dropout --------------------------------------------------------------------------------------


def test_nested_dropout_keeps_a_geometric_number_of_units():
    neck, h = bottlenecks.Nested(size=5, p=0.3), np.ones((20_000, 5), np.float32)
    z = neck.apply({}, h, step=np.int32(0), rngs={"sample": jax.random.key(0)}).z
    kept = np.asarray(z).sum(1)
    assert (np.diff(np.asarray(z), axis=1) <= 0).all()  # a prefix
    expected = [0.3 * 0.7**k for k in range(4)]
    shares = [np.mean(kept == k) for k in range(1, 6)]
    np.testing.assert_allclose(shares, [*expected, 0.7**4], atol=0.012)
    for given in ({"rngs": {"sample": jax.random.key(0)}}, {"step": np.int32(0)}):  # evaluation; a deterministic model
        np.testing.assert_array_equal(neck.apply({}, h, **given).z, h)


@pytest.mark.slow
def test_an_ordered_code_is_measured_by_its_prefixes():
    fields = {"model__bottleneck__name": "nested", "model__bottleneck__size": 5}
    run = trainer(small(**fields), images())
    found = compression.measure(trained(run), Data(run.experiment, run.data), steps=(0.5, 1.0))
    table = found.tables["rates"]
    units = [n for n, code in zip(table["units"], table["code"], strict=True) if code == "model"]
    assert units == [1, 2, 4, 5] * 2
    errors = found.tables["prefixes"]
    x = np.asarray(Data(run.experiment, run.data).test[:])
    z = trained(run).encode(x)
    z[:, 2:] = 0
    expected = ((trained(run).decode(z) - x) ** 2).sum((1, 2, 3)).mean()
    assert found.numbers["compression/units_2/squared_error"] == pytest.approx(expected, rel=1e-5)
    assert errors["units"] == [1, 2, 3, 4, 5]
    assert (np.diff(errors["pca/squared_error"]) < 0).all()
    assert all(draw() is not None for draw in found.figures.values())
    assert set(found.figures) <= set(report.CAPTIONS)
    made = quantizer.restored(found.arrays["quantizer"])
    np.testing.assert_array_equal(made.forward, np.diag(np.diag(made.forward)))
    z = made.dequantize(np.ones((1, 2), int), 0.5)
    assert (z[0, 2:] == 0).all()
    assert (z[0, :2] > 0).all()


# --- the use -----------------------------------------------------------------------------------------------


def test_the_use_measures_complete_files():
    model, data = vae()
    found = compression.measure(model, data)
    x = np.asarray(data.test[:])
    content = codec.compress(model, x, Form(x.shape[1:], "float32"), None)
    assert found.numbers["compression/bits_per_pixel"] == pytest.approx(8 * len(content) / x.size)
    assert {f"compression/{name}/bits_per_pixel" for name in ("gzip", "bz2", "xz", "png")} < set(found.numbers)
    assert all(draw() is not None for draw in found.figures.values())
    assert set(found.figures) <= set(report.CAPTIONS)


def test_the_use_of_a_grey_model_compares_with_pca(lossy):
    found = lossy.found
    points = found.tables["rates"]
    assert set(points["code"]) == {"model", "pca", "jpeg"}
    assert found.numbers["compression/pca/step_1/bits_per_pixel"] > 0
    first = points["code"].index("model")
    content = lossy.compress(np.asarray(lossy.data.test[:]), step=points["step"][first])
    assert 8 * len(content) / (30 * len(lossy.data.test)) == pytest.approx(points["bits_per_pixel"][first], rel=0.01)
    assert all(draw() is not None for draw in found.figures.values())
    assert set(found.figures) <= set(report.CAPTIONS)


def test_the_use_is_left_out_where_nothing_can_be_decoded():
    run = trainer(small(pair__name="inpaint", pair__inpaint__conditional=True, **VAE), images(100, (8, 8, 1)))
    with pytest.raises(compression.Skip, match="the decoder needs more than the code"):
        compression.measure(trained(run), Data(run.experiment, run.data))


# --- wrong input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "x", "part"),
    [
        ({}, images(5), "this model codes 0 and 255 without loss"),
        ({}, images(5) / 255, "this model codes 0 and 1 without loss"),
        ({"step": 0.5}, BINARY, "python -m aejax.evaluate --workdir=DIR --use=compression"),
        ({}, BINARY[:, 1:], "must be (6, 5, 1)"),
        ({}, BINARY[:0], "needs one or more examples"),
    ],
)
def test_wrong_input_of_a_lossless_model(lossless, fields, x, part):
    with pytest.raises(InputError) as error:
        lossless.compress(x, **fields)
    one_line(error, part)


def test_wrong_files_are_named(lossless, tmp_path):
    np.save(tmp_path / "x.npy", BINARY[:, 1:])
    with pytest.raises(InputError) as error:
        archive.read(lossless, f"npy:{tmp_path / 'x.npy'}", "all")
    one_line(error, "--input = 'npy:", "x.npy': shape (5, 5, 1) of an example must be (6, 5, 1)")


def test_wrong_steps(lossy):
    with pytest.raises(InputError) as error:
        lossy.compress(images(5), step=0.3)
    one_line(error, "step=0.3: must be one that was fitted: 0.25, 0.35, 0.5, 0.7, 1, 1.4, 2, 2.8")
    run = trainer(small(), images())
    found = list(compression.check(small(uses__compression__components=10**6), run.experiment.spec))
    assert [error.field for error in found] == ["uses.compression.components"]


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"objective__likelihood": "gaussian"}, "objective.likelihood = 'bernoulli'; this model has 'gaussian'"),
        pytest.param({"model__name": "conv"}, "model.name = 'mlp'; this model has 'conv'", marks=pytest.mark.slow),
    ],
)
def test_models_that_cannot_code_without_loss(fields, part):
    model, _ = vae(**fields)
    with pytest.raises(InputError) as error:
        bits_back.refuse(model)
    one_line(error, part)


@pytest.mark.slow
def test_a_table_of_numbers_and_words_with_loss(tmp_path):
    rng = np.random.default_rng(0)
    lines = [f"{i},{rng.normal(50, 9):.3f},{rng.integers(9)},{'ab'[rng.integers(2)]}" for i in range(80)]
    (tmp_path / "x.csv").write_text("\n".join(["name,a,b,c", *lines]) + "\n")
    fields = {"data__id_column": "name", "data__categorical": "onehot", "uses__run": ("compression",)}
    run_lib.run(small(f"csv:{tmp_path / 'x.csv'}", **fields), tmp_path / "run")
    made = aejax.load(tmp_path / "run")
    examples = archive.read(made, None, "all")
    content = archive.compress(made, examples, made.quantizer, 0.0, 16)
    x, form, _ = archive.decompress(made, content, "FILE", made.quantizer)
    assert list(form.ids) == list(range(80)) or list(form.ids) == [str(i) for i in range(80)]
    archive.write(made, tmp_path / "y.csv", x, form)
    header, *rows = (tmp_path / "y.csv").read_text().splitlines()
    assert header.replace('"', "") == "name,a,b,c=a,c=b"
    assert len(rows) == 80
    assert np.isfinite(x).all()


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("x.csv", "must end in .npz or .npy, or be a folder"),
        ("x.zip", "must end in .npz or .npy, or name a folder"),
        ("none/x", "there is no folder"),
        ("none/x.npz", "there is no folder"),
        ("full", "a folder that is new or empty"),
    ],
)
def test_wrong_outputs(lossless, tmp_path, name, part):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    with pytest.raises(InputError) as error:
        archive.check_output(lossless, tmp_path / name)
    one_line(error, part)


def test_no_image_leaves_the_folder(lossless, tmp_path):
    with pytest.raises(InputError) as error:
        archive.write(lossless, tmp_path / "out", BINARY[:1], FORM._replace(ids=["../far.png"], id_name="file"))
    one_line(error, "../far.png")
    assert list(tmp_path.iterdir()) == []


# --- the commands ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_commands_in_other_processes(lossless, tmp_path):
    lossless.save(tmp_path / "run")
    np.savez(tmp_path / "x.npz", x=BINARY[..., 0])
    run, file = f"--workdir={tmp_path / 'run'}", tmp_path / "x.aejax"
    finish(command(run, f"--input=npz:{tmp_path / 'x.npz'}", f"--output={file}", module="aejax.compress"))
    content = file.read_bytes()
    back = [run, f"--input={file}"]
    two = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    finish(command(*back, f"--output={tmp_path / 'y.npz'}", "--batch_size=7", module="aejax.decompress", env=two))
    with np.load(tmp_path / "y.npz") as archive_:
        assert archive_["x"].dtype == np.uint8
        np.testing.assert_array_equal(archive_["x"], BINARY[..., 0])
    finish(command(*back, f"--output={tmp_path / 'folder'}", module="aejax.decompress"))
    again = [run, f"--input=images:{tmp_path / 'folder'}", f"--output={tmp_path / 'z.aejax'}"]
    finish(command(*again, module="aejax.compress"))
    file.write_bytes(content[:-1])
    _, err = finish(command(*back, f"--output={tmp_path / 'none.npz'}", module="aejax.decompress"), 2)
    assert err.count("\n") == 1
    assert "truncated or altered" in err
    assert not (tmp_path / "none.npz").exists()
