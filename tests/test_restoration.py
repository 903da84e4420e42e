"""Restoration: filters and similarities against SciPy and scikit-image, the use, files in and out, wrong input."""

import csv
import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from skimage.restoration import inpaint_biharmonic

import aejax
from aejax import predict, prediction
from aejax import run as run_lib
from aejax.data import sources, stream
from aejax.errors import InputError
from aejax.page import results
from aejax.uses.data import Data, with_input
from aejax.uses.restoration import filters, restored, series, trials
from aejax.uses.restoration import measure as restoration
from common import command, finish, get_config, images, one_line, small, table, trained, trainer

SHAPE = (8, 9, 1)
DENOISE = {"pair__name": "denoise", "pair__denoise__corruption": "gaussian", "pair__denoise__level": 0.4}
INPAINT = {"pair__name": "inpaint", "objective__likelihood": "bernoulli"}
CONDITIONAL = INPAINT | {"pair__inpaint__conditional": True, "model__bottleneck__name": "gaussian"}
COLORIZE = {"pair__name": "colorize"}


def made(fields, shape=SHAPE, n=60):
    """A trainer and its model, not trained."""
    run = trainer(small(**fields), images(n, shape))
    return run, trained(run)


@pytest.fixture(scope="module")
def denoiser():
    return made(DENOISE)


@pytest.fixture(scope="module")
def inpainter():
    return made(INPAINT)


@pytest.fixture(scope="module")
def colorizer():
    return made(COLORIZE, (*SHAPE[:2], 3))


def unit(n=5, shape=(8, 9, 3), seed=0):
    return np.random.default_rng(seed).random((n, *shape)).astype(np.float32)


def squares(n=5, size=3, seed=0):
    """Masks [n, 8, 9] with a hidden square, 1 = hidden."""
    found = np.zeros((n, *SHAPE[:2]), np.float32)
    for mask, (i, j) in zip(found, np.random.default_rng(seed).integers(0, 5, (n, 2)), strict=True):
        mask[i : i + size, j : j + size] = 1
    return found


def test_filters_equal_those_of_scipy_on_each_channel():
    x = unit()
    for n in range(len(x)):
        for c in range(3):
            np.testing.assert_allclose(filters.median(x, 3)[n, ..., c], ndimage.median_filter(x[n, ..., c], 3))
            expected = ndimage.gaussian_filter(x[n, ..., c], 0.8)
            np.testing.assert_allclose(filters.gaussian(x, 0.8)[n, ..., c], expected, rtol=1e-5)


def test_nearest_is_the_nearest_visible_pixel():
    x, hidden = unit(), squares()
    found = filters.nearest(x, hidden[..., None])
    for image, mask, out in zip(x, hidden, found, strict=True):
        visible = np.argwhere(mask == 0)
        for place in np.argwhere(mask == 1):
            distances = ((visible - place) ** 2).sum(1)
            nearest = visible[distances == distances.min()]
            assert any((image[i, j] == out[tuple(place)]).all() for i, j in nearest)
    np.testing.assert_array_equal(found[hidden == 0], x[hidden == 0])


def test_biharmonic_equals_scikit_image_and_keeps_what_is_visible():
    x, hidden = unit(), squares()
    hidden[0], hidden[1] = 1, 0  # nothing is visible; nothing is hidden
    found = filters.biharmonic(x, hidden[..., None])
    for n in range(2, len(x)):
        expected = inpaint_biharmonic(x[n], hidden[n] == 1, channel_axis=-1)
        np.testing.assert_allclose(found[n][hidden[n] == 1], np.clip(expected, 0, 1)[hidden[n] == 1], atol=1e-5)
    np.testing.assert_array_equal(found[hidden == 0], x[hidden == 0])
    np.testing.assert_array_equal(found[0], x[0])


