import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aejax
from aejax import experiment, pairs
from aejax import run as run_lib
from aejax.data import sources
from aejax.errors import InputError
from aejax.losses import likelihoods
from aejax.pairs.colour import Colorize
from aejax.pairs.corrupt import CORRUPTIONS, Denoise
from aejax.pairs.example import output, seen
from aejax.pairs.hide import MASKS, QUADRANTS, SERIES, SIDES, Inpaint
from aejax.pairs.label import Label
from common import VAE, get_config, images, one_line, small, table, trained, trainer

PLAIN = {"corruption": "masking", "level": 0.3, "clip": False, "alpha": 1.0, "beta": 1.0}
HOLE = {
    "mask": "square",
    "size": 0.5,
    "level": 0.5,
    "length": 8.0,
    "side": "right",
    "visible": ("bottom_left",),
    "channel": True,
    "conditional": False,
    "alpha": 1.0,
    "beta": 1.0,
}
# Few, as each is compiled anew: single rows, single pixels, odd sizes, colour.
IMAGE_SHAPES = st.sampled_from([(1, 1, 1, 1), (1, 5, 4, 1), (3, 2, 7, 3)])
SHAPES = st.one_of(IMAGE_SHAPES, st.sampled_from([(1, 1), (3, 9)]))


def uniform(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).uniform(0.01, 0.99, shape), jnp.float32)


def denoise(x, seed=0, **fields):
    return Denoise(**(PLAIN | fields)).make(jax.random.key(seed), {"x": x})


def inpaint(x, seed=0, **fields):
    return Inpaint(**(HOLE | fields)).make(jax.random.key(seed), {"x": x})


# --- denoising ---------------------------------------------------------------------------------------

ENTRYWISE = [name for name in CORRUPTIONS if name != "deform"]  # of data of any shape


