"""Series: what arrays are, their lengths and missing values, recurrent cells and dilated convolutions by formulas."""

import wave

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import aejax
from aejax import run as run_lib
from aejax.config import default
from aejax.data import sources, stream
from aejax.data.dataset import build
from aejax.errors import InputError
from aejax.models import conv1d, recurrent
from common import change, one_line, small, trained, trainer

STEPS, CHANNELS = 9, 2
SERIES = {
    "model__name": "recurrent",
    "model__encoder__widths": (4,),
    "objective__likelihood": "squared_error",
    "train__batch_size": 8,
}


def series(n=40, steps=STEPS, seed=0):
    rng = np.random.default_rng(seed)
    t = np.arange(steps)[None, :, None]
    return (np.sin(t * rng.uniform(0.3, 1.5, (n, 1, CHANNELS))) * [5.0, 1.0] + [20.0, 0.0]).astype(np.float32)


def short(x, seed=1):
    """The series x with ends that are not there, and these lengths."""
    lengths = np.random.default_rng(seed).integers(4, x.shape[1] + 1, len(x))
    return np.where(np.arange(x.shape[1])[None, :, None] < lengths[:, None, None], x, np.nan), lengths


def configured(**fields):
    return small(**{**SERIES, "uses__run": ("reconstruction",), **fields})


# --- data -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "kind", "found"),
    [
        (series(), "auto", "series"),
        (np.random.default_rng(0).random((40, 6, 5), np.float32), "auto", "image"),
        (np.random.default_rng(0).random((40, 6, 5), np.float32), "series", "series"),
        (np.random.default_rng(0).integers(0, 255, (40, 6, 5), np.uint8), "auto", "image"),
        (np.random.default_rng(0).normal(size=(40, 6)), "auto", "table"),
        (np.random.default_rng(0).normal(size=(40, 6)), "series", "series"),
    ],
)
def test_what_the_arrays_are(x, kind, found):
    config = default("array")
    config.data.kind = kind
    data = build({"x": x}, config)
    assert data.spec.x.kind == found
    assert ("so these are series" in data.describe()) == (kind == "auto" and found == "series")


@pytest.mark.parametrize(
    ("x", "kind", "parts"),
    [
        (np.zeros((20, 4, 4, 1)), "series", ["rank", "series", "(20, 4, 4, 1)"]),
        (series(), "table", ["rank must be 2"]),
        (["a b", "c d"] * 10, "series", ["data.kind", "documents"]),
        (np.full((20, 4, 2), np.inf), "series", ["finite in float32, or NaN"]),
        (np.full((20, 4, 2), "a"), "series", ["numbers"]),
    ],
)
def test_arrays_of_another_kind_are_refused(x, kind, parts):
    config = default("array")
    config.data.kind = kind
    with pytest.raises(InputError) as error:
        build({"x": x}, config)
    one_line(error, *parts)


def test_channels_are_standardised_over_the_observed_steps_of_training():
    x, _ = short(series(200))
    config = default("array")
    config.data.kind = "series"
    data = build({"x": x}, config)
    train = np.asarray(data.train["x"]).reshape(-1, CHANNELS)
    np.testing.assert_allclose(np.nanmean(train, 0), 0, atol=1e-5)
    np.testing.assert_allclose(np.nanstd(train, 0), 1, atol=1e-5)
    field = data.spec.x
    np.testing.assert_allclose(field.unscale(field.apply(x)), x, rtol=1e-5, atol=1e-5)
    assert np.isnan(field.apply(x[:, :5])[:, 5:]).all()
    assert f"{int(np.isnan(x).sum()):,} values that were not observed" in data.describe()


@pytest.mark.parametrize("shape", [(3, STEPS + 1, CHANNELS), (3, STEPS, CHANNELS + 1)])
def test_a_series_that_does_not_fit_is_refused(shape):
    model = trained(trainer(configured(), series()))
    with pytest.raises(InputError) as error:
        model.encode(np.zeros(shape))
    one_line(error, "the input", f"({shape[1]}, {shape[2]})", "windows")


def test_lengths_of_a_file(tmp_path):
    x, lengths = series(), short(series())[1]
    np.savez(tmp_path / "x.npz", x=x, lengths=lengths)
    raw = sources.raw(change(default(f"npz:{tmp_path / 'x.npz'}")))
    np.testing.assert_array_equal(raw["x"], short(x)[0])
    for wrong, part in ((lengths * 0, "lengths[0] = 0: must lie in [1, 9]"), (lengths[:3], "one for each series")):
        np.savez(tmp_path / "x.npz", x=x, lengths=wrong)
        with pytest.raises(InputError) as error:
            sources.raw(default(f"npz:{tmp_path / 'x.npz'}"))
        one_line(error, part)


