"""Methods of training: phases, the adversarial autoencoder."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import aejax
from aejax import run as run_lib
from aejax.data import sources
from aejax.errors import InputError, NonFiniteError, Stopped
from aejax.losses.divergences import mmd
from aejax.methods.adversarial import Adversarial
from aejax.training import step as step_lib
from common import assert_equal, check, get_config, images, metrics, one_line, results, small, trained, trainer

ADVERSARIAL = {"method__name": "adversarial", "method__adversarial__widths": (16,)}
X = images(96, (4, 4, 1))


def steps(run, count, state=None):
    """The state after some steps."""
    step = jax.jit(lambda s, b: step_lib.train_step(s, b, experiment=run.experiment))
    state = run.init() if state is None else state
    for i in range(count):
        state, gradients, found = step(state, run.batch(i))
    return state, gradients, found


def test_one_phase_keeps_the_tree_of_its_optimiser():
    run = trainer(small(), X)
    (phase,) = run.experiment.phases
    state = run.init()
    assert phase.trained == ()
    assert jax.tree.structure(state.opt_state) == jax.tree.structure(phase.optimizer.init(state.params))


@pytest.mark.slow
def test_phases_train_their_own_components_alone():
    run = trainer(small(**ADVERSARIAL), X)
    state = run.init()
    assert set(state.params) == {"encoder", "decoder", "discriminator"}
    assert set(state.opt_state) == {"reconstruct", "discriminate", "deceive"}
    assert state.ema is None
    batch, key = run.batch(0), jax.random.key(0)
    for phase, names in zip(
        run.experiment.phases, [{"encoder", "decoder"}, {"discriminator"}, {"encoder"}], strict=True
    ):
        gradients, variables, _ = step_lib.backward(phase, state, batch, key, run.experiment)
        assert set(gradients) == names
        after = step_lib.update(run.experiment, phase, state, gradients, variables)
        for name in state.params:
            same = jax.tree.map(lambda a, b: bool((a == b).all()), state.params[name], after.params[name])
            assert all(jax.tree.leaves(same)) == (name not in names)
        assert int(after.step) == (phase is run.experiment.phases[-1])


def test_adversarial_losses_are_those_of_the_paper():
    """Against NumPy: −E log s(d(prior)) − E log(1 − s(d(z))), and −E log s(d(z)) at the phase's parameters."""
    run = trainer(small(**ADVERSARIAL), X)
    state, batch, key = run.init(), run.batch(0), jax.random.key(3)
    x = np.asarray(batch["x"], np.float64).reshape(32, -1) / 255

    def dense(params, h):
        layers = [params[f"layers_{i}"] for i in range(2)]
        h = np.maximum(h @ np.asarray(layers[0]["kernel"], np.float64) + np.asarray(layers[0]["bias"]), 0)
        return h @ np.asarray(layers[1]["kernel"], np.float64) + np.asarray(layers[1]["bias"])

    z = dense(state.params["encoder"], x)
    drawn = np.asarray(jax.random.normal(jax.random.fold_in(key, 0x9A1), z.shape))
    sigmoid = lambda d: 1 / (1 + np.exp(-d))  # noqa: E731
    real, fake = (sigmoid(dense(state.params["discriminator"], codes)) for codes in (drawn, z))
    expected = {"discriminate": -np.log(real).mean() - np.log(1 - fake).mean(), "deceive": -np.log(fake).mean()}
    for phase in run.experiment.phases[1:]:
        total, (_, terms) = phase.loss(state.params, state.variables, batch, key=key, step=state.step)
        np.testing.assert_allclose(total, expected[phase.name], rtol=1e-5)
        np.testing.assert_allclose(terms["loss"], expected[phase.name], rtol=1e-5)


@pytest.mark.slow
def test_the_weight_multiplies_the_loss_of_the_encoder():
    state, runs = None, [trainer(small(**ADVERSARIAL, method__adversarial__weight=w), X) for w in (1.0, 3.0)]
    found = []
    for run in runs:
        state = run.init()
        phase = run.experiment.phases[2]
        found.append(step_lib.backward(phase, state, run.batch(0), jax.random.key(0), run.experiment))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(3 * a, b, rtol=1e-5), found[0][0], found[1][0])
    np.testing.assert_array_equal(found[0][2]["loss"], found[1][2]["loss"])  # logged without it


@pytest.mark.slow
def test_each_phase_starts_from_the_parameters_that_the_one_before_left():
    run = trainer(small(**ADVERSARIAL), X)
    state = before = run.init()
    batch, key = run.batch(0), jax.random.fold_in(run.experiment.key, 0)
    for phase in run.experiment.phases:
        gradients, variables, _ = step_lib.backward(phase, before, batch, key, run.experiment)
        before = step_lib.update(run.experiment, phase, before, gradients, variables)
    after, gradients, found = steps(run, 1, state)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), after.params, before.params)
    assert set(gradients) == {"reconstruct", "discriminate", "deceive"}
    assert {"loss", "discriminate_loss", "deceive_loss", "learning_rate"} <= set(found)


@pytest.mark.parametrize("name", ["discriminate", "deceive"])
def test_a_phase_that_is_not_finite_reverts_the_whole_step(name):
    run = trainer(small(**ADVERSARIAL), X)

    def bad(phase):
        def loss(params, variables, batch, *, key, step):
            total, (variables, _) = phase.loss(params, variables, batch, key=key, step=step)
            total = jnp.where(step == 2, jnp.nan, total)
            return total, (variables, {"loss": total})

        return phase._replace(loss=loss) if phase.name == name else phase

    phases = tuple(map(bad, run.experiment.phases))
    experiment = dataclasses.replace(run.experiment, phases=phases)
    step = jax.jit(functools.partial(step_lib.train_step, experiment=experiment))
    state = run.init()
    for i in range(2):
        state, _, found = step(state, run.batch(i))
        assert found["finite"]
    after, _, found = step(state, run.batch(2))
    assert not found["finite"]
    assert_equal(after, state)


