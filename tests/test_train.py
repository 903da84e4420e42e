import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import aejax
from aejax import mesh, optim, pairs, steps, train
from aejax.data import dataset, sources
from aejax.errors import InputError, NonFiniteError
from common import VAE, assert_equal, get_config, images, metrics, one_line, results, small, table, trainer

# Loss and gradient norm of the first step of configs/vae.py on the digits.
GOLDEN = {"loss": 49.950802, "reconstruction": 47.783836, "kl": 2.1669652, "gradient_norm": 28.471392}


def first_batch(run, size=32):
    return steps.take(run.train_data, np.arange(size, dtype=np.int32), run.experiment.shape)


def step(run, state, batch):
    """The state, the metrics and the gradient's norm of one step."""
    state, gradients, found = jax.jit(lambda s, b: steps.train_step(s, b, experiment=run.experiment))(state, batch)
    return state, found | {"gradient_norm": optax.tree.norm(gradients)}


def numpy_squared_errors(params, x):
    """‖x − r‖² [N] of `small()` in NumPy."""
    w = jax.tree.map(np.asarray, params)
    x = x.reshape(len(x), -1).astype(np.float64)

    def dense(x, part, i):
        return x @ w[part][f"layers_{i}"]["kernel"] + w[part][f"layers_{i}"]["bias"]

    z = dense(np.maximum(dense(x, "encoder", 0), 0), "encoder", 1)
    r = dense(np.maximum(dense(z, "decoder", 0), 0), "decoder", 1)
    return ((x - r) ** 2).sum(1)


@pytest.mark.optimized
def test_golden_step():
    config = get_config("vae", train__epochs=1)
    run = trainer(config)
    batch = steps.take(run.train_data, run.feed.rows(0, 1)[0], run.experiment.shape)
    _, found = step(run, run.init(), batch)
    for name, expected in GOLDEN.items():
        assert float(found[name]) == pytest.approx(expected, rel=2e-4), (
            f"{name} of the first step is {float(found[name])!r}, was {expected}. Update GOLDEN only where the model, "
            "its initialisation, the objective, the random streams or the order of the examples was meant to change: "
            "then old runs cannot be continued, so raise config.FORMAT too."
        )


@pytest.mark.parametrize("fields", [{}, VAE, {"objective__likelihood": "bernoulli"}], ids=["plain", "vae", "bernoulli"])
def test_gradient_norm_equals_a_directional_derivative(fields):
    run = trainer(small(**fields, model__encoder__activation="tanh"), images())
    state, batch = run.init(), first_batch(run)
    key = jax.random.key(5)
    gradients = jax.jit(lambda state, batch: steps.backward(state, batch, key, run.experiment)[0])(state, batch)
    norm = optax.tree.norm(gradients)

    @jax.jit
    def loss(eps):
        params = jax.tree.map(lambda p, g: p + eps * g / norm, state.params, gradients)
        terms, _ = run.experiment.objective.terms(params, {}, batch, key=key, step=state.step, train=True)
        return run.experiment.objective.loss({n: t.mean() for n, t in terms.items()}, state.step)

    assert float(loss(1e-2) - loss(-1e-2)) / 2e-2 == pytest.approx(float(norm), rel=5e-3)


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


def test_elbo_is_unweighted():
    run = trainer(small(**VAE, objective__kl__weight=4.0), images())
    found = run.evaluate(run.init(), "test")
    assert found["elbo"] == pytest.approx(-found["reconstruction"] - found["kl"])
    assert found["loss"] == pytest.approx(found["reconstruction"] + 4 * found["kl"], rel=1e-5)


@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize("fields", [{}, {"objective__likelihood": "bernoulli", "optim__clip": 0.1}])
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


def test_the_metrics_of_an_interval_are_means_over_its_steps():
    run = trainer(small(), images())
    state, each = run.init(), []
    for i in range(2):
        state, found = step(run, state, steps.take(run.train_data, run.feed.rows(i, i + 1)[0], run.experiment.shape))
        each.append(float(found["loss"]))
    again, mean = run.run(run.init(), 0, 2)
    assert mean["loss"] == pytest.approx(np.mean(each), rel=1e-5)
    assert mean["gradient_norm"] == pytest.approx(float(found["gradient_norm"]), rel=1e-5)  # of the last
    assert mean["parameter_norm"] == pytest.approx(float(optax.tree.norm(state.params)), rel=1e-5)
    assert int(again.step) == 2