def test_similarities_equal_scikit_image_and_the_closed_form():
    x, hidden = unit(), squares()[..., None]
    r = np.clip(x + 0.1 * np.random.default_rng(1).standard_normal(x.shape), 0, 1).astype(np.float32)
    found = trials.similarity(x, r, hidden)
    for n in range(len(x)):
        assert found["psnr"][n] == pytest.approx(peak_signal_noise_ratio(x[n], r[n], data_range=1), rel=1e-5)
        expected = structural_similarity(x[n], r[n], data_range=1, channel_axis=-1)
        assert found["ssim"][n] == pytest.approx(expected, rel=1e-4)
        squares_of = ((x[n] - r[n]) ** 2)[hidden[n, ..., 0] == 1]
        assert found["hidden_psnr"][n] == pytest.approx(-10 * np.log10(squares_of.mean()), rel=1e-4)
    assert trials.similarity(x * 0, x * 0 + 0.1, None)["psnr"] == pytest.approx(np.full(5, 20), rel=1e-5)
    assert "ssim" not in trials.similarity(x[:, :6], x[:, :6], None)
    assert np.isnan(trials.similarity(x, r, hidden * 0)["hidden_psnr"]).all()


def test_the_damage_of_an_image_depends_on_its_row_alone(denoiser):
    _, model = denoiser
    pair, x, rows = model.objective.pair, images(9, SHAPE) / np.float32(255), np.arange(9) + 20
    whole, hidden = trials.damage(model, pair, x, rows, trials.TEST)
    some, _ = trials.damage(model, pair, x[[6, 2]], rows[[6, 2]], trials.TEST)
    np.testing.assert_array_equal(some, whole[[6, 2]])
    assert hidden is None
    noise = (whole - x) / 0.4
    assert abs(noise.mean()) < 0.15
    assert noise.std() == pytest.approx(1, abs=0.1)
    other = trials.damage(model, pair, x, rows, trials.TRAINING)[0]
    half = trials.damage(model, dataclasses.replace(pair, level=0.2), x, rows, trials.TEST)[0]
    np.testing.assert_allclose(2 * (half - x), whole - x, atol=1e-6)
    assert abs(np.corrcoef((other - x).ravel(), noise.ravel())[0, 1]) < 0.15
    seeded = trained(trainer(small(**DENOISE, seed=3), images(60, SHAPE)))
    np.testing.assert_array_equal(trials.damage(seeded, pair, x, rows, trials.TEST)[0], whole)


def test_the_use_on_noisy_images(denoiser):
    run, model = denoiser
    data = Data(run.experiment, run.data)
    result = restoration.measure(model, data, sizes=(3, 5), widths=(0.5, 0.8, 1.2), levels=(0.2,), tuning=30)
    pair, train, rows = model.objective.pair, data.train, np.arange(run.data.spec.test)
    x = np.asarray(data.test)
    given, _ = trials.damage(model, pair, x, rows, trials.TEST)

    def psnr(images, r):
        return np.mean([-10 * np.log10(((a - b) ** 2).mean()) for a, b in zip(images, r, strict=True)])

    chosen = np.linspace(0, len(train) - 1, 30).astype(int)
    noisy, _ = trials.damage(model, pair, train[chosen], np.arange(30), trials.TRAINING)
    width = max((0.5, 0.8, 1.2), key=lambda w: psnr(train[chosen], filters.gaussian(noisy, w)))
    size = max((3, 5), key=lambda s: psnr(train[chosen], filters.median(noisy, s)))
    expected = {
        "psnr": psnr(x, model.map(model.pure_restore, given)),
        "input/psnr": psnr(x, np.clip(given, 0, 1)),
        "gaussian/psnr": psnr(x, filters.gaussian(given, width)),
        "median/psnr": psnr(x, filters.median(given, size)),
        "gaussian/width": width,
        "median/size": size,
    }
    expected["gain"] = expected["psnr"] - max(expected["gaussian/psnr"], expected["median/psnr"])
    for name, value in expected.items():
        assert result.numbers[f"restoration/{name}"] == pytest.approx(value, rel=1e-4), name
    assert set(results.baselines("restoration/psnr", result.numbers)) == {"input", "median", "gaussian"}
    assert all(results.about(name) for name in result.numbers)
    levels = result.tables["levels"]
    assert levels["level"] == [0.2, 0.4]  # the trained one is added
    assert levels["psnr"][1] == result.numbers["restoration/psnr"]
    assert levels["input_psnr"][0] > levels["input_psnr"][1]
    assert result.tables["images"]["row"] == rows.tolist()
    assert np.mean(result.tables["images"]["psnr"]) == pytest.approx(expected["psnr"], abs=1e-3)
    assert set(result.figures) == {"restoration_levels", "restoration_median", "restoration_worst"}


