"""Steps that are not finite."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import aejax
from aejax import experiment
from aejax import run as run_lib
from aejax.data import dataset, sources
from aejax.errors import NonFiniteError
from aejax.methods import optim
from aejax.parallel import mesh
from aejax.training import plan
from aejax.training import step as step_lib
from aejax.training.trainer import Trainer
from common import assert_equal, images, one_line, small, trainer


def trainer_on(data, config):
    """A Trainer on one device, on a dataset."""
    return Trainer(experiment.build(plan.resolve(config), data.spec), data, mesh.make(1))


def poisoned(n=100, row=None):
    """A table, one row of which makes the squared error overflow."""
    x = np.random.default_rng(0).standard_normal((n, 4))
    if row is not None:
        x[row] = 1e30
    return x


def test_no_step_is_taken_after_one_that_failed():
    run = trainer(small(data__standardize=False, data__test_fraction=0.2), poisoned())
    rows = np.stack([np.arange(32), np.arange(32), np.arange(32)]).astype(np.int32)
    data = {"x": jnp.asarray(run.train_data["x"]).at[40].set(1e30)}
    rows[1, 3] = 40
    several = jax.jit(lambda s: step_lib.train_steps(s, data, rows, jnp.zeros(3, bool), experiment=run.experiment))
    after, found = several(run.init())
    step = jax.jit(functools.partial(step_lib.train_step, experiment=run.experiment))
    once, *_ = step(run.init(), step_lib.take(data, rows[0], run.experiment.shape))
    assert found["finite"].tolist()[:2] == [True, False]
    assert (bool(found["intact"]), bool(found["failed"])) == (True, True)
    assert int(after.step) == 1
    for x, y in zip(jax.tree.leaves(after.params), jax.tree.leaves(once.params), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6)


@pytest.mark.parametrize(
    ("fields", "leaf"),
    [
        ({"optim__learning_rate": 1e18, "optim__name": "sgd"}, "term reconstruction"),
        ({"optim__learning_rate": 1e38, "optim__name": "sgd"}, "update of "),
    ],
)
def test_a_run_that_diverges_names_step_and_leaf_and_keeps_a_good_state(tmp_path, fields, leaf):
    config = small(**fields, train__epochs=3)
    with pytest.raises(NonFiniteError) as error:
        run_lib.run(config, tmp_path / "a", sources.from_array(images(), config))
    one_line(error, "step ", leaf)
    assert error.value.exit_code == 3
    model = aejax.load(tmp_path / "a")
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(model.params))
    assert not (tmp_path / "a" / "results.json").exists()
    # The same command fails in the same way, from the checkpoint.
    with pytest.raises(NonFiniteError) as again:
        run_lib.run(config, tmp_path / "a", sources.from_array(images(), config))
    assert str(again.value) == str(error.value)


@pytest.mark.slow
def test_the_state_before_an_update_that_overflows_is_saved(tmp_path, monkeypatch):
    def overflows_at(step):
        def update(updates, state, params):
            factor = jnp.where(state.count == step, 1e38, 1.0)
            return jax.tree.map(lambda u: u * factor * factor, updates), optax.ScaleByScheduleState(state.count + 1)

        return optax.GradientTransformation(lambda _: optax.ScaleByScheduleState(jnp.zeros((), jnp.int32)), update)

    adam, at = optim.OPTIMIZERS["adam"], 8
    monkeypatch.setitem(optim.OPTIMIZERS, "adam", lambda rate: optax.chain(adam(rate), overflows_at(at)))
    config = small(train__epochs=5, train__log_steps=4, checkpoint__every_steps=6)
    data = sources.from_array(images(), config)
    for _ in range(2):  # the second time from the checkpoint
        with pytest.raises(NonFiniteError, match="step 8: not finite: update of decoder/layers_0/bias"):
            run_lib.run(config, tmp_path / "a", data)
        at = -1
        run = trainer_on(data, config)
        expected, _ = run.run(run.init(), 0, 8)
        assert_equal(aejax.load(tmp_path / "a").params, run.gather(expected).params)
        at = 8


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{"train__log_steps": 4}, {"optim__ema": 0.9, "checkpoint__every_steps": 6}])
def test_a_gradient_that_overflows_where_the_loss_does_not(tmp_path, fields):
    """Adam would take its square for infinite, and never again move the parameters that it is of."""
    raw = {"x_train": poisoned(), "x_test": poisoned()[:9]}
    raw["x_train"][40] = 1e18
    config = small(data__standardize=False, train__epochs=5, train__batch_size=10, **fields)
    data = dataset.build(raw, config)
    run = trainer_on(data, config)
    (at,) = np.flatnonzero((run.feed.rows(0, 10) == 40).any(1))
    expected, _ = run.run(run.init(), 0, at) if at else (run.init(), None)
    with pytest.raises(NonFiniteError) as error:
        run.run(run.init(), 0, 10)
    one_line(error, "one of steps ", ": not finite: update of opt_state/0/nu/")
    with pytest.raises(NonFiniteError) as error:
        run_lib.run(config, tmp_path / "a", data)
    one_line(error, f"step {at}: not finite: gradient of ", "the state before it is saved")
    assert_equal(aejax.load(tmp_path / "a").params, run.gather(expected.ema or expected.params))


def test_an_evaluation_that_is_not_finite_ends_the_run(tmp_path):
    raw = {"x_train": poisoned(), "x_test": poisoned(row=3)}
    config = small(data__standardize=False)
    with pytest.raises(NonFiniteError) as error:
        run_lib.run(config, tmp_path / "a", dataset.build(raw, config))
    one_line(error, "step 3", "test reconstruction")
    assert not (tmp_path / "a" / "results.json").exists()