def test_a_skipped_step_changes_nothing():
    run = trainer(small(**VAE, optim__ema=0.9), images())
    state = run.init()
    after, *_ = jax.jit(lambda s, b: steps.train_step(s, b, experiment=run.experiment, skip=True))(
        state, first_batch(run)
    )
    assert_equal(after, state)


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
    drawn = [
        pairs.binarize(jax.random.fold_in(jax.random.key(0), i), {"x": jnp.full((50, 9), 0.3)})["x"] for i in (0, 1)
    ]
    assert not np.array_equal(*map(np.asarray, drawn))
    assert np.mean(drawn) == pytest.approx(0.3, abs=0.05)
    assert set(np.unique(np.asarray(run.eval_data["x"]))) <= {0, 255}
    state = run.init()
    assert run.evaluate(state, "test") == run.evaluate(state, "test")


@pytest.mark.parametrize(
    ("fraction", "fields"),
    [(0.0, {}), (0.2, VAE | {"optim__ema": 0.9, "optim__clip": 1.0})],
    ids=["plain", "vae, validation"],
)
def test_one_compilation_of_each_step(tmp_path, monkeypatch, fraction, fields):
    made, traced = [], {"train": 0, "eval": 0}

    class Watched(train.Trainer):
        def __init__(self, *args):
            made.append(self)
            super().__init__(*args)

    def counting(name, function):
        def counted(*args, **kwargs):
            traced[name] += 1
            return function(*args, **kwargs)

        return counted

    monkeypatch.setattr(train, "Trainer", Watched)
    monkeypatch.setattr(steps, "train_steps", counting("train", steps.train_steps))
    monkeypatch.setattr(steps, "eval_step", counting("eval", steps.eval_step))
    # Intervals of unequal length, a cut last one, batches and splits that do not divide.
    fields = fields | {
        "data__validation_fraction": fraction,
        "train__batch_size": 9,
        "train__eval_epochs": 2,
        "train__log_steps": 5,
        "train__eval_batch_size": 8,
    }
    config = small(**fields, train__epochs=7)
    train.run(config, tmp_path / "a", sources.from_array(images(), config))
    assert traced == {"train": 1, "eval": 1}
    assert (made[0]._train_steps._cache_size(), made[0]._eval_step._cache_size()) == (1, 1)
    # A run that is taken up from a checkpoint compiles each once too.
    train.run(small(**fields, train__epochs=9), tmp_path / "a", sources.from_array(images(), config))
    assert (made[1]._train_steps._cache_size(), made[1]._eval_step._cache_size()) == (1, 1)


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
    several = jax.jit(lambda s: steps.train_steps(s, data, rows, jnp.zeros(3, bool), experiment=run.experiment))
    after, found = several(run.init())
    once, _ = step(run, run.init(), steps.take(data, rows[0], run.experiment.shape))
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
        train.run(config, tmp_path / "a", sources.from_array(images(), config))
    one_line(error, "step ", leaf)
    assert error.value.exit_code == 3
    model = aejax.load(tmp_path / "a")
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(model.params))
    assert not (tmp_path / "a" / "results.json").exists()
    # The same command fails in the same way, from the checkpoint.
    with pytest.raises(NonFiniteError) as again:
        train.run(config, tmp_path / "a", sources.from_array(images(), config))
    assert str(again.value) == str(error.value)


def test_the_state_before_an_update_that_overflows_is_saved(tmp_path, monkeypatch):
    def overflows_at(step):
        def update(updates, state, params):
            factor = jnp.where(state.count == step, 1e38, 1.0)
            return jax.tree.map(lambda u: u * factor * factor, updates), optax.ScaleByScheduleState(state.count + 1)

        return optax.GradientTransformation(lambda _: optax.ScaleByScheduleState(jnp.zeros((), jnp.int32)), update)

    adam, at = optim.OPTIMIZERS["adam"], 8
    monkeypatch.setitem(optim.OPTIMIZERS, "adam", lambda lr, c: optax.chain(adam(lr, c), overflows_at(at)))
    config = small(train__epochs=5, train__log_steps=4, checkpoint__every_steps=6)
    data = sources.from_array(images(), config)
    for _ in range(2):  # the second time from the checkpoint
        with pytest.raises(NonFiniteError, match="step 8: not finite: update of decoder/layers_0/bias"):
            train.run(config, tmp_path / "a", data)
        at = -1
        run = train.Trainer(config, data, mesh.make(1))
        expected, _ = run.run(run.init(), 0, 8)
        assert_equal(aejax.load(tmp_path / "a").params, run.gather(expected).params)
        at = 8


