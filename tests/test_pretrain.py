"""Stages of pretraining, what is made of them, and runs of several stages that are stopped and changed."""

import itertools
import json
import random
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, log_softmax, logsumexp

import aejax
from aejax import apply, export, likelihoods, optim, pairs, penalties, plan, pretrain, train
from aejax import config as config_lib
from aejax.checkpoint import Checkpoints
from aejax.data import sources
from aejax.models import ACTIVATIONS, Code
from common import assert_equal, change, command, finish, images, metrics, one_line, results, small, table

LABELS = np.arange(100) % 3


def stacked(widths=(6, 4, 3), **fields):
    """Sigmoid stages of one epoch each, then one of fine-tuning."""
    config = config_lib.default("digits")
    config_lib.stages(config, len(widths))
    own = {
        "pretrain__widths": widths,
        "pretrain__default__epochs": 1,
        "pretrain__default__batch_size": 16,
        "model__encoder__activation": "sigmoid",
        "model__code_activation": "sigmoid",
        "train__epochs": 1,
        "train__batch_size": 16,
        "train__progress": False,
        "figures__enabled": False,
    }
    return change(config, **(own | fields))


def data_of(config, y=LABELS):
    return sources.from_array(images(), config, y)


def stage_params(workdir, k):
    """Parameters of a finished stage, as they lie in its checkpoint."""
    config = aejax.load(workdir).config
    data = data_of(config)
    if k:
        for i in range(k):
            data = pretrain.encode(stage_params(workdir, i), "sigmoid", data)
    run = train.Trainer(plan.stage(config, k), data, train.mesh_lib.make(1))
    with Checkpoints(workdir / "checkpoints" / f"stage_{k}" / "last", read_only=True) as checkpoints:
        return checkpoints.restore(checkpoints.latest(), run.init())[0].params


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of three stages that is only evaluated afterwards, and the parameters of its stages."""
    workdir = tmp_path_factory.mktemp("pretrain") / "run"
    config = stacked(finetune__name="none")
    found = train.run(config, workdir, data_of(config))
    return workdir, found, [stage_params(workdir, k) for k in range(3)]


def dense(layer, x):
    return x @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"], np.float64)


def test_a_stage_learns_from_the_codes_of_the_frozen_layers(finished):
    _, _, params = finished
    data = data_of(stacked())
    codes = data
    for stage in params[:2]:
        codes = pretrain.encode(stage, "sigmoid", codes)
    expected = data.test["x"].reshape(len(data.test["x"]), -1) / 255.0
    for stage in params[:2]:
        expected = expit(dense(stage["encoder"]["layers_0"], expected))
    np.testing.assert_allclose(codes.test["x"], expected, rtol=1e-5)
    assert codes.spec.shape == (4,)
    np.testing.assert_array_equal(codes.train["y"], data.train["y"])


def test_the_unrolled_model_is_the_stages_one_after_another(finished):
    workdir, _, params = finished
    x = data_of(stacked()).test["x"]
    h = x.reshape(len(x), -1) / 255.0
    for stage in params:
        h = expit(dense(stage["encoder"]["layers_0"], h))
    np.testing.assert_allclose(aejax.load(workdir).encode(x), h, rtol=1e-5)
    for stage in reversed(params):  # tied: the decoder's kernel is the encoder's, transposed
        kernel = np.asarray(stage["encoder"]["layers_0"]["kernel"], np.float64).T
        h = expit(h @ kernel + np.asarray(stage["decoder"]["layers_0"]["bias"]))
    np.testing.assert_allclose(aejax.load(workdir).reconstruct(x).reshape(len(x), -1), h, rtol=1e-5)


def test_stages_report_their_reconstruction(finished):
    workdir, found, _ = finished
    lines = [line for line in metrics(workdir) if line["split"] == "test"]
    assert [line["stage"] for line in lines] == ["stage_0", "stage_1", "stage_2"]
    assert [line["step"] for line in lines] == [5, 10, 15]
    for k, line in enumerate(lines):
        assert found[f"stage_{k}/reconstruction"] == line["reconstruction"]


@pytest.mark.slow
def test_lower_layers_stay_as_they_are_bit_for_bit(tmp_path):
    config = stacked((6, 4), finetune__name="none", finetune__patience=0)
    data = data_of(config)
    train.run(config, tmp_path / "a", data)
    first = stage_params(tmp_path / "a", 0)
    whole = aejax.load(tmp_path / "a").params
    assert_equal(first["encoder"]["layers_0"], whole["encoder"]["layers_0"])
    # Frozen in the fine-tuning of a classifier, too; its last layer is trained.
    probe = stacked((6, 4), finetune__name="classifier", finetune__freeze=True, train__epochs=3)
    train.run(probe, tmp_path / "b", data)
    tuned = aejax.load(tmp_path / "b").params
    assert_equal(whole["encoder"], tuned["encoder"])
    untrained = stacked((6, 4), finetune__name="classifier", train__epochs=3)
    train.run(untrained, tmp_path / "c", data)
    other = aejax.load(tmp_path / "c").params
    assert (
        np.asarray(other["encoder"]["layers_0"]["kernel"]) != np.asarray(whole["encoder"]["layers_0"]["kernel"])
    ).any()


def test_a_classifier_reports_its_error(tmp_path):
    config = stacked(finetune__name="classifier", train__epochs=2)
    x, y = images(), np.where(np.arange(100) % 7 == 0, -1, LABELS)  # some have no label
    data = sources.from_array(x, config, y)
    found = train.run(config, tmp_path / "a", data)
    model = aejax.load(tmp_path / "a")
    known = data.test["y"] >= 0
    probabilities = model.classify(data.test["x"])
    assert found["test/error"] == pytest.approx(100 * (probabilities.argmax(1) != data.test["y"])[known].mean())
    log = np.log(probabilities)[np.arange(len(known)), data.test["y"]]
    assert found["test/reconstruction"] == pytest.approx(-(log * known).mean(), rel=1e-5)
    for use in (model.reconstruct, model.score):
        with pytest.raises(ValueError, match="classify"):
            use(data.test["x"])
    # The same from the command line, and without aejax.
    apply.write(model, [data.test["x"]], "probabilities", tmp_path / "p.csv")
    header, *rows = (tmp_path / "p.csv").read_text().splitlines()
    assert header.replace('"', "").split(",") == list(data.spec.classes)
    np.testing.assert_allclose(np.loadtxt(rows, delimiter=","), probabilities, rtol=1e-5)
    exported = jax.export.deserialize(export.export(model, "classify")).call
    np.testing.assert_allclose(exported(data.test["x"]), probabilities, rtol=1e-5)
    assert export.describe(model, "classify")["output"]["classes"] == list(data.spec.classes)


def test_categorical_equals_its_definition():
    rng = np.random.default_rng(0)
    t, r = rng.integers(0, 4, (3, 5)).astype(np.float64), rng.standard_normal((3, 5))
    expected = -(t * log_softmax(r, axis=-1)).sum(-1)
    found = likelihoods.categorical(jnp.asarray(t, jnp.float32), jnp.asarray(r, jnp.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_labels_become_one_hot_and_unlabelled_examples_have_no_weight():
    example = pairs.label(None, {"x": jnp.zeros((3, 2)), "y": jnp.asarray([1, -1, 0])}, classes=2)
    np.testing.assert_array_equal(example.target, [[0, 1], [0, 0], [1, 0]])
    np.testing.assert_array_equal(example.weight, [[1], [0], [1]])


def machine(units, *, binary=True, n=5, d=4, dtype=np.float64):
    """A context of a restricted Boltzmann machine with random parameters and inputs."""
    rng = np.random.default_rng(1)
    params = {
        "encoder": {"layers_0": {"kernel": rng.standard_normal((d, units)), "bias": rng.standard_normal(units)}},
        "decoder": {"layers_0": {"bias": rng.standard_normal(d)}},
    }
    v = jnp.asarray(rng.uniform(size=(n, d)), dtype)
    code = Code(jnp.zeros((n, units)), jnp.zeros((n, units)), {}, (), None)
    activation = ACTIVATIONS["sigmoid" if binary else "identity"]
    context = penalties.Context(lambda x: code, pairs.Example(v, v), code, jax.tree.map(jnp.asarray, params),
                                jax.random.key(3), jnp.zeros(()), activation=activation)  # fmt: skip
    return context, params, np.asarray(v)


def gibbs(params, v, keys, *, binary):
    """v after a step for each key: hidden units drawn, visible ones at their mean."""
    w, c, b = (
        params["encoder"]["layers_0"]["kernel"],
        params["encoder"]["layers_0"]["bias"],
        params["decoder"]["layers_0"]["bias"],
    )
    for key in keys:
        a = v @ w + c
        h = (
            jax.random.bernoulli(key, jnp.asarray(expit(a)))
            if binary
            else a + np.asarray(jax.random.normal(key, a.shape))
        )
        v = expit(np.asarray(h, np.float64) @ w.T + b)
    return v


@pytest.mark.parametrize("binary", [True, False])
def test_the_free_energy_sums_out_the_hidden_units(binary):
    with jax.enable_x64(True):
        context, params, v = machine(3, binary=binary)
        last = gibbs(params, v, jax.random.split(jax.random.key(3), 2), binary=binary)
        w, c, b = (
            params["encoder"]["layers_0"]["kernel"],
            params["encoder"]["layers_0"]["bias"],
            params["decoder"]["layers_0"]["bias"],
        )

        def energy(v):
            if binary:  # −log Σ_h exp(b·v + c·h + v W h) over every h
                states = np.array(list(itertools.product((0, 1), repeat=3)))
                return -v @ b - logsumexp(states @ (v @ w + c).T, axis=0)
            # −log ∫ exp(b·v + a·h − h²/2) dh, by quadrature, without the constant ½ log 2π of each unit
            grid = np.linspace(-30, 30, 20001)
            a = v @ w + c
            integral = np.trapezoid(np.exp(a[..., None] * grid - grid**2 / 2 - a[..., None] ** 2 / 2), grid)
            return -v @ b - (np.log(integral) + a**2 / 2 - 0.5 * np.log(2 * np.pi)).sum(-1)

        found = penalties.contrastive_divergence(context, gibbs=2)
        np.testing.assert_allclose(found, energy(v) - energy(last), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("binary", [True, False])
def test_the_gradient_is_contrastive_divergence(binary):
    with jax.enable_x64(True):
        context, params, v = machine(3, binary=binary)
        last = gibbs(params, v, jax.random.split(jax.random.key(3), 1), binary=binary)

        def loss(params):
            return penalties.contrastive_divergence(context._replace(params=params), gibbs=1).mean()

        found = jax.grad(loss)(context.params)

        def hidden(v):
            a = v @ params["encoder"]["layers_0"]["kernel"] + params["encoder"]["layers_0"]["bias"]
            return expit(a) if binary else a

        n = len(v)
        expected = (last.T @ hidden(last) - v.T @ hidden(v)) / n  # ⟨v h⟩ of the model minus that of the data
        np.testing.assert_allclose(found["encoder"]["layers_0"]["kernel"], expected, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(
            found["encoder"]["layers_0"]["bias"], (hidden(last) - hidden(v)).mean(0), rtol=1e-8, atol=1e-10
        )
        np.testing.assert_allclose(found["decoder"]["layers_0"]["bias"], (last - v).mean(0), rtol=1e-8, atol=1e-10)


@pytest.mark.slow
def test_boltzmann_machines_learn_to_reconstruct(tmp_path):
    machine = {
        "pretrain__default__objective__reconstruction__weight": 0.0,
        "pretrain__default__objective__contrastive_divergence__weight": 1.0,
        "pretrain__default__optim__name": "sgd",
        "pretrain__default__optim__learning_rate": 0.1,
        "pretrain__stage_1__code_activation": "identity",
        "pretrain__stage_1__optim__learning_rate": 0.01,
        "model__code_activation": "identity",
        "finetune__name": "none",
    }
    found = {}
    for epochs in (1, 30):
        config = stacked((8, 3), **machine, pretrain__default__epochs=epochs)
        found[epochs] = train.run(config, tmp_path / str(epochs), data_of(config))
    for name in ("stage_0/squared_error", "stage_1/squared_error", "test/squared_error"):
        assert found[30][name] < 0.8 * found[1][name], (name, found)


def test_layer_rates_fall_from_the_top_down():
    layers = {f"layers_{k}": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)} for k in range(11)}
    params = {"encoder": layers, "decoder": {"layers_0": {"bias": jnp.ones(2)}}}
    for decay in (0.5, 0.0):
        scaled, _ = optim.layer_rates(decay).update(params, None)
        for k in range(11):
            np.testing.assert_allclose(scaled["encoder"][f"layers_{k}"]["kernel"], np.full((2, 2), decay ** (11 - k)))
        np.testing.assert_array_equal(scaled["decoder"]["layers_0"]["bias"], np.ones(2))


def test_layer_rates_know_the_order_of_convolutional_and_dense_layers():
    leaf = {"kernel": jnp.ones(())}
    params = {"encoder": {"blocks_0": leaf, "blocks_1": leaf, "activations_0": {"LayerNorm_0": {"scale": jnp.ones(())}},
                          "dense": {"layers_0": leaf}}}  # fmt: skip
    scaled, _ = optim.layer_rates(0.5).update(params, None)
    found = scaled["encoder"]
    assert float(found["dense"]["layers_0"]["kernel"]) == 0.5
    assert float(found["blocks_1"]["kernel"]) == 0.25
    assert float(found["blocks_0"]["kernel"]) == float(found["activations_0"]["LayerNorm_0"]["scale"]) == 0.125


@pytest.mark.optimized
def test_early_stopping_keeps_the_best_state(tmp_path):
    fields = {
        "finetune__patience": 3,
        "data__validation_fraction": 0.3,
        "train__epochs": 60,
        "train__eval_epochs": 1,
        "optim__learning_rate": 0.1,
    }
    config = small(**fields)
    data = sources.from_array(images(60), config)
    train.run(config, tmp_path / "a", data)
    losses = [line["loss"] for line in metrics(tmp_path / "a") if line["split"] == "validation"]
    best = int(np.argmin(losses))
    assert len(losses) == best + 1 + 3 < 60
    assert results(tmp_path / "a")["epochs"] == best + 1
    assert results(tmp_path / "a")["validation/loss"] == pytest.approx(losses[best], rel=1e-6)
    assert_equal(aejax.load(tmp_path / "a").params, aejax.load(tmp_path / "a", "best").params)
    # Begun again after its last save, the run ends at the same place.
    (tmp_path / "a" / "results.json").unlink()
    train.run(config, tmp_path / "a", data)
    assert results(tmp_path / "a")["validation/loss"] == pytest.approx(losses[best], rel=1e-6)
    assert len([line for line in metrics(tmp_path / "a") if line["split"] == "validation"]) == len(losses)
    # What it holds is not its last state, so that it cannot be trained longer.
    with pytest.raises(ValueError, match="holds a run") as error:
        train.run(small(**fields | {"train__epochs": 80}), tmp_path / "a", data)
    one_line(error, "config.train.epochs = 60, not 80")


def test_init_from_starts_with_the_encoder_of_another_run(finished, tmp_path):
    workdir, _, _ = finished
    own = {
        "encoder__widths": (6, 4),
        "bottleneck__size": 3,
        "encoder__activation": "sigmoid",
        "code_activation": "sigmoid",
    }
    own = {f"model__{name}": value for name, value in own.items()}
    config = small(**own, init_from=str(workdir), finetune__name="none")
    train.run(config, tmp_path / "a", data_of(config))
    assert_equal(aejax.load(tmp_path / "a").params["encoder"], aejax.load(workdir).params["encoder"])
    other = change(config.copy_and_resolve_references(), model__encoder__widths=(6, 5))
    with pytest.raises(ValueError, match="cannot be matched") as error:
        train.run(other, tmp_path / "b", data_of(other))
    one_line(error, "encoder/layers_1/kernel (6, 4)", "encoder/layers_1/kernel (6, 5)", str(workdir))
    for field in ("model.encoder.activation", "model.code_activation"):
        other = change(config.copy_and_resolve_references(), **{field.replace(".", "__"): "tanh"})
        with pytest.raises(ValueError, match="init_from") as error:
            train.run(other, tmp_path / "b", data_of(other))
        one_line(error, f"config.{field} = 'tanh'", "'sigmoid'", str(workdir))
    assert not (tmp_path / "b").exists()


def test_init_from_asks_for_the_same_function_and_for_data_that_it_has_not_seen(tmp_path):
    rows = np.random.default_rng(0).standard_normal((60, 3))
    for name, columns in (("a", "p,q,r"), ("b", "r,q,p")):
        np.savetxt(tmp_path / f"{name}.csv", rows, delimiter=",", header=columns, comments="")
    source = f"csv:{tmp_path}/a.csv"
    begun = {"init_from": str(tmp_path / "run"), "train__batch_size": 8}
    train.run(small(source, train__batch_size=8), tmp_path / "run")
    for changes, parts in (
        ({"data__standardize": False}, ["config.data.standardize = False: must be True"]),
        ({"data__split_seed": 1}, ["config.data.split_seed = 1: must be 0"]),
        ({"data__source": f"csv:{tmp_path}/b.csv"}, ["config.data.source", "b.csv", "columns"]),
    ):
        with pytest.raises(ValueError, match="init_from") as error:
            train.run(small(**({"source": source} | begun | changes)), tmp_path / "b")
        one_line(error, *parts, str(tmp_path / "run"))
    train.run(small(source, **begun), tmp_path / "c")


@pytest.mark.slow
@pytest.mark.parametrize("size", [0, 3])
def test_a_convolutional_encoder_becomes_a_classifier(tmp_path, size):
    conv = {
        "model__name": "conv",
        "model__conv__channels": (3, 4),
        "model__encoder__widths": (),
        "model__bottleneck__size": size,
    }
    config = small(**conv, objective__likelihood="bernoulli")
    data = sources.from_array(images(), config, LABELS)
    train.run(config, tmp_path / "start", data)
    begun = {"init_from": str(tmp_path / "start"), "finetune__name": "classifier"}
    found = train.run(small(**conv, **begun, finetune__freeze=True), tmp_path / "a", data)
    assert 0 <= found["test/error"] <= 100
    assert_equal(aejax.load(tmp_path / "a").params["encoder"], aejax.load(tmp_path / "start").params["encoder"])
    np.testing.assert_allclose(aejax.load(tmp_path / "a").classify(data.test["x"]).sum(1), 1, rtol=1e-5)
    with pytest.raises(ValueError, match="downsample") as error:
        train.run(small(**conv, **begun, model__conv__downsample="average"), tmp_path / "b", data)
    one_line(error, "'max'", str(tmp_path / "start"))
    few = {"data__labeled_examples": (12,), "train__batch_size": 4}
    with pytest.raises(ValueError, match="without labels") as error:
        train.run(
            small(**conv, **few, finetune__name="classifier", init_from=str(tmp_path / "a")), tmp_path / "b", data
        )
    one_line(error, "config.init_from")


@pytest.mark.slow
def test_a_classifier_reads_the_mean_of_a_gaussian_code(tmp_path):
    gaussian = {"model__bottleneck__name": "gaussian", "objective__likelihood": "bernoulli"}
    data = sources.from_array(images(), small(**gaussian), LABELS)
    train.run(small(**gaussian), tmp_path / "start", data)
    config = small(**gaussian, init_from=str(tmp_path / "start"), finetune__name="classifier")
    found = train.run(config, tmp_path / "a", data)
    assert found["test/loss"] == pytest.approx(found["test/reconstruction"], rel=1e-6)  # no KL
    probabilities = aejax.load(tmp_path / "a").classify(data.test["x"])  # at the mean
    likelihood = np.log(probabilities[np.arange(len(probabilities)), data.test["y"]])
    assert found["test/loss"] == pytest.approx(-likelihood.mean(), rel=1e-5)


def test_batch_statistics_are_not_left_behind(tmp_path):
    fields = {"model__encoder__norm": "batch"}
    data = sources.from_array(images(), small(**fields), LABELS)
    train.run(small(**fields), tmp_path / "start", data)
    config = small(**fields, init_from=str(tmp_path / "start"), finetune__name="classifier")
    with pytest.raises(ValueError, match="init_from") as error:
        train.run(config, tmp_path / "a", data)
    one_line(error, "statistics")


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"pretrain__widths": (6, 4, 3, 2)}, ["pretrain.widths", "at most the 3 stages"]),
        ({"pretrain__widths": (6, 0, 3)}, ["pretrain.widths", "at least 1"]),
        ({"pretrain__stage_1__code_activation": "relu"}, ["stage_1.code_activation", "'sigmoid'"]),
        ({"pretrain__stage_2__optim__learning_rate": -1.0}, ["pretrain.stage_2.optim.learning_rate = -1.0", "than 0"]),
        ({"pretrain__stage_1__pair__name": "label"}, ["stage_1.pair.name", "reconstruct or denoise"]),
        ({"pretrain__default__batch_size": 1000}, ["config.pretrain.stage_0.batch_size = 1000", "80"]),
        ({"model__name": "conv"}, ["pretrain.widths", "mlp"]),
        ({"init_from": "elsewhere"}, ["init_from", "pretrain.widths"]),
        ({"finetune__freeze": True}, ["finetune.freeze", "classifier"]),
        ({"finetune__patience": 2}, ["finetune.patience", "validation_fraction"]),
        ({"finetune__layer_decay": 1.5}, ["finetune.layer_decay", "(0, 1]"]),
        ({"finetune__name": "encoder"}, ["finetune.name", "autoencoder, classifier, none"]),
        ({"objective__likelihood": "categorical", "pretrain__widths": ()}, ["objective.likelihood", "label"]),
        ({"pair__input": "log"}, ["pair.input", "stages"]),
        (
            {"pretrain__stage_1__objective__likelihood": "categorical", "finetune__name": "classifier"},
            ["stage_1.objective.likelihood", "counts"],
        ),
        ({"pretrain__stage_1__objective__likelihood": "squared_error"}, ["must be bernoulli", "decoder.activation"]),
        ({"objective__likelihood": "squared_error"}, ["stage_0.objective.likelihood", "not be bernoulli"]),
        ({"model__decoder__widths": (5, 6)}, ["model.decoder.widths", "(4, 6)"]),
        ({"data__binarize": "static"}, ["data.binarize", "none or dynamic"]),
        ({"pretrain__stage_1__optim__warmup_steps": 9}, ["pretrain.stage_1.optim.warmup_steps = 9", "5 steps"]),
        (
            {"pretrain__default__objective__contrastive_divergence__weight": 1.0, "pretrain__default__tied": False},
            ["stage_0.objective.contrastive_divergence.weight = 1.0", "tied"],
        ),
    ],
)
def test_bad_stages_are_one_line(tmp_path, fields, parts):
    config = stacked(**fields)
    with pytest.raises(ValueError, match="config") as error:
        train.run(config, tmp_path / "a", data_of(config))
    one_line(error, *parts)
    assert not (tmp_path / "a").exists()


def test_boltzmann_machines_need_examples_between_0_and_1(tmp_path):
    config = stacked(**{f"pretrain__stage_0__objective__{k}": v for k, v in {
        "reconstruction__weight": 0.0, "contrastive_divergence__weight": 1.0, "likelihood": "squared_error"}.items()},
        objective__likelihood="squared_error")  # fmt: skip
    with pytest.raises(ValueError, match=r"contrastive_divergence.*\[0, 1\]"):
        train.run(config, tmp_path / "a", sources.from_array(table(), config))


def test_a_classifier_needs_labels(tmp_path):
    config = stacked(finetune__name="classifier")
    with pytest.raises(ValueError, match="needs labels") as error:
        train.run(config, tmp_path / "a", data_of(config, None))
    one_line(error)


@pytest.mark.slow
def test_a_stage_that_changed_is_named_and_trained_again_when_asked(tmp_path):
    config, path = stacked(), tmp_path / "a"
    data = data_of(config)
    train.run(config, path, data)
    before = [stage_params(path, k) for k in range(3)]
    changed = stacked(pretrain__stage_1__optim__learning_rate=0.02)
    with pytest.raises(ValueError, match="stage 1") as error:
        train.run(changed, path, data)
    one_line(error, "config.pretrain.stage_1.optim.learning_rate = 0.001, not 0.02", "--restart_stage=1")
    with pytest.raises(ValueError, match="--restart_stage=1"):
        train.run(changed, path, data, restart_stage=2)
    train.run(changed, path, data, restart_stage=1)
    after = [stage_params(path, k) for k in range(3)]
    assert_equal(before[0], after[0])
    assert (
        np.asarray(before[1]["encoder"]["layers_0"]["kernel"]) != np.asarray(after[1]["encoder"]["layers_0"]["kernel"])
    ).any()
    train.run(changed, tmp_path / "b", data)
    assert metrics(path) == metrics(tmp_path / "b")
    assert results(path) == results(tmp_path / "b")
    # Fine-tuning is what follows the stages.
    tuned = stacked(pretrain__stage_1__optim__learning_rate=0.02, optim__learning_rate=0.01)
    with pytest.raises(ValueError, match="--restart_stage=3"):
        train.run(tuned, path, data)


@pytest.mark.parametrize(
    ("field", "value", "first"),
    [
        ("model.encoder.dropout", 0.5, 3),
        ("optim.learning_rate", 0.1, 3),
        ("train.epochs", 5, 3),
        ("train.batch_size", 20, 3),
        ("finetune.name", "classifier", 3),
        ("objective.l1.weight", 1.0, 3),
        ("data.labeled_examples", (20,), 3),
        ("few_labels.folds", 3, 3),
        ("evaluate.units", True, 3),
        ("name", "other", 3),
        ("pretrain.stage_1.optim.learning_rate", 0.1, 1),
        ("pretrain.stage_2.epochs", 3, 2),
        ("train.log_steps", 7, 0),
        ("data.test_fraction", 0.3, 0),
        ("model.dtype", "bfloat16", 0),
        ("seed", 1, 0),
    ],
)
def test_the_stage_that_a_field_determines_is_the_first_whose_digest_it_changes(field, value, first):
    config = plan.resolve(stacked())
    other = plan.resolve(stacked(**{field.replace(".", "__"): value}))
    assert plan.first_stage(field, config_lib.get(config, field), value, 3) == first
    changed = [pretrain.digest(config, k, "") != pretrain.digest(other, k, "") for k in range(3)]
    assert changed == [k >= first for k in range(3)]


def test_stages_more_or_fewer_begin_after_those_that_are_the_same():
    assert plan.first_stage("pretrain.widths", [6, 4], [6, 4, 3], 3) == 2
    assert plan.first_stage("pretrain.widths", [6, 4, 3], [6], 1) == 1
    assert plan.first_stage("pretrain.widths", [6, 4, 3], [5, 4, 3], 3) == 0


@pytest.mark.slow
def test_a_stage_is_taken_away_and_added_again(tmp_path):
    config, path = stacked(pretrain__widths=(6, 4)), tmp_path / "a"
    data, shorter = data_of(config), stacked(pretrain__widths=(6,))
    expected = train.run(config, path, data)
    for other in (shorter, config):
        with pytest.raises(ValueError, match="restart_stage=1") as error:
            train.run(other, path, data)
        one_line(error, "holds stage 1 with config.pretrain.widths" if other is config else "config.pretrain.widths")
        found = train.run(other, path, data, restart_stage=1)
    assert found == pytest.approx(expected | {k: found[k] for k in ("seconds", "examples_per_second") if k in found})


@pytest.mark.slow
def test_a_restarted_stage_is_deleted_once(tmp_path, monkeypatch):
    config, path = stacked(), tmp_path / "a"
    data = data_of(config)
    train.run(config, path, data)
    expected = results(path), metrics(path)
    ran = []
    original = train.Trainer.run

    def run(self, state, begin, end):
        ran.append(self.experiment.shape)
        if len(ran) == 3:  # the fine-tuning: stages 1 and 2 have been trained
            raise KeyboardInterrupt
        return original(self, state, begin, end)

    monkeypatch.setattr(train.Trainer, "run", run)
    with pytest.raises(KeyboardInterrupt):
        train.run(config, path, data, restart_stage=1)
    assert ran[:2] == [(6,), (4,)]
    ran.clear()
    monkeypatch.setattr(train.Trainer, "run", original)
    counted = []
    monkeypatch.setattr(
        train.Trainer, "run", lambda self, *a: counted.append(self.experiment.shape) or original(self, *a)
    )
    train.run(config, path, data, restart_stage=1)
    assert set(counted) == {(6, 5, 1)}  # the stages are not trained a third time
    assert (results(path), metrics(path)) == expected


@pytest.mark.slow
def test_stages_of_another_run_are_refused(tmp_path):
    config = stacked()
    data = data_of(config)
    train.run(config, tmp_path / "a", data)
    other = stacked(seed=1)
    train.run(other, tmp_path / "b", data)
    shutil.rmtree(tmp_path / "a" / "checkpoints" / "stage_1")
    shutil.copytree(tmp_path / "b" / "checkpoints" / "stage_1", tmp_path / "a" / "checkpoints" / "stage_1")
    (tmp_path / "a" / "results.json").unlink()
    with pytest.raises(ValueError, match="--restart_stage=1") as error:
        train.run(config, tmp_path / "a", data)
    one_line(error, "stage_1")


RUN = [
    "--config=configs/stacked.py",
    "--config.pretrain.widths=20,10",
    "--config.pretrain.default.epochs=6",
    "--config.pretrain.stage_1.pair.name=denoise",
    "--config.train.epochs=6",
    "--config.train.log_steps=3",
    "--config.checkpoint.every_steps=11",
    "--config.figures.enabled=false",
]
STEPS = 3 * 6 * 11


def start(workdir):
    return command(*RUN, f"--workdir={workdir}")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "uninterrupted"
    finish(start(workdir))
    assert max(line["step"] for line in metrics(workdir)) == STEPS
    return workdir


def reached(workdir):
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines()[:-1] if path.exists() else []
    return max((json.loads(line)["step"] for line in lines), default=0)


def kill_at(workdir, step):
    """Start the command, and kill it once its metrics have reached a step."""
    process = start(workdir)
    end = time.monotonic() + 300
    while process.poll() is None and reached(workdir) < step:
        assert time.monotonic() < end
        time.sleep(0.001)
    process.kill()
    process.communicate()


def assert_same(workdir, uninterrupted):
    assert metrics(workdir) == metrics(uninterrupted)
    assert results(workdir) == results(uninterrupted)
    a, b = aejax.load(workdir), aejax.load(uninterrupted)
    assert_equal(a.params, b.params)


def test_kills_in_every_stage_continue_bit_for_bit(uninterrupted, tmp_path):
    rng = random.Random(time.time_ns())
    for k in range(3):
        kill_at(tmp_path / "run", k * STEPS // 3 + rng.randint(1, STEPS // 3 - 5))
    finish(start(tmp_path / "run"))
    assert_same(tmp_path / "run", uninterrupted)


@pytest.mark.slow
def test_ten_kills_over_the_stages(uninterrupted, tmp_path):
    rng = random.Random(time.time_ns())
    for k in range(10):
        kill_at(tmp_path / "run", (k * STEPS + rng.randint(0, STEPS)) // 10)
    finish(start(tmp_path / "run"))
    assert_same(tmp_path / "run", uninterrupted)