@pytest.mark.slow
@pytest.mark.parametrize("fields", [INPAINT, CONDITIONAL])
def test_the_use_on_hidden_parts(fields):
    run, model = made(fields)
    data = Data(run.experiment, run.data)
    result = restoration.measure(model, data, biharmonic=4, levels=(0.25,))
    terms = {f"{m}{t}" for m in ("", "input/", "nearest/", "biharmonic/") for t in ("psnr", "ssim", "hidden_psnr")}
    assert {f"restoration/{term}" for term in terms} <= set(result.numbers)
    assert any("4 of these images" in note for note in result.notes)
    measured = [value for value in result.tables["images"]["biharmonic_psnr"] if value != ""]
    assert len(measured) == 4
    assert np.mean(measured) == pytest.approx(result.numbers["restoration/biharmonic/psnr"], abs=1e-3)
    assert result.tables["levels"]["level"] == [0.25, 0.5]
    assert all(draw() is not None for draw in result.figures.values())


def test_the_use_on_grey_images(colorizer):
    run, model = colorizer
    data = Data(run.experiment, run.data)
    result = restoration.measure(model, data, tuning=1000)
    x, train = np.asarray(data.test), data.train
    luma = np.array([0.299, 0.587, 0.114])
    offset = (train - (train @ luma)[..., None]).mean((0, 1, 2))
    made = np.clip((x @ luma)[..., None] + offset, 0, 1)
    expected = np.mean([-10 * np.log10(((a - b) ** 2).mean()) for a, b in zip(x, made, strict=True)])
    assert result.numbers["restoration/mean_color/psnr"] == pytest.approx(expected, rel=1e-4)
    assert "levels" not in result.tables


def test_files_are_measured_on_the_scale_of_the_run(tmp_path):
    config = small(**DENOISE)  # digits, which are stored as floats
    run = trainer(config)
    x = images(12, run.data.spec.x.shape)
    source = write(tmp_path / "clean", x, [f"{i:02}.png" for i in range(12)])
    data = Data(run.experiment, with_input(run.experiment.config, run.data.spec, source))
    np.testing.assert_allclose(np.asarray(data.test), x / np.float32(255), rtol=1e-6)


def test_other_models_are_left_out():
    run, model = made({})
    with pytest.raises(restoration.Skip, match="denoise, inpaint, colorize"):
        restoration.measure(model, Data(run.experiment, run.data))


SPANS = {"pair__name": "inpaint", "pair__inpaint__mask": "spans", "pair__inpaint__level": 0.3, "data__kind": "series",
         "pair__inpaint__length": 3.0, "objective__likelihood": "squared_error"}  # fmt: skip


def waves(n=60, steps=20):
    rng = np.random.default_rng(0)
    x = np.sin(np.arange(steps)[None, :, None] * rng.uniform(0.2, 0.9, (n, 1, 2))) * [5, 1] + [20, 0]
    x[rng.random(x.shape) < 0.05] = np.nan
    return x.astype(np.float32)


def test_linear_interpolation_of_hidden_steps():
    x = np.array([[[1.0, 9], [5, np.nan], [0, 7], [0, 3], [4, np.nan]]], np.float32)
    hidden = np.array([[[1], [0], [1], [1], [0]]], np.float32)
    expected = [[5, 0], [5, 0], [5 - 1 / 3, 0], [5 - 2 / 3, 0], [4, 0]]
    np.testing.assert_allclose(series.linear(x, hidden)[0], expected, rtol=1e-6)