@pytest.mark.parametrize("fields", [{"train__log_steps": 4}, {"optim__ema": 0.9, "checkpoint__every_steps": 6}])
def test_a_gradient_that_overflows_where_the_loss_does_not(tmp_path, fields):
    """Adam would take its square for infinite, and never again move the parameters that it is of."""
    raw = {"x_train": poisoned(), "x_test": poisoned()[:9]}
    raw["x_train"][40] = 1e18
    config = small(data__standardize=False, train__epochs=5, train__batch_size=10, **fields)
    data = dataset.build(raw, config)
    run = train.Trainer(config, data, mesh.make(1))
    (at,) = np.flatnonzero((run.feed.rows(0, 10) == 40).any(1))
    expected, _ = run.run(run.init(), 0, at) if at else (run.init(), None)
    with pytest.raises(NonFiniteError) as error:
        run.run(run.init(), 0, 10)
    one_line(error, "one of steps ", ": not finite: update of opt_state/0/nu/")
    with pytest.raises(NonFiniteError) as error:
        train.run(config, tmp_path / "a", data)
    one_line(error, f"step {at}: not finite: gradient of ", "the state before it is saved")
    assert_equal(aejax.load(tmp_path / "a").params, run.gather(expected.ema or expected.params))


def test_an_evaluation_that_is_not_finite_ends_the_run(tmp_path):
    raw = {"x_train": poisoned(), "x_test": poisoned(row=3)}
    config = small(data__standardize=False)
    with pytest.raises(NonFiniteError) as error:
        train.run(config, tmp_path / "a", dataset.build(raw, config))
    one_line(error, "step 3", "test reconstruction")
    assert not (tmp_path / "a" / "results.json").exists()


@pytest.mark.slow
def test_a_run_directory_is_complete(tmp_path):
    config = small(**VAE, figures__enabled=True, figures__grid=3, figures__examples=3, model__bottleneck__size=2,
                   data__validation_fraction=0.2)  # fmt: skip
    y = np.arange(100) % 3
    found = train.run(config, tmp_path / "a", sources.from_array(images(), config, y))
    names = {path.name for path in (tmp_path / "a").iterdir() if not path.name.startswith(".")}
    assert names == {
        "config.json", "data.json", "environment.json", "metrics.jsonl", "results.json", "report.html", "checkpoints",
        "figures", "tensorboard",
    }  # fmt: skip
    assert {path.stem for path in (tmp_path / "a" / "figures").glob("*.png")} == {
        "loss", "reconstructions", "codes", "filters", "grid", "samples",
    }  # fmt: skip
    assert {path.name for path in (tmp_path / "a" / "checkpoints").iterdir()} == {"last", "best"}
    assert found == json.loads((tmp_path / "a" / "results.json").read_text())
    assert {"test/loss", "test/reconstruction", "test/kl", "test/elbo", "test/squared_error", "test/pca_squared_error",
            "validation/loss", "parameters", "seconds", "examples_per_second"} <= set(found)  # fmt: skip
    lines = metrics(tmp_path / "a")
    assert {line["split"] for line in lines} == {"train", "validation", "test"}
    assert [line["step"] for line in lines] == sorted(line["step"] for line in lines)
    assert {"loss", "reconstruction", "kl", "gradient_norm", "parameter_norm", "learning_rate"} <= set(lines[0])
    assert list((tmp_path / "a" / "tensorboard").iterdir())


def test_the_best_checkpoint_is_of_the_lowest_validation_loss(tmp_path):
    # A rate so large that the loss rises after the first epoch.
    config = small(optim__learning_rate=0.3, train__epochs=3, data__validation_fraction=0.2)
    train.run(config, tmp_path / "a", sources.from_array(images(), config))
    losses = [line["loss"] for line in metrics(tmp_path / "a") if line["split"] == "validation"]
    best, last = (aejax.load(tmp_path / "a", checkpoint=name) for name in ("best", "last"))
    data = sources.from_array(images(), config)
    found = [m.score(data.validation["x"]).mean() for m in (best, last)]
    assert found == pytest.approx([min(losses), losses[-1]], rel=1e-4)
    assert np.argmin(losses) < len(losses) - 1