def test_statistics_of_each_corruption():
    n = 200_000
    x = uniform((n // 100, 100))
    noise = np.asarray(denoise(x, corruption="gaussian", level=0.4).input - x)
    assert abs(noise.mean()) < 5 * 0.4 / np.sqrt(n)
    assert abs(noise.std() - 0.4) < 5 * 0.4 / np.sqrt(2 * n)
    spread = 5 * np.sqrt(0.3 * 0.7 / n)
    masked = denoise(x, level=0.3)
    assert abs((masked.input == 0).mean() - 0.3) < spread
    spotted = denoise(x, corruption="salt_and_pepper", level=0.3)
    assert abs((spotted.input == 0).mean() - 0.15) < spread
    assert abs((spotted.input == 1).mean() - 0.15) < spread
    # Independent over examples and over entries.
    for axis in (0, 1):
        assert np.asarray(masked.hidden).mean(axis=axis).std() < 1.2 * np.sqrt(0.21 / x.shape[axis])
    assert (denoise(x, seed=1).hidden != masked.hidden).any()


@pytest.mark.slow
@settings(max_examples=15)
@given(SHAPES, st.sampled_from(ENTRYWISE), st.sampled_from([0.0, 0.4, 1.0]), st.integers(0, 9))
def test_corruption_keeps_what_it_did_not_choose(shape, corruption, level, seed):
    x = uniform(shape, seed)
    example = denoise(x, seed, corruption=corruption, level=level)
    assert example.input.shape == example.target.shape == shape
    assert example.input.dtype == x.dtype
    np.testing.assert_array_equal(example.target, x)
    if corruption == "gaussian":
        assert example.hidden is None
        if level == 0:
            np.testing.assert_array_equal(example.input, x)
        return
    hidden = np.asarray(example.hidden)
    assert set(np.unique(hidden)) <= {0, 1}
    np.testing.assert_array_equal(np.asarray(example.input)[hidden == 0], np.asarray(x)[hidden == 0])
    extremes = {0} if corruption == "masking" else {0, 1}
    assert set(np.unique(np.asarray(example.input)[hidden == 1])) <= extremes
    if level in (0, 1):
        np.testing.assert_array_equal(hidden, np.full(shape, level))


@pytest.mark.slow
def test_deform_moves_images_smoothly():
    keys, x = jax.random.split(jax.random.key(0), 3), jnp.zeros((400, 21, 15, 1)).at[:, 10, 7].set(1)
    np.testing.assert_allclose(CORRUPTIONS["deform"](keys[0], x, 0.0)[0], x, atol=1e-5)
    flat = jnp.ones((400, 21, 15, 1))
    moved = CORRUPTIONS["deform"](keys[1], flat, 0.02)[0]
    np.testing.assert_allclose(moved[:, 5:16, 4:11], 1, atol=1e-5)  # a constant image stays so, away from the borders
    spot = CORRUPTIONS["deform"](keys[2], x, 0.1)[0][..., 0]
    place = jnp.einsum("bhw,h->b", spot, jnp.arange(21.0)) / jnp.maximum(spot.sum((1, 2)), 1e-6)
    assert 0.5 < jnp.std(place) < 2.5  # b alone: one pixel
    assert abs(jnp.mean(place) - 10) < 0.3


def test_clip_brings_noise_back_to_the_range_of_images():
    x = uniform((50, 8, 8, 1))
    free = denoise(x, corruption="gaussian", level=0.5)
    clipped = denoise(x, corruption="gaussian", level=0.5, clip=True)
    assert free.input.min() < 0
    assert free.input.max() > 1
    np.testing.assert_array_equal(clipped.input, np.clip(free.input, 0, 1))


@pytest.mark.parametrize("name", ["squared_error", "gaussian", "bernoulli"])
def test_emphasis_weighs_corrupted_entries_apart(name):
    # Vincent et al. (2010), section 3.3: alpha times the terms of the corrupted entries, beta times the rest.
    x = uniform((3, 4, 5, 2))
    example = denoise(x, level=0.4, alpha=1.5, beta=0.25)
    r = uniform(x.shape, 1)
    term = likelihoods.LIKELIHOODS[name].term
    entries = np.asarray(term(x.reshape(-1, 1), r.reshape(-1, 1), sigma=0.7)).reshape(x.shape)
    chosen = np.asarray(example.hidden) == 1
    expected = [1.5 * e[c].sum() + 0.25 * e[~c].sum() for e, c in zip(entries, chosen, strict=True)]
    np.testing.assert_allclose(term(x, r, example.weight, sigma=0.7), expected, rtol=1e-5)
    assert denoise(x).weight is None


@pytest.mark.parametrize("fields", [PLAIN | {"corruption": c} for c in CORRUPTIONS] + [PLAIN | {"alpha": 2.0}])
def test_without_a_key_nothing_is_corrupted(fields):
    x = uniform((2, 5))
    example = Denoise(**fields).make(None, {"x": x})
    np.testing.assert_array_equal(example.input, x)
    assert example.weight is None
    assert example.hidden is None


@pytest.mark.parametrize("corruption", ENTRYWISE)
@pytest.mark.parametrize("likelihood", list(likelihoods.LIKELIHOODS))
def test_gradient_through_a_corruption_equals_finite_differences(corruption, likelihood):
    emphasis = {} if corruption == "gaussian" else {"alpha": 2.0, "beta": 0.5}
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x = jnp.asarray(rng.uniform(0.1, 0.9, (3, 6)))
        w = jnp.asarray(rng.standard_normal((6, 6)))
        direction = jnp.asarray(rng.standard_normal((6, 6)))
        term = likelihoods.LIKELIHOODS[likelihood].term

        def loss(w):
            example = denoise(x, corruption=corruption, level=0.4, **emphasis)
            assert example.input.dtype == jnp.float64
            return term(example.target, jnp.tanh(example.input @ w), example.weight, sigma=0.7).sum()

        eps = 1e-6
        expected = (loss(w + eps * direction) - loss(w - eps * direction)) / (2 * eps)
        np.testing.assert_allclose(jnp.vdot(jax.grad(loss)(w), direction), expected, rtol=1e-7)


# --- inpainting --------------------------------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=15)
@given(
    IMAGE_SHAPES,
    st.sampled_from(tuple(name for name in MASKS if name not in SERIES)),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.sampled_from((*SIDES, "random")),
    st.booleans(),
    st.booleans(),
)
def test_hidden_part_is_absent_from_what_is_given(shape, mask, level, side, channel, conditional):
    x = uniform(shape)
    example = inpaint(x, mask=mask, level=level, side=side, channel=channel, conditional=conditional)
    hidden = np.asarray(example.hidden)
    assert hidden.shape == (*shape[:3], 1)
    assert set(np.unique(hidden)) <= {0, 1}
    given = np.asarray(example.condition if conditional else example.input)
    assert given.shape[-1] == shape[-1] + channel
    np.testing.assert_array_equal(given[..., : shape[-1]], np.asarray(x) * (1 - hidden))
    if channel:
        np.testing.assert_array_equal(given[..., -1:], hidden)
    if conditional:
        np.testing.assert_array_equal(np.asarray(example.input)[..., : shape[-1]], x)
    np.testing.assert_array_equal(example.target, x)
    np.testing.assert_array_equal(seen(example), given[..., : shape[-1]])


@pytest.mark.slow
def test_square_has_its_size_and_comes_everywhere():
    hidden = np.asarray(inpaint(uniform((500, 6, 9, 1)), size=0.5).hidden)[..., 0]
    corners = set()
    for image in hidden:
        ys, xs = np.nonzero(image)
        assert len(ys) == 9
        assert np.ptp(ys) == np.ptp(xs) == 2
        corners.add((ys.min(), xs.min()))
    assert corners == {(y, x) for y in range(4) for x in range(7)}
    assert np.asarray(inpaint(uniform((2, 6, 6, 1)), size=1.0).hidden).all()
    assert np.asarray(inpaint(uniform((2, 6, 6, 1)), size=0.01).hidden).sum() == 2


def test_halves_and_quadrants_of_odd_sizes():
    x = uniform((2, 5, 7, 1))

    def hidden(**fields):
        return np.asarray(inpaint(x, **fields).hidden)[0, ..., 0]

    for one, other in (("top", "bottom"), ("left", "right")):
        np.testing.assert_array_equal(
            hidden(mask="half", side=one) + hidden(mask="half", side=other), np.ones((5, 7), np.float32)
        )
    expected = np.zeros((5, 7))
    expected[:2] = 1
    np.testing.assert_array_equal(hidden(mask="half", side="top"), expected)
    expected = np.ones((5, 7))
    expected[2:, :3] = 0
    np.testing.assert_array_equal(hidden(mask="quadrants", visible=("bottom_left",)), expected)
    each = sum(1 - hidden(mask="quadrants", visible=(name,)) for name in QUADRANTS)
    np.testing.assert_array_equal(each, np.ones((5, 7)))
    np.testing.assert_array_equal(
        hidden(mask="quadrants", visible=("top_left", "bottom_left")), hidden(mask="half", side="right")
    )
    drawn = np.asarray(inpaint(uniform((100, 4, 4, 1)), mask="half", side="random").hidden)
    assert len(np.unique(drawn.reshape(100, -1), axis=0)) == 4


def test_weights_and_kept_part_of_a_mask():
    x = uniform((2, 4, 4, 3))
    example = inpaint(x, alpha=1.0, beta=0.0)
    np.testing.assert_array_equal(example.weight, example.hidden)
    shown = np.asarray(output(example, jnp.full(x.shape, -1.0)))
    np.testing.assert_array_equal(shown, np.where(np.asarray(example.hidden) == 1, -1.0, np.asarray(x)))
    # What is asked for is the model's own, visible or not; what is hidden is never filled in from the target.
    for weights in ({"alpha": 1.0, "beta": 0.5}, {"alpha": 0.0, "beta": 1.0}):
        np.testing.assert_array_equal(output(inpaint(x, **weights), jnp.full(x.shape, -1.0)), np.full(x.shape, -1.0))


@pytest.mark.parametrize(("level", "length"), [(0.3, 8.0), (0.5, 2.5), (0.9, 2.0)])
def test_spans_have_their_share_and_their_lengths(level, length):
    """The transitions of the chain, each within five standard deviations of its probability."""
    hidden = np.asarray(inpaint(uniform((3000, 60, 2)), mask="spans", level=level, length=length).hidden)
    assert hidden.shape == (3000, 60, 1)
    hidden = hidden[..., 0] == 1
    leave = min(1 / length, 1 - level)
    enter = leave * level / (1 - level)

    def close(events, probability):
        spread = 5 * np.sqrt(probability * (1 - probability) / events.size)
        assert events.mean() == pytest.approx(probability, abs=spread)

    for step in (0, 1, 31, 59):  # stationary from the first step on
        close(hidden[:, step], level)
    close(~hidden[:, 1:][hidden[:, :-1]], leave)
    close(hidden[:, 1:][~hidden[:, :-1]], enter)
    close(~hidden[:, 2:][hidden[:, 1:-1] & hidden[:, :-2]], leave)  # whatever was before
    close(~hidden[:, 2:][hidden[:, 1:-1] & ~hidden[:, :-2]], leave)
    close(hidden[:, 2:][~hidden[:, 1:-1] & hidden[:, :-2]], enter)


def test_spans_of_nothing_and_of_all():
    for level in (0.0, 1.0):
        hidden = np.asarray(inpaint(uniform((20, 30, 1)), mask="spans", level=level).hidden)
        np.testing.assert_array_equal(hidden, np.full((20, 30, 1), level))


def test_steps_that_were_not_observed_are_marked_as_hidden_ones():
    x = np.asarray(uniform((2, 6, 2))).copy()
    x[0, 2, 0] = x[0, 3] = x[0, 5] = np.nan  # a value, a step, and the end
    pair = Inpaint(**(HOLE | {"mask": "spans", "alpha": 2.0}))
    for shown in (False, True):
        examples = pairs.Examples(pair, lambda x: x, masked=True, shown=shown)
        clean = np.asarray(examples(None, {"x": jnp.asarray(x)}).input)
        end = np.nan if shown else 1
        np.testing.assert_array_equal(clean[..., 2], [[0, 0, 0, 1, 0, end], [0] * 6])
        np.testing.assert_array_equal(clean[..., :2], x if shown else np.nan_to_num(x))
        made = examples(jax.random.key(0), {"x": jnp.asarray(x)})
        hidden = np.asarray(made.hidden)
        np.testing.assert_array_equal(made.weight, np.where(np.isnan(x), 0, 1 + hidden))
        again = examples(None, {"x": jnp.asarray(x), "hidden": made.hidden})
        np.testing.assert_array_equal(made.input, again.input)
        assert 0 < hidden.mean() < 1
        np.testing.assert_array_equal(np.nan_to_num(made.input[..., :2]), np.nan_to_num(x) * (1 - hidden))


def test_without_a_key_nothing_is_hidden():
    x = uniform((2, 4, 5, 1))
    example = Inpaint(**(HOLE | {"beta": 0.0})).make(None, {"x": x})
    np.testing.assert_array_equal(example.input[..., :1], x)
    np.testing.assert_array_equal(example.input[..., 1:], np.zeros((2, 4, 5, 1)))
    assert example.weight is None
    assert example.hidden is None


# --- colour ------------------------------------------------------------------------------------------


def test_grey_is_the_luma_or_the_mean():
    x = uniform((2, 3, 4, 3))
    luma = Colorize("luma").make(None, {"x": x})
    np.testing.assert_allclose(luma.input[..., 0], np.asarray(x) @ np.array([0.299, 0.587, 0.114]), rtol=1e-6)
    mean = Colorize("mean").make(None, {"x": x})
    np.testing.assert_allclose(mean.input, np.asarray(x).mean(-1, keepdims=True), rtol=1e-6)
    np.testing.assert_array_equal(luma.target, x)


def test_tinted_digits_are_the_digits_and_their_grey_hides_the_hue():
    config = get_config("colorization", "tinted_digits")
    tinted, digits = sources.load(config), sources.load(small())
    assert tinted.spec.x.shape == (8, 8, 3)
    assert sources.load(config).spec.digest == tinted.spec.digest
    for split in ("train", "test"):
        colours, grey = getattr(tinted, split), getattr(digits, split)
        np.testing.assert_array_equal(colours["y"], grey["y"])
        luma = colours["x"] / 255 @ np.array([[0.299], [0.587], [0.114]])
        np.testing.assert_allclose(luma, 0.15 + 0.45 * grey["x"], atol=2 / 255)
    # The ink's colour is the class's.
    x, y = tinted.train["x"].reshape(len(tinted.train["y"]), -1, 3) / 255, tinted.train["y"]
    ink = x[np.arange(len(x)), digits.train["x"].reshape(len(x), -1).argmax(1)]
    within = np.mean([ink[y == k].std(0).mean() for k in range(10)])
    assert within < 0.35 * ink.std(0).mean()


# --- labels ------------------------------------------------------------------------------------------


def test_labels_become_one_hot_and_unlabelled_examples_have_no_weight():
    example = Label(classes=2).make(None, {"x": jnp.zeros((3, 2)), "y": jnp.asarray([1, -1, 0])})
    np.testing.assert_array_equal(example.target, [[0, 1], [0, 0], [1, 0]])
    np.testing.assert_array_equal(example.weight, [[1], [0], [1]])


# --- through training, evaluation and use -----------------------------------------------------------


@pytest.mark.slow
@given(st.sampled_from(["denoise", "inpaint", "colorize"]), IMAGE_SHAPES)
def test_shapes_are_those_of_a_batch(name, shape):
    shape = (*shape[:3], 3)
    fields = {"denoise": PLAIN, "inpaint": HOLE, "colorize": {"grey": "luma"}}[name]
    examples = pairs.Examples(pairs.PAIRS[name](**fields), pairs.INPUTS["identity"])
    example = examples(jax.random.key(0), {"x": uniform((1, *shape[1:]))})
    assert jax.tree.map(jnp.shape, example) == jax.tree.map(jnp.shape, examples.shapes(shape[1:]))


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{"pair__name": "denoise"}, {"pair__name": "inpaint"}])
def test_evaluation_draws_the_same_corruption_and_has_a_clean_side(fields):
    x = images(shape=(8, 9, 1))
    run = trainer(small(train__eval_batch_size=7, **fields), x)
    state = run.init()
    first = run.evaluate(state, "test")
    assert first == run.evaluate(state, "test")
    assert {k: v for k, v in first.items() if k in run.evaluate(state, "test")} == run.evaluate(state, "test")
    clean = {name.removeprefix("clean/") for name in first if name.startswith("clean/")}
    assert clean == {"loss", "reconstruction", "squared_error", "psnr", "ssim"}
    assert {"psnr", "ssim", "input_psnr", "input_ssim", "hidden_psnr"} <= set(first)
    assert first["clean/squared_error"] != first["squared_error"]
    # The clean side is what use of the model gives.
    model = trained(run, state)
    test = run.data.test["x"]
    np.testing.assert_allclose(model.score(test).mean(), first["clean/reconstruction"], rtol=1e-5)
    expected = ((model.reconstruct(test) - test / 255) ** 2).sum((1, 2, 3)).mean()
    np.testing.assert_allclose(expected, first["clean/squared_error"], rtol=1e-5)


