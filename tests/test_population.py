"""Many models in one program: each equals a run of its own, and a population is a run directory of run directories."""

import random
import shutil
import time

import jax
import numpy as np
import pandas as pd
import pytest

import aejax
from aejax import config as config_lib
from aejax import experiment, population, prediction
from aejax import run as run_lib
from aejax.data import sources, stream
from aejax.errors import NonFiniteError, Stopped
from aejax.page import comparison
from aejax.parallel import mesh
from aejax.storage import run_dir, saved
from aejax.training import members, plan
from aejax.training.population import Group, program
from aejax.training.trainer import Trainer
from common import VAE, assert_equal, command, finish, images, metrics, one_line, results, small, table, without_clock
from test_mesh import execute

DENOISE = {"pair__name": "denoise", "model__encoder__dropout": 0.1, "optim__name": "adamw", "optim__weight_decay": 0.1}
SETTINGS = {
    "denoise": (DENOISE, [{}, {"optim__learning_rate": 3e-3}, {"model__encoder__dropout": 0.4},
                          {"pair__denoise__level": 0.5, "optim__weight_decay": 0.01, "seed": 7}]),
    "vae": (VAE | {"data__binarize": "dynamic"}, [{"seed": 3}, {"objective__kl__weight": 0.3}]),
    "conv": ({"model__name": "conv", "model__conv__channels": (4,), "model__encoder__widths": (),
              "model__encoder__norm": "batch", "optim__schedule": "cosine", "optim__warmup_steps": 5},
             [{}, {"seed": 1}, {"optim__learning_rate": 3e-3}]),
    "adversarial": ({"method__name": "adversarial"}, [{}, {"seed": 1}]),
    "contractive": ({"objective__contractive__weight": 0.1, "model__code_activation": "sigmoid", "optim__ema": 0.9},
                    [{}, {"objective__contractive__weight": 1.0}]),
}  # fmt: skip


def group_of(base, changes, x=None, y=None):
    configs = [plan.resolve(config_lib.changed(base, change)) for change in changes]
    data = sources.from_array(images() if x is None else x, configs[0], y)
    return Group([experiment.build(config, data.spec) for config in configs], [data] * len(configs)), data


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_each_member_equals_the_run_alone(name):
    fields, changes = SETTINGS[name]
    group, data = group_of(small(**fields, train__epochs=10, train__log_steps=1), changes)
    states, losses = group.init(), []
    for step in range(20):
        states, lines = group.run(states, step, step + 1)
        losses.append([line["loss"] for line in lines])
    assert group._advance._cache_size() == 1
    evaluated = group.evaluate(states, "test")
    for m, own in enumerate(group.experiments):
        alone = Trainer(own, data, mesh.make(1))
        state, expected = alone.init(), []
        for step in range(20):
            state, line = alone.run(state, step, step + 1)
            expected.append(line["loss"])
        np.testing.assert_allclose(np.array(losses)[:, m], expected, rtol=1e-5)
        assert evaluated[m] == pytest.approx(alone.evaluate(state, "test"), rel=1e-4)


@pytest.mark.slow
def test_settings_of_one_program_are_compiled_once():
    rates, weights = (1e-3, 2e-3, 3e-3), (0.1, 0.5, 1.0, 2.0)
    changes = [{"optim__learning_rate": rate, "objective__kl__weight": weight} for rate in rates for weight in weights]
    group, data = group_of(small(**VAE, train__epochs=2), changes)
    states = group.init()
    for start, end in group.intervals(0):
        states, _ = group.run(states, start, end)
    assert group._advance._cache_size() == 1
    weights = [small(objective__l1__weight=weight) for weight in (0.0, 0.1, 0.2)]
    programs = [program(experiment.build(plan.resolve(config), data.spec)) for config in weights]
    assert members.groups(programs, 99) == [[0], [1, 2]]  # without the penalty it is another program
    assert members.groups(["a"] * 7 + ["b"], 3) == [[0, 1, 2], [3, 4, 5], [6], [7]]


def swept(**fields):
    return small(
        train__epochs=3,
        data__validation_fraction=0.1,
        population__seeds=(2,),
        population__sweep=("optim.learning_rate=0.001,0.003",),
        **fields,
    )


