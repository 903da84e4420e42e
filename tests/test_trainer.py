"""The compiled steps of an experiment on its data: training and evaluation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from aejax import run as run_lib
from aejax.data import sources
from aejax.pairs.example import binarize
from aejax.parallel import mesh
from aejax.training import step as step_lib
from aejax.training.trainer import Trainer
from aejax.uses.data import Data
from common import VAE, assert_equal, images, small, trainer


def numpy_squared_errors(params, x):
    """‖x − r‖² [N] of `small()` in NumPy."""
    w = jax.tree.map(np.asarray, params)
    x = x.reshape(len(x), -1).astype(np.float64)

    def dense(x, part, i):
        return x @ w[part][f"layers_{i}"]["kernel"] + w[part][f"layers_{i}"]["bias"]

    z = dense(np.maximum(dense(x, "encoder", 0), 0), "encoder", 1)
    r = dense(np.maximum(dense(z, "decoder", 0), 0), "decoder", 1)
    return ((x - r) ** 2).sum(1)


@pytest.mark.parametrize("size", [1, 7, 20, 64, 1000])
def test_evaluation_counts_every_example_once(size):
    run = trainer(small(train__eval_batch_size=size, data__validation_fraction=0.25), images(103))
    state = run.init()
    for split in ("validation", "test"):
        x = getattr(run.data, split)["x"] / 255
        found = run.evaluate(state, split)
        assert found["squared_error"] == pytest.approx(numpy_squared_errors(state.params, x).mean(), rel=1e-5)
        assert found["loss"] == pytest.approx(found["reconstruction"])


def test_evaluation_uses_the_averaged_parameters():
    run = trainer(small(optim__ema=0.5), images())
    state, _ = run.run(run.init(), 0, 2)
    x = run.data.test["x"] / 255
    averaged, last = (numpy_squared_errors(p, x).mean() for p in (state.ema, state.params))
    assert run.evaluate(state, "test")["loss"] == pytest.approx(averaged, rel=1e-5)
    assert averaged != pytest.approx(last, rel=1e-5)


@pytest.mark.slow
def test_the_metrics_of_an_interval_are_means_over_its_steps():
    run = trainer(small(), images())
    state, each = run.init(), []
    step = jax.jit(functools.partial(step_lib.train_step, experiment=run.experiment))
    for i in range(2):
        state, gradients, found = step(state, run.batch(i))
        each.append(float(found["loss"]))
    again, mean = run.run(run.init(), 0, 2)
    assert mean["loss"] == pytest.approx(np.mean(each), rel=1e-5)
    assert mean["gradient_norm"] == pytest.approx(float(optax.tree.norm(gradients)), rel=1e-5)  # of the last
    assert mean["parameter_norm"] == pytest.approx(float(optax.tree.norm(state.params)), rel=1e-5)
    assert int(again.step) == 2


@pytest.mark.optimized
def test_steps_of_any_interval_are_the_same():
    """One dispatch of two steps, two of one: a cut changes no bit."""
    run = trainer(small(**VAE, data__binarize="dynamic", train__epochs=4), images())
    whole, _ = run.run(run.init(), 0, 2)
    cut, _ = run.run(run.init(), 0, 1)
    cut, _ = run.run(cut, 1, 2)
    assert_equal(whole, cut)


def test_dynamic_binarisation_is_new_at_every_step_and_fixed_in_evaluation():
    run = trainer(small(**VAE, data__binarize="dynamic"), images())
    drawn = [binarize(jax.random.fold_in(jax.random.key(0), i), {"x": jnp.full((50, 9), 0.3)})["x"] for i in (0, 1)]
    assert not np.array_equal(*map(np.asarray, drawn))
    assert np.mean(drawn) == pytest.approx(0.3, abs=0.05)
    assert set(np.unique(np.asarray(run.eval_data["x"]))) <= {0, 255}
    state = run.init()
    assert run.evaluate(state, "test") == run.evaluate(state, "test")


def test_static_binarisation_is_drawn_once():
    a, b = (trainer(small(**VAE, data__binarize="static"), images()) for _ in range(2))
    for name in ("train_data", "eval_data"):
        x = np.asarray(getattr(a, name)["x"])
        assert set(np.unique(x)) == {0, 255}
        np.testing.assert_array_equal(x, np.asarray(getattr(b, name)["x"]))
    drawn, grey = np.asarray(a.train_data["x"]).mean(), a.data.train["x"].mean()
    assert drawn == pytest.approx(grey, rel=0.05)
    train_x = Data(a.experiment, a.data).train
    np.testing.assert_array_equal(train_x.reshape(len(train_x), -1) * 255, np.asarray(a.train_data["x"]))


@pytest.mark.parametrize(
    ("fraction", "fields"),
    [(0.0, {}), (0.2, VAE | {"optim__ema": 0.9, "optim__clip": 1.0})],
    ids=["plain", "vae, validation"],
)
def test_one_compilation_of_each_step(tmp_path, monkeypatch, fraction, fields):
    made, traced = [], {"train": 0, "eval": 0}

    class Watched(Trainer):
        def __init__(self, *args):
            made.append(self)
            super().__init__(*args)

    def counting(name, function):
        def counted(*args, **kwargs):
            traced[name] += 1
            return function(*args, **kwargs)

        return counted

    monkeypatch.setattr(run_lib, "Trainer", Watched)
    monkeypatch.setattr(step_lib, "train_steps", counting("train", step_lib.train_steps))
    monkeypatch.setattr(step_lib, "eval_step", counting("eval", step_lib.eval_step))
    # Intervals of unequal length, a cut last one, batches and splits that do not divide.
    fields = fields | {
        "data__validation_fraction": fraction,
        "train__batch_size": 9,
        "train__eval_epochs": 2,
        "train__log_steps": 5,
        "train__eval_batch_size": 8,
    }
    config = small(**fields, train__epochs=7)
    run_lib.run(config, tmp_path / "a", sources.from_array(images(), config))
    assert traced == {"train": 1, "eval": 1}
    assert (made[0]._train_steps._cache_size(), made[0]._eval_step._cache_size()) == (1, 1)
    # A run that is taken up from a checkpoint compiles each once too.
    run_lib.run(small(**fields, train__epochs=9), tmp_path / "a", sources.from_array(images(), config))
    assert (made[1]._train_steps._cache_size(), made[1]._eval_step._cache_size()) == (1, 1)


def test_the_mesh_takes_the_devices_that_it_is_told():
    assert mesh.make(1).devices.size == 1
    assert mesh.round_up(mesh.make(1), 7) == 7