def test_plain_pair_has_quality_of_the_output_alone():
    run = trainer(small(), images(shape=(8, 9, 1)))
    measured = run.evaluate(run.init(), "test")
    assert {"psnr", "ssim"} <= set(measured)
    assert not any(name.startswith(("input", "hidden", "clean")) for name in measured)
    run = trainer(small(pair__name="denoise"), table())
    assert set(run.evaluate(run.init(), "test")) == {
        f"{prefix}{name}" for prefix in ("", "clean/") for name in ("loss", "reconstruction", "squared_error")
    }


def test_hidden_psnr_is_left_out_where_nothing_is_hidden():
    run = trainer(small(pair__name="denoise", pair__denoise__level=0.0), images(shape=(8, 9, 1)))
    measured = run.evaluate(run.init(), "test")
    assert "hidden_psnr" not in measured
    assert measured["squared_error"] == measured["clean/squared_error"]


def test_training_draws_anew_at_every_step():
    run = trainer(small(pair__name="denoise"), images())
    batch = {"x": jnp.asarray(run.data.train["x"][:32])}
    state = run.init()
    terms = [
        run.experiment.objective.terms(
            state.params, {}, batch, key=jax.random.fold_in(run.experiment.key, step), step=state.step, train=True
        )[1]["example"].hidden
        for step in (0, 1)
    ]
    assert (terms[0] != terms[1]).any()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("denoising", {"model__bottleneck__size": 200}),
        ("denoising", {"pair__denoise__corruption": "gaussian", "pair__denoise__level": 0.4}),
        ("denoising", {"pair__denoise__corruption": "salt_and_pepper"}),
        ("inpainting", {}),
        ("inpainting", {"pair__inpaint__mask": "half", "pair__inpaint__side": "random"}),
        ("colorization", {}),
    ],
)
def test_output_is_closer_to_the_original_than_the_input(tmp_path, name, fields):
    source = "tinted_digits" if name == "colorization" else "digits"
    shown = not any(field.startswith("pair") for field in fields)
    config = get_config(name, source, train__epochs=20, train__eval_epochs=20, figures__enabled=shown, **fields)
    results = run_lib.run(config, tmp_path / "run")
    assert results["test/psnr"] > results["test/input_psnr"] + 1
    assert results["test/ssim"] > results["test/input_ssim"]
    if shown:
        assert (tmp_path / "run" / "figures" / f"{config.pair.name}.png").stat().st_size > 1000
    model = aejax.load(tmp_path / "run")
    x = sources.load(config).test["x"][:3]
    assert model.reconstruct(x).shape == x.shape
    np.testing.assert_allclose(model.score(x)[:1], model.score(x[:1]), rtol=1e-6)