def test_a_population_is_a_run_directory_of_runs(tmp_path, capsys):
    config = swept(model__encoder__widths=(8,), figures__enabled=True)
    data = sources.from_array(images(), config)
    found = population.run(config, tmp_path / "p", data)
    rows = pd.read_parquet(tmp_path / "p" / "members.parquet")
    assert list(rows["optim.learning_rate"]) == [0.001, 0.001, 0.003, 0.003]
    assert list(rows.seed) == [0, 1, 0, 1]
    assert found["members"] == 4
    assert found["test/loss"] == pytest.approx(rows["test/loss"].mean())
    assert found["test/loss_std"] == pytest.approx(rows["test/loss"].std())
    assert found["best_member"] == rows["validation/loss"].argmin()
    assert results(tmp_path / "p") == without_clock(found)
    assert (tmp_path / "p" / "report.html").is_file()
    assert (tmp_path / "p" / "figures" / "population.png").is_file()
    assert not list((tmp_path / "p" / "checkpoints").iterdir())
    groups = comparison.grouped(comparison.read([tmp_path / "p"]))
    assert [group.name for group in groups] == ["p/0 +1", "p/2 +1"]
    assert groups[1].mean("test/loss") == pytest.approx(rows["test/loss"][2:].mean())
    alone = small(train__epochs=3, data__validation_fraction=0.1, model__encoder__widths=(8,), seed=1,
                  optim__learning_rate=0.003)  # fmt: skip
    expected = run_lib.run(alone, tmp_path / "alone", data)
    model = aejax.load(tmp_path / "p", member=3)
    assert model.results["test/loss"] == pytest.approx(expected["test/loss"], rel=1e-5)
    np.testing.assert_allclose(
        model.encode(data.test["x"]), aejax.load(tmp_path / "alone").encode(data.test["x"]), rtol=1e-3, atol=1e-4
    )
    assert [line["loss"] for line in metrics(tmp_path / "p" / "members" / "3")] == pytest.approx(
        [line["loss"] for line in metrics(tmp_path / "alone")], rel=1e-4
    )
    best = aejax.load(tmp_path / "p", member="best")
    assert best.results["validation/loss"] == rows["validation/loss"].min()
    for member in (None, 4):
        with pytest.raises(ValueError, match="population") as error:
            aejax.load(tmp_path / "p", member=member)
        one_line(error, "0 to 3", "members")
    stored = run_dir.read(tmp_path / "p")[0]
    assert stored.optim.learning_rate == config.optim.learning_rate  # and not that of a member
    capsys.readouterr()
    assert population.run(config, tmp_path / "p", data) == found
    assert "finished" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"train\.epochs = 3, not 4") as error:
        population.run(config_lib.changed(config, {"train__epochs": 4}), tmp_path / "p", data)
    one_line(error, "not trained for longer")


@pytest.mark.slow
def test_other_programs_are_other_groups(tmp_path):
    config = small(
        train__epochs=2, population__sweep=("model.encoder.widths=(8,),(8,4)", "optim.learning_rate=1e-3,2e-3")
    )
    data = sources.from_array(images(), config)
    population.run(config, tmp_path / "p", data)
    rows = pd.read_parquet(tmp_path / "p" / "members.parquet")
    assert list(rows["model.encoder.widths"]) == ["(8,)", "(8,)", "(8, 4)", "(8, 4)"]
    zipped = small(population__sweep=("objective.l1.weight=1,2", "optim.learning_rate=1e-3,2e-3"), population__zip=True)
    assert [m.values["optim.learning_rate"] for m in members.members(zipped)] == [0.001, 0.002]


@pytest.mark.slow
def test_a_stopped_population_resumes_to_the_same_bits(tmp_path, monkeypatch):
    config = swept(checkpoint__every_steps=2, figures__enabled=False, train__log_steps=2)
    data = sources.from_array(images(), config)
    population.run(config, tmp_path / "whole", data)
    run, begun = Group.run, []

    def stopping(group, states, start, end):
        begun.append(start)
        if len(begun) == 3:
            raise Stopped("here")
        return run(group, states, start, end)

    with monkeypatch.context() as patch:
        patch.setattr(Group, "run", stopping)
        with pytest.raises(Stopped):
            population.run(config, tmp_path / "parts", data)
    population.run(config, tmp_path / "parts", data)
    for member in range(4):
        whole, parts = (aejax.load(tmp_path / name, member=member) for name in ("whole", "parts"))
        assert_equal(whole.params, parts.params)
        assert [line["loss"] for line in whole.metrics] == [line["loss"] for line in parts.metrics]