@pytest.mark.parametrize(
    "name", ["mlp", *(pytest.param(name, marks=pytest.mark.slow) for name in ("conv1d", "recurrent"))]
)
def test_errors_of_hidden_spans(name):
    fields = {"model__name": name, "model__encoder__widths": () if name == "conv1d" else (4,)}
    run = trainer(small(**SPANS, **fields), waves())
    model, data = trained(run), Data(run.experiment, run.data)
    result = restoration.measure(model, data, levels=(0.6,))
    x = np.asarray(data.test[np.arange(data.spec.test)])
    for line, level in enumerate((0.3, 0.6)):
        pair = dataclasses.replace(model.objective.pair, level=level)
        hidden = trials.damage(model, pair, x, np.arange(len(x)), trials.TEST)[1]
        counted = (hidden == 1) & ~np.isnan(x)
        example = model.objective.examples(None, {"x": jnp.asarray(x), "hidden": jnp.asarray(hidden)})
        r = model.objective.mean(model.apply(example.input, method="__call__")[0])
        for column, values in (("", r), ("mean_", 0 * x), ("linear_", series.linear(x, hidden))):
            expected = np.mean((np.asarray(values) - x)[counted] ** 2)
            assert result.tables["levels"][f"{column}hidden_error"][line] == pytest.approx(expected, rel=1e-4)
    numbers = result.numbers
    assert set(results.baselines("restoration/hidden_error", numbers)) == {"linear", "mean"}
    simple = min(numbers["restoration/linear/hidden_error"], numbers["restoration/mean/hidden_error"])
    assert numbers["restoration/ratio"] == pytest.approx(simple / numbers["restoration/hidden_error"])
    assert {name.rpartition("/")[2] for name in numbers} <= set(restoration.METRICS)
    result.figures["restoration_series"]()


def test_what_is_visible_of_a_series_does_not_depend_on_what_is_hidden():
    """A model with hidden steps at its input answers alike whatever their values were; NaN in the middle is hidden."""
    run = trainer(small(**SPANS, model__name="recurrent", model__encoder__widths=(4,)), waves())
    model = trained(run)
    x, hidden = model.take(np.nan_to_num(waves(4))), np.zeros((4, 20, 1), np.float32)
    hidden[:, 7:11] = 1
    found = model.map(model.pure_restore, np.concatenate([x, hidden], -1))
    other = model.map(model.pure_restore, np.concatenate([np.where(hidden == 1, 3, x), hidden], -1))
    np.testing.assert_array_equal(found, other)
    np.testing.assert_array_equal(found[:, :7], x[:, :7])
    gaps = model.map(model.pure_reconstruct, np.where(hidden == 1, np.nan, x))
    np.testing.assert_allclose(gaps[:, 7:11], found[:, 7:11], rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError) as error:
        model.complete(waves(4))
    one_line(error, "complete", "reconstruct", "NaN")


@pytest.mark.parametrize(
    ("fields", "x", "words"),
    [
        (SPANS | {"data__kind": "auto"}, None, ["pair.inpaint.mask = 'spans'", "needs series", "takes square, pixels"]),
        (SPANS | {"pair__inpaint__mask": "half"}, waves(), ["pair.inpaint.mask = 'half'", "needs images", "spans"]),
        (SPANS | {"pair__inpaint__length": 0.5}, waves(), ["pair.inpaint.length = 0.5", "at least 1"]),
        (
            SPANS | CONDITIONAL | {"objective__likelihood": "gaussian"},
            waves(),
            ["pair.inpaint.conditional", "needs images"],
        ),
        (INPAINT, table(60), ["needs images or series", "table"]),
        (DENOISE | {"data__kind": "series"}, waves(), ["restoration", "pair.name = inpaint"]),
        ({}, None, ["pair.name = 'reconstruct'", "must be denoise, inpaint or colorize"]),
        (DENOISE, table(60), ["needs images", "table"]),
        (DENOISE | {"uses__restoration__sizes": (4,)}, None, ["sizes = (4,)", "odd"]),
        (DENOISE | {"uses__restoration__widths": ()}, None, ["widths = ()", "one or more"]),
        (DENOISE | {"uses__restoration__levels": (-1,)}, None, ["levels = (-1,)", "at least 0"]),
        (INPAINT | {"uses__restoration__levels": (0.2, 1.5)}, None, ["levels = (0.2, 1.5)", "at most 1"]),
        (COLORIZE | {"uses__restoration__levels": (0.2,)}, images(60, (8, 9, 3)), ["levels", "no level"]),
    ],
)
def test_wrong_settings_end_a_run_before_it_trains(tmp_path, fields, x, words):
    config = small(uses__run=("restoration",), **fields)
    data = sources.from_array(images(60, SHAPE) if x is None else x, config)
    with pytest.raises(InputError) as error:
        run_lib.run(config, tmp_path / "run", data)
    one_line(error, *words)
    assert not (tmp_path / "run").exists()