def test_refused_before_the_run_directory_is_made(tmp_path):
    for config, x in [
        (small(train__batch_size=81), images()),
        (small(mesh__data=99), images()),
        (small(objective__likelihood="bernoulli"), table()),
        (small(optim__accumulate=5), images()),
    ]:
        with pytest.raises(InputError) as error:
            train.run(config, tmp_path / "a", sources.from_array(x, config))
        one_line(error, "config.")
        assert not (tmp_path / "a").exists()


def test_a_workdir_of_another_config_or_other_data(tmp_path):
    path, config = tmp_path / "a", small()
    train.run(config, path, sources.from_array(images(), config))
    before = {file: file.read_bytes() for file in path.glob("*.json*")}
    with pytest.raises(InputError) as error:
        train.run(small(seed=1), path, sources.from_array(images(), config))
    one_line(error, str(path), "config.seed")
    with pytest.raises(InputError) as error:  # longer, but of another seed
        train.run(small(seed=1, train__epochs=3), path, sources.from_array(images(), config))
    one_line(error, str(path), "config.seed")
    with pytest.raises(InputError) as error:
        train.run(small(train__epochs=3), path, sources.from_array(images(seed=1), config))
    one_line(error, str(path), "data")
    with pytest.raises(InputError) as error:
        train.run(small(train__epochs=1), path, sources.from_array(images(), config))
    one_line(error, "config.train.epochs")
    assert before == {file: file.read_bytes() for file in path.glob("*.json*")}  # results.json among them


def test_workdirs_that_cannot_be_used(tmp_path):
    config = small()
    data = sources.from_array(images(), config)
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "full", "/proc/1/run"):
        with pytest.raises(InputError) as error:
            train.run(config, path, data)
        one_line(error, f"workdir {path}")
    assert [f.name for f in (tmp_path / "full").iterdir()] == ["thesis.tex"]


def test_one_process_at_a_time(tmp_path):
    from aejax import run_dir

    config = small()
    data = sources.from_array(images(), config)
    with run_dir.opened(tmp_path / "a", config, data.spec):
        for other in (config, small(checkpoint__every_steps=5)):  # the second replaces config.json
            with pytest.raises(InputError) as error, run_dir.opened(tmp_path / "a", other, data.spec):
                pass
            one_line(error, "another process")


def test_accumulation_and_batch_norm_together():
    run = trainer(small(model__encoder__norm="batch", optim__accumulate=2), images())
    state, found = run.run(run.init(), 0, 2)
    assert np.isfinite(found["loss"])
    assert dataclasses.is_dataclass(state)


def test_the_mesh_takes_the_devices_that_it_is_told():
    assert mesh.make(1).devices.size == 1
    assert mesh.round_up(mesh.make(1), 7) == 7


def test_results_are_those_of_evaluation(tmp_path):
    config = small(train__epochs=3)
    data = sources.from_array(images(), config)
    train.run(config, tmp_path / "a", data)
    last = [line for line in metrics(tmp_path / "a") if line["split"] == "test"][-1]
    found = results(tmp_path / "a")
    assert {f"test/{n}": v for n, v in last.items() if n not in ("step", "epoch", "split")}.items() <= found.items()
    flat = [split["x"].reshape(len(split["x"]), -1) / 255 for split in (data.train, data.test)]
    mean = flat[0].mean(0)
    axes = np.linalg.svd(flat[0] - mean, full_matrices=False)[2][:3]
    residual = (flat[1] - mean) - (flat[1] - mean) @ axes.T @ axes
    assert found["test/pca_squared_error"] == pytest.approx((residual**2).sum(1).mean(), rel=1e-4)


def test_static_binarisation_is_drawn_once():
    a, b = (trainer(small(**VAE, data__binarize="static"), images()) for _ in range(2))
    for name in ("train_data", "eval_data"):
        x = np.asarray(getattr(a, name)["x"])
        assert set(np.unique(x)) == {0, 255}
        np.testing.assert_array_equal(x, np.asarray(getattr(b, name)["x"]))
    drawn, grey = np.asarray(a.train_data["x"]).mean(), a.data.train["x"].mean()
    assert drawn == pytest.approx(grey, rel=0.05)
    train_x, _ = a.examples()
    np.testing.assert_array_equal(train_x.reshape(len(train_x), -1) * 255, np.asarray(a.train_data["x"]))