def test_a_phase_that_is_not_finite_ends_the_run_and_is_named(tmp_path):
    config = small(**ADVERSARIAL, optim__name="sgd", optim__learning_rate=1e12)
    with pytest.raises(NonFiniteError) as error:
        run_lib.run(config, tmp_path / "run", sources.from_array(X, config))
    one_line(error, "step ", "not finite", "the state before it is saved")


def test_batches_in_parts_average_the_gradients_of_each_phase():
    whole, parts = (trainer(small(**ADVERSARIAL, optim__accumulate=k), X) for k in (1, 2))
    state, batch, key = whole.init(), whole.batch(0), jax.random.key(0)
    phase = whole.experiment.phases[0]  # draws nothing
    a, b = (step_lib.backward(phase, state, batch, key, run.experiment)[0] for run in (whole, parts))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), a, b)


@pytest.mark.slow
def test_an_adversarial_run_resumes_to_the_same_bits(tmp_path):
    config = small(**ADVERSARIAL, train__epochs=4, checkpoint__every_steps=2, train__log_steps=2, optim__ema=0.9)
    data = sources.from_array(X, config)
    run_lib.run(config, tmp_path / "whole", data)
    stopped = iter([False, True])
    original = run_lib.stopped

    class Stop:
        def __enter__(self):
            return lambda: next(stopped, False)

        def __exit__(self, *error):
            pass

    run_lib.stopped = Stop
    try:
        with pytest.raises(Stopped):
            run_lib.run(config, tmp_path / "resumed", data)
    finally:
        run_lib.stopped = original
    run_lib.run(config, tmp_path / "resumed", data)
    whole, resumed = (aejax.load(tmp_path / name) for name in ("whole", "resumed"))
    assert_equal(whole.params, resumed.params)
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "resumed")
    assert results(tmp_path / "whole") == results(tmp_path / "resumed")
    assert whole.sample(3).shape == (3, 4, 4, 1)


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"model__bottleneck__name": "gaussian", "objective__likelihood": "bernoulli"}, ["adversarial", "identity"]),
        ({"finetune__name": "classifier"}, ["adversarial", "no classifier"]),
        ({"method__adversarial__widths": (0,)}, ["method.adversarial.widths", "integers of at least 1"]),
        ({"method__adversarial__weight": 0.0}, ["method.adversarial.weight", "greater than 0"]),
        ({"method__name": "adversary"}, ["method.name", "must be one of", "adversarial"]),
    ],
)
def test_a_config_that_cannot_be_trained_so_is_refused(fields, parts):
    with pytest.raises(InputError) as error:
        check(small(**(ADVERSARIAL | fields)))
    one_line(error, *parts)


def test_the_discriminator_is_drawn_apart_from_the_autoencoder():
    plain, adversarial = trainer(small(), X).init(), trainer(small(**ADVERSARIAL), X).init()
    for part in ("encoder", "decoder"):
        assert_equal(plain.params[part], adversarial.params[part])


def test_mmd_agrees_with_its_definition():
    a, b = np.random.default_rng(0).standard_normal((2, 7, 3))
    sizes = 2 * 3 * np.array([0.1, 0.2, 0.5, 1, 2, 5, 10])
    kernel = lambda x, y: (sizes / (sizes + ((x - y) ** 2).sum())).sum()  # noqa: E731
    within = [np.mean([kernel(s[i], s[j]) for i in range(7) for j in range(7) if i != j]) for s in (a, b)]
    across = np.mean([kernel(x, y) for x in a for y in b])
    np.testing.assert_allclose(mmd(jnp.asarray(a), jnp.asarray(b)), sum(within) - 2 * across, rtol=1e-4)


def test_mmd_is_near_0_for_one_distribution_and_above_for_two():
    drawn = np.random.default_rng(1).standard_normal((3, 500, 4)).astype(np.float32)
    assert abs(mmd(drawn[0], drawn[1])) < 0.02
    assert mmd(drawn[0], drawn[2] + 1) > 0.3


def test_method_objective_is_the_config_s_apart_from_its_phases():
    run = trainer(small(**ADVERSARIAL), X)
    assert isinstance(run.experiment.method, Adversarial)
    assert run.experiment.objective.penalties == {}
    assert run.experiment.has_prior
    assert isinstance(run.experiment.phases[0].optimizer, optax.GradientTransformation)
    assert trained(run).decodable


@pytest.mark.slow
def test_adversarial_codes_match_the_prior(tmp_path):
    """Better than an untrained encoder's and than a plain autoencoder's, by MMD, and about as well as its own draws."""
    found = {}
    for name, fields in {
        "adversarial": {},
        "plain": {"method__name": "autoencoder"},
        "untrained": {"finetune__name": "none"},
    }.items():
        config = get_config("aae", train__progress=False, figures__enabled=name == "adversarial", **fields)
        found[name] = run_lib.run(config, tmp_path / name)
    print({name: values["prior/mmd"] for name, values in found.items()})
    mmds = {name: values["prior/mmd"] for name, values in found.items()}
    assert mmds["adversarial"] < 0.1 * min(mmds["plain"], mmds["untrained"])
    assert mmds["adversarial"] < found["plain"]["prior/standardized/mmd"]
    assert (tmp_path / "adversarial" / "figures" / "samples.png").is_file()
    assert found["adversarial"]["test/squared_error"] < found["adversarial"]["test/pca_squared_error"]