# --- images as they are -----------------------------------------------------------------------------


def test_a_denoiser_takes_images_as_they_are(denoiser):
    _, model = denoiser
    noisy = images(5, SHAPE) / 255 + 0.4 * np.random.default_rng(0).standard_normal((5, *SHAPE))
    found = restored.restore(model, noisy[..., 0])
    np.testing.assert_array_equal(found, np.clip(model.map(model.pure_reconstruct, noisy.astype(np.float32)), 0, 1))
    inside = images(5, SHAPE)
    np.testing.assert_allclose(restored.restore(model, inside), np.clip(model.reconstruct(inside), 0, 1), atol=1e-6)


@pytest.mark.parametrize("fields", [INPAINT, pytest.param(CONDITIONAL, marks=pytest.mark.slow)])
def test_an_inpainter_keeps_what_is_visible_and_ignores_the_rest(fields):
    _, model = made(fields)
    x, mask = images(5, SHAPE), squares()
    found = restored.restore(model, x, mask)
    np.testing.assert_array_equal(found[mask == 0], (x / np.float32(255))[mask == 0])
    changed = np.where(mask[..., None] == 1, 255 - x, x)
    np.testing.assert_array_equal(restored.restore(model, changed, mask), found)
    assert (found[mask == 1] != (x / np.float32(255))[mask == 1]).any()
    np.testing.assert_allclose(restored.restore(model, x, mask[0]), restored.restore(model, x, mask[:1].repeat(5, 0)))
    if "pair__inpaint__conditional" not in fields:
        np.testing.assert_allclose(found, np.clip(model.complete(x, mask)[0], 0, 1), atol=1e-6)


def test_a_colorizer_takes_grey_images(colorizer):
    _, model = colorizer
    grey = images(5, SHAPE)
    found = restored.restore(model, grey[..., 0])
    assert found.shape == (5, 8, 9, 3)
    np.testing.assert_allclose(restored.restore(model, grey.repeat(3, -1)), found, atol=1e-6)


def test_images_that_cannot_be_restored_are_one_line(denoiser, inpainter):
    x = images(3, SHAPE)
    for model, arguments, words in (
        (made({})[1], (x,), ["pair.name = denoise", "'reconstruct'", "reconstructions"]),
        (denoiser[1], (x, squares(3)), ["mask", "'inpaint'", "'denoise'"]),
        (denoiser[1], (x[:, :5],), ["(5, 9, 1)", "(8, 9, 1)"]),
        (denoiser[1], (np.full((3, *SHAPE), np.nan),), ["nan"]),
        (inpainter[1], (x,), ["mask", "white = hidden"]),
        (inpainter[1], (x, squares(2)), ["mask", "(2, 8, 9)", "(3, 8, 9)"]),
        (inpainter[1], (x, squares(3) * 255), ["mask", "0 or 1"]),
        (inpainter[1], (x / 255 + 1, squares(3)), ["[0, 1]"]),
    ):
        with pytest.raises(InputError) as error:
            restored.restore(model, *arguments)
        one_line(error, *words)


# --- files in and out -------------------------------------------------------------------------------


NAMES = ("a/ä ö.png", "a/two.JPG", "b b/x.y.png", "b b/4.bmp")


def write(folder, x, names=NAMES):
    """Images [n, H, W, 1 or 3] as files."""
    for name, image in zip(names, x, strict=False):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(folder / name)
    return f"images:{folder}"


