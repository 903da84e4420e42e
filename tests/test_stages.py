"""Stages of pretraining, what is made of them, and runs of several stages that are stopped and changed."""

import json
import random
import shlex
import shutil
import time

import jax
import numpy as np
import pytest
from scipy.special import expit

import aejax
from aejax import config as config_lib
from aejax import experiment, export, prediction
from aejax import run as run_lib
from aejax.data import sources, stream
from aejax.page import report
from aejax.parallel import mesh
from aejax.storage import config_json
from aejax.storage.checkpoint import Checkpoints
from aejax.training import plan, stages
from aejax.training.trainer import Trainer
from common import assert_equal, change, command, finish, get_config, images, metrics, one_line, results, small, table

LABELS = np.arange(100) % 3
DIGESTS = {
    "stacked": "d4194b50",
    "stacked_denoising": "c5b7af5f",
    "stacked_rbm": "284f381f",
}  # in names of run directories


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
            data = stages.encode(stage_params(workdir, i), "sigmoid", data)
    run = Trainer(experiment.build(plan.stage(config, k), data.spec), data, mesh.make(1))
    with Checkpoints(workdir / "checkpoints" / f"stage_{k}" / "last", read_only=True) as checkpoints:
        return checkpoints.restore(checkpoints.latest(), run.init())[0].params


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of three stages that is only evaluated afterwards, and the parameters of its stages."""
    workdir = tmp_path_factory.mktemp("pretrain") / "run"
    config = stacked(finetune__name="none")
    found = run_lib.run(config, workdir, data_of(config))
    return workdir, found, [stage_params(workdir, k) for k in range(3)]


def dense(layer, x):
    return x @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"], np.float64)


@pytest.mark.slow
def test_a_stage_learns_from_the_codes_of_the_frozen_layers(finished):
    _, _, params = finished
    data = data_of(stacked())
    codes = data
    for stage in params[:2]:
        codes = stages.encode(stage, "sigmoid", codes)
    expected = data.test["x"].reshape(len(data.test["x"]), -1) / 255.0
    for stage in params[:2]:
        expected = expit(dense(stage["encoder"]["layers_0"], expected))
    np.testing.assert_allclose(codes.test["x"], expected, rtol=1e-5)
    assert codes.spec.x.shape == (4,)
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
    run_lib.run(config, tmp_path / "a", data)
    first = stage_params(tmp_path / "a", 0)
    whole = aejax.load(tmp_path / "a").params
    assert_equal(first["encoder"]["layers_0"], whole["encoder"]["layers_0"])
    # Frozen in the fine-tuning of a classifier, too; its last layer is trained.
    probe = stacked((6, 4), finetune__name="classifier", finetune__freeze=True, train__epochs=3)
    run_lib.run(probe, tmp_path / "b", data)
    tuned = aejax.load(tmp_path / "b").params
    assert_equal(whole["encoder"], tuned["encoder"])
    untrained = stacked((6, 4), finetune__name="classifier", train__epochs=3)
    run_lib.run(untrained, tmp_path / "c", data)
    other = aejax.load(tmp_path / "c").params
    assert (
        np.asarray(other["encoder"]["layers_0"]["kernel"]) != np.asarray(whole["encoder"]["layers_0"]["kernel"])
    ).any()


@pytest.mark.slow
def test_a_classifier_reports_its_error(tmp_path):
    config = stacked(finetune__name="classifier", train__epochs=2)
    x, y = images(), np.where(np.arange(100) % 7 == 0, -1, LABELS)  # some have no label
    data = sources.from_array(x, config, y)
    found = run_lib.run(config, tmp_path / "a", data)
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
    rows = stream.Rows(iter([stream.Batch(range(len(data.test["x"])), data.test["x"])]))
    prediction.write(model, rows, "probabilities", tmp_path / "p.csv")
    header, *rows = (tmp_path / "p.csv").read_text().splitlines()
    assert header.replace('"', "").split(",") == ["row", *data.spec.classes]
    np.testing.assert_allclose(np.loadtxt(rows, delimiter=",")[:, 1:], probabilities, rtol=1e-5)
    exported = jax.export.deserialize(export.export(model, "classify")).call
    np.testing.assert_allclose(exported(data.test["x"]), probabilities, rtol=1e-5)
    assert export.describe(model, "classify")["output"]["classes"] == list(data.spec.classes)


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
    run_lib.run(config, tmp_path / "a", data_of(config))
    assert_equal(aejax.load(tmp_path / "a").params["encoder"], aejax.load(workdir).params["encoder"])
    other = change(config.copy_and_resolve_references(), model__encoder__widths=(6, 5))
    with pytest.raises(ValueError, match="cannot be matched") as error:
        run_lib.run(other, tmp_path / "b", data_of(other))
    one_line(error, "encoder/layers_1/kernel (6, 4)", "encoder/layers_1/kernel (6, 5)", str(workdir))
    for field in ("model.encoder.activation", "model.code_activation"):
        other = change(config.copy_and_resolve_references(), **{field.replace(".", "__"): "tanh"})
        with pytest.raises(ValueError, match="init_from") as error:
            run_lib.run(other, tmp_path / "b", data_of(other))
        one_line(error, f"config.{field} = 'tanh'", "'sigmoid'", str(workdir))
    assert not (tmp_path / "b").exists()


@pytest.mark.slow
def test_init_from_asks_for_the_same_function_and_for_data_that_it_has_not_seen(tmp_path):
    rows = np.random.default_rng(0).standard_normal((60, 3))
    for name, columns in (("a", "p,q,r"), ("b", "r,q,p")):
        np.savetxt(tmp_path / f"{name}.csv", rows, delimiter=",", header=columns, comments="")
    source = f"csv:{tmp_path}/a.csv"
    begun = {"init_from": str(tmp_path / "run"), "train__batch_size": 8}
    run_lib.run(small(source, train__batch_size=8), tmp_path / "run")
    for changes, parts in (
        ({"data__standardize": False}, ["config.data.standardize = False: must be True"]),
        ({"data__split_seed": 1}, ["config.data.split_seed = 1: must be 0"]),
        ({"data__source": f"csv:{tmp_path}/b.csv"}, ["config.data.source", "b.csv", "columns"]),
    ):
        with pytest.raises(ValueError, match="init_from") as error:
            run_lib.run(small(**({"source": source} | begun | changes)), tmp_path / "b")
        one_line(error, *parts, str(tmp_path / "run"))
    run_lib.run(small(source, **begun), tmp_path / "c")


@pytest.mark.slow
def test_boltzmann_machines_learn_to_reconstruct(tmp_path):
    machine = {
        "pretrain__default__method__name": "contrastive",
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
        found[epochs] = run_lib.run(config, tmp_path / str(epochs), data_of(config))
    for name in ("stage_0/squared_error", "stage_1/squared_error", "test/squared_error"):
        assert found[30][name] < 0.8 * found[1][name], (name, found)


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
    run_lib.run(config, tmp_path / "start", data)
    begun = {"init_from": str(tmp_path / "start"), "finetune__name": "classifier"}
    found = run_lib.run(small(**conv, **begun, finetune__freeze=True), tmp_path / "a", data)
    assert 0 <= found["test/error"] <= 100
    assert_equal(aejax.load(tmp_path / "a").params["encoder"], aejax.load(tmp_path / "start").params["encoder"])
    np.testing.assert_allclose(aejax.load(tmp_path / "a").classify(data.test["x"]).sum(1), 1, rtol=1e-5)
    with pytest.raises(ValueError, match="downsample") as error:
        run_lib.run(small(**conv, **begun, model__conv__downsample="average"), tmp_path / "b", data)
    one_line(error, "'max'", str(tmp_path / "start"))
    few = {"data__labeled_examples": (12,), "train__batch_size": 4}
    with pytest.raises(ValueError, match="without labels") as error:
        run_lib.run(
            small(**conv, **few, finetune__name="classifier", init_from=str(tmp_path / "a")), tmp_path / "b", data
        )
    one_line(error, "config.init_from")


@pytest.mark.slow
def test_a_classifier_reads_the_mean_of_a_gaussian_code(tmp_path):
    gaussian = {"model__bottleneck__name": "gaussian", "objective__likelihood": "bernoulli"}
    data = sources.from_array(images(), small(**gaussian), LABELS)
    run_lib.run(small(**gaussian), tmp_path / "start", data)
    config = small(**gaussian, init_from=str(tmp_path / "start"), finetune__name="classifier")
    found = run_lib.run(config, tmp_path / "a", data)
    assert found["test/loss"] == pytest.approx(found["test/reconstruction"], rel=1e-6)  # no KL
    probabilities = aejax.load(tmp_path / "a").classify(data.test["x"])  # at the mean
    likelihood = np.log(probabilities[np.arange(len(probabilities)), data.test["y"]])
    assert found["test/loss"] == pytest.approx(-likelihood.mean(), rel=1e-5)


@pytest.mark.slow
def test_batch_statistics_are_not_left_behind(tmp_path):
    fields = {"model__encoder__norm": "batch"}
    data = sources.from_array(images(), small(**fields), LABELS)
    run_lib.run(small(**fields), tmp_path / "start", data)
    config = small(**fields, init_from=str(tmp_path / "start"), finetune__name="classifier")
    with pytest.raises(ValueError, match="init_from") as error:
        run_lib.run(config, tmp_path / "a", data)
    one_line(error, "statistics")


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
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
            {"pretrain__default__method__name": "contrastive", "pretrain__default__tied": False},
            ["stage_0.method.name = 'contrastive'", "tied"],
        ),
    ],
)
def test_bad_stages_are_one_line(tmp_path, fields, parts):
    config = stacked(**fields)
    with pytest.raises(ValueError, match="config") as error:
        run_lib.run(config, tmp_path / "a", data_of(config))
    one_line(error, *parts)
    assert not (tmp_path / "a").exists()


def test_stages_follow_the_widths():
    """A config has room for any number of stages; sections that are there already stay, as does the digest."""
    longer = plan.resolve(stacked((6, 4), pretrain__widths=(6, 4, 3), pretrain__default__tied=False))
    expected = plan.resolve(stacked(pretrain__default__tied=False))
    assert longer.to_dict() == expected.to_dict()
    assert config_json.from_json(config_json.to_json(longer)).to_dict() == expected.to_dict()
    assert config_lib.stage_sections(plan.resolve(stacked(pretrain__widths=(6,))).pretrain) == 3
    assert {name: config_lib.digest(plan.resolve(get_config(name))) for name in DIGESTS} == DIGESTS
    with pytest.raises(ValueError, match=r"config\.pretrain\.widths = \(6, 3\): needs .*stages\(config, 2\)"):
        plan.resolve(small(pretrain__widths=(6, 3)))


def test_stages_of_the_command_line():
    """configs/stacked.py has two."""
    shown = ["--config=stacked", "--config.pretrain.widths=20,10,5", "--print_config"]
    own = ["--config.pretrain.stage_2.objective.kl_sparse.weight=0.5", "--config.pretrain.default.epochs=7"]
    processes = [command(*shown, *own), command(*shown, "--config.pretrain.stage_3.epochs=7")]
    lines = finish(processes[0])[0].splitlines()
    for field, value in (
        ("model.bottleneck.size", 5),
        ("pretrain.stage_1.objective.kl_sparse.weight", 1.0),
        ("pretrain.stage_2.objective.kl_sparse.weight", 0.5),
        ("pretrain.stage_2.epochs", 7),
    ):
        assert any(line.startswith(f"{field} = {value} ") for line in lines), field
    _, err = finish(processes[1], code=2)
    assert (
        err
        == "aejax: --config.pretrain.stage_3.epochs: no such field; did you mean --config.pretrain.stage_2.epochs?\n"
    )


@pytest.mark.slow
def test_a_run_of_more_stages_than_its_file_has(tmp_path):
    epochs = ["--config.pretrain.default.epochs=1", "--config.train.epochs=1", "--config.pretrain.stage_2.tied=true"]
    finish(command("--config=stacked", "--config.pretrain.widths=20,10,5", *epochs, f"--workdir={tmp_path / 'a'}"))
    assert {f"stage_{k}/reconstruction" for k in range(3)} <= results(tmp_path / "a").keys()
    assert aejax.load(tmp_path / "a").code_shape == (5,)
    words = shlex.split(report.reproduce(aejax.load(tmp_path / "a").config))
    assert "--config.pretrain.widths=(20, 10, 5)" in words
    finish(command(*words[3:], f"--workdir={tmp_path / 'a'}"))  # refused if another config


def test_boltzmann_machines_need_examples_between_0_and_1(tmp_path):
    config = stacked(
        pretrain__stage_0__method__name="contrastive",
        pretrain__stage_0__objective__likelihood="squared_error",
        objective__likelihood="squared_error",
    )
    with pytest.raises(ValueError, match=r"method\.name = 'contrastive'.*\[0, 1\]"):
        run_lib.run(config, tmp_path / "a", sources.from_array(table(), config))


def test_a_classifier_needs_labels(tmp_path):
    config = stacked(finetune__name="classifier")
    with pytest.raises(ValueError, match="needs labels") as error:
        run_lib.run(config, tmp_path / "a", data_of(config, None))
    one_line(error)


@pytest.mark.slow
def test_a_stage_that_changed_is_named_and_trained_again_when_asked(tmp_path):
    config, path = stacked(), tmp_path / "a"
    data = data_of(config)
    run_lib.run(config, path, data)
    before = [stage_params(path, k) for k in range(3)]
    changed = stacked(pretrain__stage_1__optim__learning_rate=0.02)
    with pytest.raises(ValueError, match="stage 1") as error:
        run_lib.run(changed, path, data)
    one_line(error, "config.pretrain.stage_1.optim.learning_rate = 0.001, not 0.02", "--restart_stage=1")
    with pytest.raises(ValueError, match="--restart_stage=1"):
        run_lib.run(changed, path, data, restart_stage=2)
    run_lib.run(changed, path, data, restart_stage=1)
    after = [stage_params(path, k) for k in range(3)]
    assert_equal(before[0], after[0])
    assert (
        np.asarray(before[1]["encoder"]["layers_0"]["kernel"]) != np.asarray(after[1]["encoder"]["layers_0"]["kernel"])
    ).any()
    run_lib.run(changed, tmp_path / "b", data)
    assert metrics(path) == metrics(tmp_path / "b")
    assert results(path) == results(tmp_path / "b")
    # Fine-tuning is what follows the stages.
    tuned = stacked(pretrain__stage_1__optim__learning_rate=0.02, optim__learning_rate=0.01)
    with pytest.raises(ValueError, match="--restart_stage=3"):
        run_lib.run(tuned, path, data)


@pytest.mark.slow
def test_a_stage_is_taken_away_and_added_again(tmp_path):
    config, path = stacked(pretrain__widths=(6, 4)), tmp_path / "a"
    data, shorter = data_of(config), stacked(pretrain__widths=(6,))
    expected = run_lib.run(config, path, data)
    for other in (shorter, config):
        with pytest.raises(ValueError, match="restart_stage=1") as error:
            run_lib.run(other, path, data)
        one_line(error, "holds stage 1 with config.pretrain.widths" if other is config else "config.pretrain.widths")
        found = run_lib.run(other, path, data, restart_stage=1)
    assert found == pytest.approx(expected | {k: found[k] for k in ("seconds", "examples_per_second") if k in found})


@pytest.mark.slow
def test_a_restarted_stage_is_deleted_once(tmp_path, monkeypatch):
    config, path = stacked(), tmp_path / "a"
    data = data_of(config)
    run_lib.run(config, path, data)
    expected = results(path), metrics(path)
    ran = []
    original = Trainer.run

    def run(self, state, begin, end):
        ran.append(self.experiment.shape)
        if len(ran) == 3:  # the fine-tuning: stages 1 and 2 have been trained
            raise KeyboardInterrupt
        return original(self, state, begin, end)

    monkeypatch.setattr(Trainer, "run", run)
    with pytest.raises(KeyboardInterrupt):
        run_lib.run(config, path, data, restart_stage=1)
    assert ran[:2] == [(6,), (4,)]
    ran.clear()
    monkeypatch.setattr(Trainer, "run", original)
    counted = []
    monkeypatch.setattr(Trainer, "run", lambda self, *a: counted.append(self.experiment.shape) or original(self, *a))
    run_lib.run(config, path, data, restart_stage=1)
    assert set(counted) == {(6, 5, 1)}  # the stages are not trained a third time
    assert (results(path), metrics(path)) == expected


@pytest.mark.slow
def test_stages_of_another_run_are_refused(tmp_path):
    config = stacked()
    data = data_of(config)
    run_lib.run(config, tmp_path / "a", data)
    other = stacked(seed=1)
    run_lib.run(other, tmp_path / "b", data)
    shutil.rmtree(tmp_path / "a" / "checkpoints" / "stage_1")
    shutil.copytree(tmp_path / "b" / "checkpoints" / "stage_1", tmp_path / "a" / "checkpoints" / "stage_1")
    (tmp_path / "a" / "results.json").unlink()
    with pytest.raises(ValueError, match="--restart_stage=1") as error:
        run_lib.run(config, tmp_path / "a", data)
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


@pytest.mark.slow
@pytest.mark.optimized
def test_kills_in_every_stage_continue_bit_for_bit(uninterrupted, tmp_path):
    rng = random.Random(time.time_ns())
    for k in range(3):
        kill_at(tmp_path / "run", k * STEPS // 3 + rng.randint(1, STEPS // 3 - 5))
    finish(start(tmp_path / "run"))
    assert_same(tmp_path / "run", uninterrupted)


@pytest.mark.slow
@pytest.mark.optimized
def test_ten_kills_over_the_stages(uninterrupted, tmp_path):
    rng = random.Random(time.time_ns())
    for k in range(10):
        kill_at(tmp_path / "run", (k * STEPS + rng.randint(0, STEPS)) // 10)
    finish(start(tmp_path / "run"))
    assert_same(tmp_path / "run", uninterrupted)