@pytest.mark.slow
def test_a_member_that_is_not_finite_stops_alone(tmp_path, capsys):
    config = small(train__epochs=3, population__sweep=("optim.learning_rate=0.001,1e30,0.003",))
    data = sources.from_array(images(), config)
    found = population.run(config, tmp_path / "p", data)
    assert found["members"] == 2
    said = capsys.readouterr().out
    assert "member 1 (seed 0, optim.learning_rate = 1e+30): not finite: loss in step 1" in said
    rows = pd.read_parquet(tmp_path / "p" / "members.parquet")
    assert list(rows.ended.isna()) == [True, False, True]
    alone = run_lib.run(small(train__epochs=3, optim__learning_rate=0.003), tmp_path / "alone", data)
    assert rows["test/loss"][2] == pytest.approx(alone["test/loss"], rel=1e-5)
    both = small(train__epochs=3, population__seeds=(2,), optim__learning_rate=1e30)
    with pytest.raises(NonFiniteError, match="no member"):
        population.run(both, tmp_path / "none", sources.from_array(images(), both))


@pytest.mark.slow
@pytest.mark.optimized
def test_ten_kills_at_random_moments(tmp_path):
    flags = ("--config=configs/vae.py", "--config.population.seeds=2", "--sweep=objective.kl.weight=0.5,1",
             "--config.model.encoder.widths=64,", "--config.train.epochs=40", "--config.train.eval_epochs=4",
             "--config.train.log_steps=5", "--config.checkpoint.every_steps=20", "--config.figures.enabled=false",
             "--config.data.validation_fraction=0.1")  # fmt: skip
    finish(command(*flags, f"--workdir={tmp_path / 'whole'}"))
    seed = time.time_ns()
    print(f"seed {seed}")
    rng, path = random.Random(seed), tmp_path / "parts"
    for _ in range(10):
        process = command(*flags, f"--workdir={path}")
        time.sleep(rng.uniform(0, 9))
        process.kill()
        process.communicate()
        if (path / "results.json").exists():  # finished: begin again, so that every kill meets a run
            shutil.rmtree(path)
    finish(command(*flags, f"--workdir={path}"))
    assert results(path) == results(tmp_path / "whole")
    for member in range(4):
        whole, parts = (aejax.load(folder, member=member) for folder in (tmp_path / "whole", path))
        assert_equal(whole.params, parts.params)
        assert metrics(path / "members" / str(member)) == metrics(tmp_path / "whole" / "members" / str(member))


@pytest.mark.slow
def test_anomaly_scores_of_the_members_are_averaged(tmp_path):
    labels = np.array(["a", "b"])[(np.arange(100) % 5 == 0).astype(int)].tolist()
    config = small(population__seeds=(3,), uses__run=("anomaly",), uses__anomaly__normal_labels=("a",), train__epochs=2)
    data = sources.from_array(table(100), config, labels)
    found = population.run(config, tmp_path / "p", data)
    assert 0 <= found["anomaly/ensemble/auroc"] <= 1
    assert found["anomaly/auroc"] == pytest.approx(
        np.mean([aejax.load(tmp_path / "p", member=m).results["anomaly/auroc"] for m in range(3)])
    )
    models = saved.load_all(tmp_path / "p")
    made, _ = saved.load_detector(tmp_path / "p", models, "anomalies")
    x = data.test["x"]
    np.testing.assert_allclose(made.score(x), made.scores(x).mean(1), rtol=1e-5)
    assert made.scores(x).shape == (len(x), 3)
    _, columns = prediction.anomalies(models, tmp_path / "p", None).function(stream.Batch(range(len(x)), x), 0)
    np.testing.assert_allclose(columns["score"], made.score(x), rtol=1e-4)


@pytest.mark.slow
def test_one_class_detectors_are_a_population(tmp_path):
    """Each member sees the examples of its class alone, as the run with that data.train_labels does."""
    own = {
        "model__encoder__widths": (16,),
        "train__steps": 30,
        "data__validation_fraction": 0.1,
        "uses__run": ("anomaly",),
    }
    found = population.run(small("digits", population__classes=True, **own), tmp_path / "p")
    rows = pd.read_parquet(tmp_path / "p" / "members.parquet")
    assert list(rows["data.train_labels"]) == [f"('{digit}',)" for digit in range(10)]
    assert found["anomaly/auroc"] == pytest.approx(rows["anomaly/auroc"].mean())
    for digit in (0, 7):
        alone = run_lib.run(small("digits", data__train_labels=(str(digit),), **own), tmp_path / str(digit))
        for name in ("test/loss", "validation/loss", "anomaly/auroc", "anomaly/threshold"):
            assert rows[name][digit] == pytest.approx(alone[name], rel=1e-3), name