def restore(model, source, output, mask=None):
    """What predict does with these flags."""
    rows = stream.read(source, model.config, model.spec, lambda x: restored.take(model, x))
    how = prediction.restored_images(model, output, rows, source, mask)
    return prediction.write(model, rows, "restored", output, how)


def read(path):
    x = np.asarray(Image.open(path))
    return x[..., None] if x.ndim == 2 else x


@pytest.mark.parametrize("size", [2**21, 100])  # all in one batch, or one image in a batch
def test_files_have_the_names_of_their_inputs(tmp_path, monkeypatch, denoiser, size):
    monkeypatch.setattr(stream, "VALUES", size)
    _, model = denoiser
    source = write(tmp_path / "in", images(4, SHAPE))
    assert restore(model, source, tmp_path / "out.v2") == 4
    found = sorted(path.relative_to(tmp_path / "out.v2").as_posix() for path in (tmp_path / "out.v2").rglob("*.*"))
    assert found == sorted(["a/ä ö.png", "a/two.png", "b b/x.y.png", "b b/4.png"])
    for name in NAMES:
        expected = restored.restore(model, read(tmp_path / "in" / name)[None])[0]
        own = read((tmp_path / "out.v2" / name).with_suffix(".png"))
        np.testing.assert_array_equal(own, np.round(expected * 255).astype(np.uint8))
    assert restore(model, source, tmp_path / "o.npz") == 4
    with np.load(tmp_path / "o.npz") as archive:
        assert archive["restored"].shape == (4, *SHAPE)
        assert sorted(archive["file"]) == sorted(NAMES)


def test_masks_are_matched_by_name(tmp_path, inpainter):
    _, model = inpainter
    x, mask = images(4, SHAPE), squares(4)
    source = write(tmp_path / "in", x, [name.replace("JPG", "png") for name in NAMES])
    white = (255 * mask[..., None]).astype(np.uint8)
    masks = write(tmp_path / "m", white[::-1].repeat(3, -1), [f"{name.rpartition('.')[0]}.bmp" for name in NAMES[::-1]])
    restore(model, source, tmp_path / "out", masks)
    expected = restored.restore(model, x, mask)
    for name, image, own, given in zip(NAMES, expected, mask, x, strict=True):
        found = read((tmp_path / "out" / name).with_suffix(".png"))
        np.testing.assert_array_equal(found, np.round(image * 255).astype(np.uint8))
        np.testing.assert_array_equal(found[own == 0], given[own == 0])
    write(tmp_path, white[:1], ["one.png"])
    restore(model, source, tmp_path / "o.npy", f"images:{tmp_path / 'one.png'}")
    order = [1, 0, 3, 2]  # of the paths
    np.testing.assert_allclose(np.load(tmp_path / "o.npy"), restored.restore(model, x[order], mask[0]), atol=1e-6)