def test_colouring_takes_grey_images():
    model = trained(trainer(small(pair__name="colorize"), images(shape=(4, 5, 3))))
    grey = images(3, (4, 5, 1))
    colours = model.reconstruct(grey)
    assert colours.shape == (3, 4, 5, 3)
    np.testing.assert_array_equal(colours, model.reconstruct(grey[..., 0]))
    np.testing.assert_allclose(colours, model.reconstruct(np.repeat(grey, 3, -1)), rtol=1e-6)


@pytest.mark.slow
def test_completion_keeps_the_visible_and_ignores_what_is_hidden():
    model = trained(trainer(small(pair__name="inpaint"), images(shape=(4, 5, 1))))
    x = images(3, (4, 5, 1))
    hidden = np.zeros((3, 4, 5))
    hidden[:, 1:3, 2:4] = 1
    done = model.complete(x, hidden)
    assert done.shape == (1, 3, 4, 5, 1)
    np.testing.assert_allclose(done[0][hidden == 0], x[hidden == 0] / np.float32(255), rtol=1e-6)
    other = x.copy()
    other[hidden == 1] = 255 - other[hidden == 1]
    np.testing.assert_array_equal(done, model.complete(other, hidden))
    with pytest.raises(InputError) as error:
        model.complete(x, hidden[:2])
    one_line(error, "hidden", "(3, 4, 5)")
    with pytest.raises(InputError) as error:
        trained(trainer(small(), images(shape=(4, 5, 1)))).complete(x)
    one_line(error, "inpaint")


