"""One step of training."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from aejax.training import step as step_lib
from common import VAE, assert_equal, get_config, images, small, trainer

# Loss and gradient norm of the first step of configs/vae.py on the digits.
GOLDEN = {"loss": 49.950802, "reconstruction": 47.783836, "kl": 2.1669652, "gradient_norm": 28.471392}


def first_batch(run, size=32):
    return step_lib.take(run.train_data, np.arange(size, dtype=np.int32), run.experiment.shape)


def step(run, state, batch):
    """The state, the metrics and the gradient's norm of one step."""
    state, gradients, found = jax.jit(lambda s, b: step_lib.train_step(s, b, experiment=run.experiment))(state, batch)
    return state, found | {"gradient_norm": optax.tree.norm(gradients)}


@pytest.mark.optimized
def test_golden_step():
    config = get_config("vae", train__epochs=1)
    run = trainer(config)
    batch = step_lib.take(run.train_data, run.feed.rows(0, 1)[0], run.experiment.shape)
    _, found = step(run, run.init(), batch)
    for name, expected in GOLDEN.items():
        assert float(found[name]) == pytest.approx(expected, rel=2e-4), (
            f"{name} of the first step is {float(found[name])!r}, was {expected}. Update GOLDEN only where the model, "
            "its initialisation, the objective, the random streams or the order of the examples was meant to change: "
            "then old runs cannot be continued, so raise config_json.FORMAT too."
        )


@pytest.mark.parametrize("fields", [{}, VAE, {"objective__likelihood": "bernoulli"}], ids=["plain", "vae", "bernoulli"])
def test_gradient_norm_equals_a_directional_derivative(fields):
    run = trainer(small(**fields, model__encoder__activation="tanh"), images())
    state, batch = run.init(), first_batch(run)
    key, (phase,) = jax.random.key(5), run.experiment.phases
    gradients = jax.jit(lambda state, batch: step_lib.backward(phase, state, batch, key, run.experiment)[0])(
        state, batch
    )
    norm = optax.tree.norm(gradients)

    @jax.jit
    def loss(eps):
        params = jax.tree.map(lambda p, g: p + eps * g / norm, state.params, gradients)
        terms, _ = run.experiment.objective.terms(params, {}, batch, key=key, step=state.step, train=True)
        return run.experiment.objective.loss({n: t.mean() for n, t in terms.items()}, state.step)

    assert float(loss(1e-2) - loss(-1e-2)) / 2e-2 == pytest.approx(float(norm), rel=5e-3)


@pytest.mark.parametrize("parts", [2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "fields",
    [{}, pytest.param({"objective__likelihood": "bernoulli", "optim__clip": 0.1}, marks=pytest.mark.slow, id="clip")],
)
def test_accumulation_equals_the_whole_batch(parts, fields):
    runs = [
        trainer(small(**fields, optim__name="sgd", optim__accumulate=k, optim__learning_rate=0.1), images())
        for k in (1, parts)
    ]
    (whole, a), (accumulated, b) = (step(run, run.init(), first_batch(run)) for run in runs)
    for x, y in zip(jax.tree.leaves(whole.params), jax.tree.leaves(accumulated.params), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
    for name in a:
        assert float(a[name]) == pytest.approx(float(b[name]), rel=1e-5)


def test_ema_is_its_recursion():
    run = trainer(small(optim__ema=0.9), images())
    state, batch = run.init(), first_batch(run)
    expected = jax.tree.map(np.asarray, state.params)
    for _ in range(3):
        state, _ = step(run, state, batch)
        expected = jax.tree.map(lambda e, p: 0.9 * e + 0.1 * np.asarray(p), expected, state.params)
    for x, y in zip(jax.tree.leaves(state.ema), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7)


def test_clipping_bounds_the_step():
    run = trainer(small(optim__name="sgd", optim__momentum=0.0, optim__learning_rate=1.0, optim__clip=0.01), images())
    before = run.init()
    after, found = step(run, before, first_batch(run))
    moved = optax.tree.norm(jax.tree.map(jnp.subtract, after.params, before.params))
    assert float(moved) == pytest.approx(0.01, rel=1e-3)
    assert float(found["gradient_norm"]) > 0.01  # as it was before clipping


def test_a_skipped_step_changes_nothing():
    run = trainer(small(**VAE, optim__ema=0.9), images())
    state = run.init()
    after, *_ = jax.jit(lambda s, b: step_lib.train_step(s, b, experiment=run.experiment, skip=True))(
        state, first_batch(run)
    )
    assert_equal(after, state)


@pytest.mark.slow
def test_accumulation_and_batch_norm_together():
    run = trainer(small(model__encoder__norm="batch", optim__accumulate=2), images())
    state, found = run.run(run.init(), 0, 2)
    assert np.isfinite(found["loss"])
    assert dataclasses.is_dataclass(state)