def test_grey_files_in_colour_files_out(tmp_path, colorizer):
    source = write(tmp_path / "in", images(4, SHAPE))
    (tmp_path / ".out.tmp/left").mkdir(parents=True)  # of a process that was killed
    restore(colorizer[1], source, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a", "b b"]
    assert read(tmp_path / "out/a/two.png").shape == (8, 9, 3)


def test_an_error_in_the_middle_leaves_no_folder(tmp_path, monkeypatch, denoiser):
    monkeypatch.setattr(stream, "VALUES", 100)
    source = write(tmp_path / "in", images(4, SHAPE))
    (tmp_path / "in/b b/x.y.png").write_bytes(b"no image")
    with pytest.raises(InputError) as error:
        restore(denoiser[1], source, tmp_path / "out")
    one_line(error, "x.y.png", "cannot be read")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_wrong_files_are_one_line(tmp_path, denoiser, inpainter):
    x, white = images(4, SHAPE), (255 * squares(4)[..., None]).astype(np.uint8)
    source = write(tmp_path / "in", x)
    same = write(tmp_path / "same", x[:2], ["a.png", "a.jpg"])
    few = write(tmp_path / "few", white, NAMES[:1])
    two = write(tmp_path / "two", white[[0, 1, 2, 3, 0]], [*NAMES, "a/two.png"])
    flat = write(tmp_path / "flat", x, ["a.png", "b.png"])
    large = write(tmp_path / "large", images(2, (9, 9, 1)), ["a.png", "b.png"])
    colour = write(tmp_path / "colour", images(2, (*SHAPE[:2], 3)), ["a.png", "b.png"])
    (tmp_path / "list.csv").write_text(f"path\n../{tmp_path.name}/in/a/two.JPG\n")
    np.save(tmp_path / "x.npy", x)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/old.txt").write_text("kept")
    before = sorted(tmp_path.rglob("*"))
    for (_, model), own, output, mask, words in (
        (denoiser, source, "full", None, ["full", "new or empty"]),
        (denoiser, source, "in/out", None, ["in/out", "folder of --input"]),
        (denoiser, source, "out.csv", None, ["out.csv", "folder", ".npz or .npy"]),
        (denoiser, source, "out.png", None, ["out.png", "folder"]),
        (denoiser, source, "no/out", None, ["no folder"]),
        (denoiser, same, "out", None, ["a.jpg and a.png", "a.png"]),
        (denoiser, f"images:{tmp_path / 'list.csv'}", "out", None, ["/in/a/two.JPG", "outside"]),
        (denoiser, large, "out", None, ["(9, 9, 1)", "(8, 9, 1)"]),
        (denoiser, colour, "out", None, ["(8, 9, 3)", "(8, 9, 1)"]),
        (denoiser, source, "out", few, ["--mask", "'inpaint'"]),
        (inpainter, source, "out", None, ["--mask", "white = hidden", "images:"]),
        (inpainter, source, "out", few, ["no mask for a/two.JPG, b b/4.bmp", "b b/x.y.png"]),
        (inpainter, source, "out", two, ["several masks for a/two.JPG"]),
        (inpainter, flat, "out", large, ["a.png has 9 x 9 pixels", "8 x 9"]),
        (inpainter, flat, "out", colour, ["a.png is in colour", "white = hidden"]),
        (inpainter, flat, "out", "npy:m.npy", ["--mask=npy:m.npy", "images:FOLDER"]),
        (inpainter, flat, "out", f"images:{tmp_path / 'nix'}", ["--mask", "no such file"]),
        (inpainter, f"npy:{tmp_path / 'x.npy'}", "out", few, ["by file name", "--input=images:"]),
    ):  # fmt: skip
        with pytest.raises(InputError) as error:
            restore(model, own, tmp_path / output, mask)
        one_line(error, *words)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_a_run_then_predict(tmp_path):
    aejax.fit(images(60, SHAPE), small(**INPAINT, train__epochs=1), workdir=tmp_path / "run")
    source = write(tmp_path / "in", images(4, SHAPE))
    masks = write(tmp_path / "m", (255 * squares(4)[..., None]).astype(np.uint8))
    flags = [f"--workdir={tmp_path / 'run'}", f"--input={source}", f"--output={tmp_path / 'out'}"]
    out, _ = finish(command(*flags, "--what=restored", f"--mask={masks}", module="aejax.predict"))
    assert "restored of 4 rows" in out
    assert (tmp_path / "out/b b/x.y.png").is_file()
    _, err = finish(command(*flags, "--what=codes", f"--mask={masks}", module="aejax.predict"), 2)
    assert err == f"aejax: --mask={masks}: is for --what=restored\n"
    assert {"restored"} < set(predict.WHATS)


@pytest.mark.slow
def test_the_use_in_a_run(tmp_path):
    config = get_config("denoising", uses__run=("restoration",), train__epochs=2, train__progress=False)
    numbers = run_lib.run(config, tmp_path / "run")
    with open(tmp_path / "run/uses/restoration/images.csv") as file:
        rows = list(csv.DictReader(file))
    assert np.mean([float(row["psnr"]) for row in rows]) == pytest.approx(numbers["restoration/psnr"], abs=1e-2)
    assert "the worst first" in (tmp_path / "run/report.html").read_text()