def test_control_charts_follow_their_formula():
    raw = sources.raw(default("control_charts"))
    x = {k: raw["x_train"][raw["y_train"] == k, :, 0] for k in np.unique(raw["y_train"])}
    assert {k: len(v) for k, v in x.items()} == dict.fromkeys(x, 400)
    assert np.abs(x["normal"] - 30).max() <= 6
    slope = {k: np.polyfit(np.arange(1, 61), v.T, 1)[0].mean() for k, v in x.items()}
    assert abs(slope["increasing"] - 0.35) < 0.02
    assert abs(slope["decreasing"] + 0.35) < 0.02
    jump = {k: (v[:, 40:].mean() - v[:, :19].mean()) for k, v in x.items()}
    assert abs(jump["upward"] - 13.75) < 0.5
    assert abs(jump["downward"] + 13.75) < 0.5
    assert abs(x["cyclic"].std() - np.sqrt(12 + (12.5**2 + 25 / 12) / 2)) < 0.2


# --- recordings ---------------------------------------------------------------------------------------------


def record(path, x, rate=8000, bits=16):
    """x [steps, channels], integers, as a WAV file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(x.shape[1])
        file.setsampwidth(bits // 8)
        file.setframerate(rate)
        file.writeframes(x.astype(f"<i{bits // 8}" if bits > 8 else "u1").tobytes())
    return x


def noise(steps, channels=2, seed=0):
    return np.random.default_rng(seed).integers(-(2**15), 2**15, (steps, channels))


def test_recordings_of_a_folder_of_classes_are_series(tmp_path):
    made = {f"{split}/{name}/{i}.wav": noise(5 + i + 3 * (name == "dog"), seed=i)
            for split in ("train", "test") for name in ("cat", "dog") for i in range(6)}  # fmt: skip
    for name, x in made.items():
        record(tmp_path / name, x)
    (tmp_path / "train/notes.txt").write_text("")
    config = default(f"wav:{tmp_path}")
    raw = sources.raw(config)
    for split in ("train", "test"):
        own = [x for name, x in sorted(made.items()) if name.startswith(split)]
        assert raw[f"x_{split}"].shape == (12, 13, 2)
        for found, written in zip(raw[f"x_{split}"], own, strict=True):
            np.testing.assert_array_equal(found[: len(written)] * 2**15, written)
            assert np.isnan(found[len(written) :]).all()
        assert raw[f"y_{split}"].tolist() == ["cat"] * 6 + ["dog"] * 6
    data = sources.load(config)
    assert data.spec.x.kind == "series"
    assert "8,000 samples per second" in data.describe()
    assert "left out in train: 1 .txt" in data.describe()
    missing = sum(13 * 2 - x.size for x in made.values())
    assert f"{missing:,} values that were not observed" in data.describe()


def test_codes_of_recordings_have_their_file_names(tmp_path):
    for i in range(30):
        record(tmp_path / f"wav/{i:02}.wav", noise(6 + i % 4, seed=i))
    config = configured(data__source=f"wav:{tmp_path}/wav", model__name="mlp")
    model = trained(trainer(config))
    rows = stream.read(config.data.source, model.config, model.spec, model.take)
    (batch,) = rows.batches
    assert (rows.id_name, list(batch.ids)) == ("file", [f"{i:02}.wav" for i in range(30)])
    assert rows.notes == ["8,000 samples per second"]
    np.testing.assert_allclose(batch.x, model.take(sources.raw(config)["x"]), rtol=1e-6)


def test_recordings_that_cannot_be_read(tmp_path):
    def refused(name, *parts):
        with pytest.raises(InputError) as error:
            sources.load(default(f"wav:{tmp_path / name}"))
        one_line(error, *parts)

    (tmp_path / "empty").mkdir()
    refused("empty", "no file that ends in .wav")
    refused("none", "data.source", "no such file or folder")
    for i, fields in enumerate([{"bits": 8}, {"rate": 16000}, {"bits": 32}]):
        record(tmp_path / f"{i}/a.wav", noise(5))
        record(tmp_path / f"{i}/b.wav", noise(5), **fields)
    refused("0", "b.wav", "8 bits", "16")
    refused("1", "a.wav has 8,000", "b.wav", "16,000 samples per second")
    refused("2", "b.wav", "32 bits")
    record(tmp_path / "3/a.wav", noise(5))
    record(tmp_path / "3/b.wav", noise(5, 1))
    refused("3", "a.wav has 2", "b.wav", "1 channels")
    record(tmp_path / "4/a.wav", noise(0))
    refused("4", "a.wav", "no samples")
    record(tmp_path / "5/a.wav", noise(50))
    whole = (tmp_path / "5/a.wav").read_bytes()
    for cut, part in ((len(whole) - 9, "ends before its last sample"), (30, "cannot be read"), (0, "cannot be read")):
        (tmp_path / "5/a.wav").write_bytes(whole[:cut])
        refused("5", "a.wav", part)
    (tmp_path / "5/a.wav").write_bytes(b"x" * 100)
    refused("5", "a.wav", "cannot be read as a WAV file of 16-bit PCM")


# --- recurrent ------------------------------------------------------------------------------------------------


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def by_hand(cell, x, kernel, bias, recurrent_kernel, recurrent_bias):
    """The outputs [T, n] of one series [T, C], a step at a time, in float64."""
    n = len(recurrent_kernel)
    h, c, outputs = np.zeros(n), np.zeros(n), []
    for now in x:
        a, b = now @ kernel + bias, h @ recurrent_kernel
        if cell == "rnn":
            h = np.tanh(a + b)
        elif cell == "lstm":
            i, f, g, o = np.split(a + b, 4)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
        else:
            (ar, au, an), (br, bu, bn) = np.split(a, 3), np.split(b, 3)
            u = sigmoid(au + bu)
            h = (1 - u) * np.tanh(an + sigmoid(ar + br) * (bn + recurrent_bias)) + u * h
        outputs.append(h)
    return np.stack(outputs)


@pytest.mark.parametrize("cell", recurrent.CELLS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_layer_equals_its_formula_up_to_each_length(cell, bidirectional):
    rng, n = np.random.default_rng(0), 3
    x, lengths = rng.normal(size=(2, 5, CHANNELS)).astype(np.float32), (5, 3)
    layer = recurrent.Layer(n, cell, bidirectional)
    mask = jnp.arange(5)[:, None] < jnp.array(lengths)[None]
    variables = layer.init(jax.random.key(0), jnp.asarray(x.swapaxes(0, 1)), mask)
    params = jax.tree.map(lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape).astype(np.float32), variables["params"])
    outputs, (last, *_) = layer.apply({"params": params}, jnp.asarray(x.swapaxes(0, 1)), mask)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    ways = 1 + bidirectional
    kernels, biases = np.split(params["input"]["kernel"], ways, 1), np.split(params["input"]["bias"], ways)
    for way in range(ways):
        own = kernels[way], biases[way], params[f"kernel_{way}"], params.get(f"bias_{way}")
        for b, length in enumerate(lengths):
            order = slice(None, None, -1) if way else slice(None)
            expected = by_hand(cell, x[b, :length][order], *own)
            found = np.asarray(outputs)[:length, b, way * n : (way + 1) * n]
            np.testing.assert_allclose(found, expected[order], rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(np.asarray(last)[b, way * n : (way + 1) * n], expected[-1], rtol=1e-5, atol=1e-6)


def test_an_input_of_every_step_is_read_once():
    rng = np.random.default_rng(0)
    x, layer = jnp.asarray(rng.normal(size=(1, 2, CHANNELS)), jnp.float32), recurrent.Layer(3, "lstm")
    state = tuple(jnp.asarray(rng.normal(size=(2, 3)), jnp.float32) for _ in range(2))
    variables = layer.init(jax.random.key(0), x)
    once = layer.apply(variables, x, state=state, steps=5)
    repeated = layer.apply(variables, jnp.repeat(x, 5, 0), state=state)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), once, repeated)
    assert once[0].shape == (5, 2, 3)


def test_a_decoder_that_is_fed_back_equals_its_formula():
    rng, z = np.random.default_rng(0), np.random.default_rng(1).normal(size=(2, 3)).astype(np.float32)
    decoder = recurrent.Decoder(shape=(4, CHANNELS), widths=(5,), cell="rnn", conditional=True)
    params = decoder.init(jax.random.key(0), jnp.asarray(z))["params"]
    params = jax.tree.map(lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape).astype(np.float32), params)
    found = np.asarray(decoder.apply({"params": params}, jnp.asarray(z)))
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    h, r, expected = np.tanh(z @ p["starts_0"]["kernel"] + p["starts_0"]["bias"]), np.zeros((2, CHANNELS)), []
    for _ in range(4):
        own = p["layers_0"]
        h = np.tanh(r @ own["input"]["kernel"] + own["input"]["bias"] + h @ own["kernel_0"])
        r = h @ p["layers_1"]["kernel"] + p["layers_1"]["bias"]
        expected.insert(0, r)  # the last step is written first
    np.testing.assert_allclose(found, np.stack(expected, 1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        pytest.param(
            {
                "model__recurrent__bidirectional": True,
                "model__recurrent__cell": "gru",
                "model__encoder__widths": (4, 3),
            },
            marks=pytest.mark.slow,
        ),
    ],
)
def test_steps_that_are_not_there_change_nothing(fields):
    """The same parameters on series of 6 steps, and on the same series with 3 steps more that are not there."""
    x = series(steps=6)
    more = np.pad(x, ((0, 0), (0, 3), (0, 0)), constant_values=np.nan)
    one, other = (trained(trainer(configured(data__kind="series", **fields), data)) for data in (x, more))
    other = other.on(one.params, one.variables)
    np.testing.assert_allclose(other.encode(more), one.encode(x), atol=1e-5)
    np.testing.assert_allclose(other.encode(x), one.encode(x), atol=1e-5)
    np.testing.assert_allclose(other.score(more), one.score(x), rtol=1e-5)
    np.testing.assert_allclose(other.reconstruct(more)[:, :6], one.reconstruct(x), rtol=1e-4, atol=1e-4)


def test_an_unobserved_value_has_no_weight():
    x = series()
    model = trained(trainer(configured(model__name="mlp", data__kind="series"), x))
    holes = x.copy()
    holes[:, 3, 1] = np.nan
    r = model.reconstruct(holes)
    squares = ((holes - r) / np.asarray(model.spec.x.deviation)[None, None]) ** 2
    np.testing.assert_allclose(model.score(holes), np.nansum(squares, (1, 2)), rtol=1e-4)


# --- dilated convolutions -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "dilation"), [(3, 1), (4, 2), (5, 3)])
def test_a_dilated_convolution_equals_its_formula(k, dilation):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 11, CHANNELS)).astype(np.float32)
    layer = conv1d.Conv(3, k, dilation)
    params = layer.init(jax.random.key(0), jnp.asarray(x))["params"]
    kernel = np.asarray(params["kernel"], np.float64)
    expected = np.zeros((2, 11, 3))
    for t in range(11):
        for j in range(k):
            place = t + dilation * (j - (k - 1) // 2)
            if 0 <= place < 11:
                expected[:, t] += x[:, place] @ kernel[j]
    np.testing.assert_allclose(layer.apply({"params": params}, jnp.asarray(x)), expected, rtol=1e-5, atol=1e-5)


def test_steps_are_averaged():
    x = jnp.arange(5.0).reshape(1, 5, 1)
    np.testing.assert_allclose(conv1d.average(x, 2)[0, :, 0], [0.5, 2.5, 4])


# --- runs -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"model__name": "conv1d", "model__conv1d__factor": 2},
        {"model__recurrent__conditional": True, "model__encoder__dropout": 0.1},
        {"model__bottleneck__name": "gaussian", "objective__likelihood": "gaussian"},
        {"pair__name": "denoise", "objective__contractive__weight": 0.1},
    ],
)
def test_a_run_on_series_of_many_lengths(tmp_path, fields):
    x, _ = short(series(60))
    np.savez(tmp_path / "x.npz", x=x, y=np.arange(60) % 3)
    config = small(f"npz:{tmp_path / 'x.npz'}", **{**SERIES, "figures__enabled": True, **fields})
    if config.model.name == "conv1d":
        config.model.encoder.widths = ()
    results = run_lib.run(config, tmp_path / "run")
    assert np.isfinite(list(results.values())).all()
    assert (tmp_path / "run/figures/reconstructions.png").exists()
    model = aejax.load(tmp_path / "run")
    assert np.isfinite(model.encode(x[:5, :4])).all()
    assert model.reconstruct(x[:5]).shape == (5, STEPS, CHANNELS)


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"model__name": "conv"}, ["model.name = 'conv'", "needs images", "series"]),
        ({"model__encoder__widths": ()}, ["model.encoder.widths", "at least one recurrent layer"]),
        ({"model__recurrent__cell": "lstn"}, ["model.recurrent.cell", "lstm"]),
        ({"objective__likelihood": "bernoulli"}, ["bernoulli", "series is standardised"]),
        ({"pair__name": "inpaint"}, ["needs images", "series"]),
    ],
)
def test_configs_that_do_not_suit_series(fields, parts):
    with pytest.raises(InputError) as error:
        trainer(configured(**fields), series())
    assert all(part in str(error.value) for part in parts), str(error.value)


def test_a_recurrent_model_needs_series():
    with pytest.raises(InputError) as error:
        trainer(configured(), np.random.default_rng(0).normal(size=(40, 6)))
    one_line(error, "model.name = 'recurrent'", "needs series", "data.kind")