@pytest.mark.slow
def test_the_probabilities_of_classifiers_are_averaged(tmp_path):
    config = small("digits", population__seeds=(3,), finetune__name="classifier", train__epochs=1)
    found = population.run(config, tmp_path / "p")
    models, data = saved.load_all(tmp_path / "p"), sources.load(config)
    mean = np.mean([model.classify(data.test["x"]) for model in models], axis=0)
    wrong = mean.argmax(1) != data.test["y"]
    assert found["test/ensemble/error"] == pytest.approx(100 * wrong.mean())
    assert found["test/error_std"] > 0


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"population__sweep": ("optim.rate=1,2",)}, ["optim.rate", "no such field"]),
        ({"population__sweep": ("data.source=a,b",)}, ["data.source", "cannot vary"]),
        ({"population__sweep": ("optim.learning_rate=1e-3",)}, ["at least two values", "--config.optim.learning_rate"]),
        ({"population__sweep": ("optim.learning_rate=1e-3,fast",)}, ["optim.learning_rate=fast", "float"]),
        ({"population__sweep": ("optim.learning_rate=1e-3,-1",)}, ["learning_rate = -1.0", "greater than 0"]),
        ({"population__sweep": ("seed=1,2",)}, ["population.seeds=1,2"]),
        ({"population__sweep": ("optim.learning_rate=1e-3,2e-3",) * 2}, ["population.sweep", "once"]),
        ({"population__seeds": (1,)}, ["population.seeds = (1,)", "at least 2"]),
        ({"population__seeds": (3, 3)}, ["population.seeds = (3, 3)", "differ"]),
        ({"population__zip": True, "population__sweep": ("objective.l1.weight=1,2,3", "optim.learning_rate=1e-3,2e-3")},
         ["population.zip", "3 of objective.l1.weight"]),
        ({"population__seeds": (2,), "finetune__patience": 2, "data__validation_fraction": 0.1}, ["finetune.patience"]),
        ({"population__seeds": (2,), "data__binarize": "static"}, ["data.binarize"]),
        ({"population__sweep": ("train.batch_size=16,5000",)}, ["member 1", "train.batch_size = 5000", "at most"]),
    ],
)  # fmt: skip
def test_bad_populations_are_one_line(tmp_path, fields, words):
    config = small(**fields)
    with pytest.raises(ValueError) as error:  # noqa: PT011  (one_line checks the message)
        population.run(config, tmp_path / "p", sources.from_array(images(), config))
    one_line(error, *words)
    assert not (tmp_path / "p").exists()


def test_members_that_do_not_fit_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("aejax.training.memory.limit", lambda device: 1000)
    config = small(population__seeds=(2,))
    with pytest.raises(ValueError, match=r"population\.seeds") as error:
        population.run(config, tmp_path / "p", sources.from_array(images(), config))
    one_line(error, "GiB")


def test_members_lie_over_the_devices():
    assert mesh.members(3).shape["member"] == min(3, len(jax.devices()))


SPEED = """
import json, sys, time
sys.path[:0] = ["tests"]
import jax, numpy as np
from aejax import config as config_lib, experiment
from aejax.data import sources, stream
from aejax.parallel import mesh
from aejax.training import plan
from aejax.training.population import Group, program
from aejax.training.trainer import Trainer
from common import get_config

members, steps, fields = json.loads(sys.argv[1])
configs = [plan.resolve(config_lib.changed(get_config("ae"), fields | {"seed": seed})) for seed in range(members)]
data = sources.load(configs[0])
experiments = [experiment.build(config, data.spec) for config in configs]
group, alone = Group(experiments, [data] * members), Trainer(experiments[0], data, mesh.make(1))

def seconds(trainer):
    state = trainer.init()
    jax.block_until_ready(state)
    begin = time.perf_counter()
    for start, end in trainer.intervals(0):
        if end <= steps:
            state, _ = trainer.run(state, start, end)
    return time.perf_counter() - begin

seconds(group), seconds(alone)
print(json.dumps([members * seconds(alone) / seconds(group) for _ in range(7)]))
"""


@pytest.mark.timed
@pytest.mark.parametrize(
    ("count", "steps", "fields", "least"),
    [
        (8, 400, {"train__batch_size": 64, "train__epochs": 20}, 1.6),
        (16, 800, {"train__batch_size": 32, "train__epochs": 20, "model__encoder__widths": (32,)}, 2.2),
    ],
)
def test_members_train_faster_than_runs_in_turn(count, steps, fields, least):
    """On two CPU devices, against so many runs of the same config one after another; printed are 1.9 and 2.8."""
    ratios = execute(SPEED, 2, [count, steps, fields])
    print(f"{count} members: {np.median(ratios):.2f} times as fast, {min(ratios):.2f} to {max(ratios):.2f}")
    assert np.median(ratios) > least