# --- bad combinations ---------------------------------------------------------------------------------

DENOISE, INPAINT = {"pair__name": "denoise"}, {"pair__name": "inpaint"}


@pytest.mark.parametrize(
    ("fields", "x", "field"),
    [
        (DENOISE | {"pair__denoise__level": 1.5}, images(), "pair.denoise.level"),
        (
            DENOISE | {"pair__denoise__level": 1.5, "pair__denoise__corruption": "salt_and_pepper"},
            images(),
            "pair.denoise.level",
        ),
        (
            DENOISE | {"pair__denoise__level": -0.1, "pair__denoise__corruption": "gaussian"},
            images(),
            "pair.denoise.level",
        ),
        (
            DENOISE | {"pair__denoise__corruption": "gaussian", "pair__denoise__alpha": 2.0},
            images(),
            "pair.denoise.corruption",
        ),
        (DENOISE | {"pair__denoise__alpha": 0.0, "pair__denoise__beta": 0.0}, images(), "pair.denoise.beta"),
        (DENOISE | {"pair__denoise__beta": -1.0}, images(), "pair.denoise.beta"),
        (DENOISE | {"pair__denoise__corruption": "salt_and_pepper"}, table(), "pair.denoise.corruption"),
        (DENOISE | {"pair__denoise__clip": True}, table(), "pair.denoise.clip"),
        (DENOISE | {"pair__denoise__corruption": "salt"}, images(), "pair.denoise.corruption"),
        (INPAINT | {"pair__inpaint__size": 0.0}, images(), "pair.inpaint.size"),
        (INPAINT | {"pair__inpaint__level": 1.1}, images(), "pair.inpaint.level"),
        (INPAINT | {"pair__inpaint__mask": "star"}, images(), "pair.inpaint.mask"),
        (INPAINT | {"pair__inpaint__side": "middle"}, images(), "pair.inpaint.side"),
        (
            INPAINT | {"pair__inpaint__mask": "quadrants", "pair__inpaint__visible": ()},
            images(),
            "pair.inpaint.visible",
        ),
        (
            INPAINT | {"pair__inpaint__mask": "quadrants", "pair__inpaint__visible": ("top",)},
            images(),
            "pair.inpaint.visible",
        ),
        (
            INPAINT | {"pair__inpaint__mask": "quadrants", "pair__inpaint__visible": QUADRANTS},
            images(),
            "pair.inpaint.visible",
        ),
        (INPAINT, table(), "pair.name"),
        (INPAINT | {"model__decoder__tied": True}, images(), "model.decoder.tied"),
        (INPAINT | {"pair__inpaint__conditional": True}, images(), "pair.inpaint.conditional"),
        (VAE | {"model__bottleneck__gaussian__prior_widths": (4,)}, images(), "model.bottleneck.gaussian.prior_widths"),
        (VAE | {"model__bottleneck__gaussian__prior_widths": (0,)}, images(), "model.bottleneck.gaussian.prior_widths"),
        (VAE | {"objective__kl__free_bits": -0.5}, images(), "objective.kl.free_bits"),
        ({"pair__name": "colorize"}, images(), "pair.name"),
        ({"pair__name": "colorize"}, table(), "pair.name"),
        (
            {"pair__name": "colorize", "model__decoder__tied": True},
            images(shape=(6, 5, 3)),
            "model.decoder.tied",
        ),
    ],
)
def test_bad_combinations_end_in_one_line(fields, x, field, tmp_path):
    config = small(**fields)
    data = sources.from_array(x, small())
    with pytest.raises(InputError) as error:
        run_lib.run(config, tmp_path / "run", data)
    assert not (tmp_path / "run").exists()
    one_line(error, f"config.{field} = ")


def test_pair_of_the_config_is_given_its_own_fields():
    config = small(pair__name="denoise", pair__denoise__level=0.0)
    built = experiment.build(config, sources.load(config).spec).objective
    x = uniform((2, 8, 8, 1))
    np.testing.assert_array_equal(built.examples(jax.random.key(0), {"x": x}).input, x)
