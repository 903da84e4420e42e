"""Hyperparameter search: settings drawn from ranges, successive halving, the best one by validation."""

import html
import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import aejax
from aejax import config as config_lib
from aejax import population
from aejax import run as run_lib
from aejax.data import sources
from aejax.errors import NonFiniteError
from aejax.page import search as search_page
from aejax.page.command import reproduce
from aejax.training import group_loop, members, plan, search
from aejax.training.population import Group
from common import assert_equal, images, metrics, one_line, results, small, without_clock

RATE = "optim.learning_rate=1e-4..1e-2:log"
WEIGHT = "objective.l1.weight=0.1..4"


def drawn(*ranges, count=9, **fields):
    return search.draw(small(population__search=count, population__ranges=ranges, **fields))


def test_drawing_is_deterministic_and_fills_the_ranges():
    settings = drawn(RATE, WEIGHT, "train.batch_size=8..11", "model.code_activation=relu,tanh", count=400)
    assert settings == drawn(RATE, WEIGHT, "train.batch_size=8..11", "model.code_activation=relu,tanh", count=400)
    assert settings != drawn(
        RATE, WEIGHT, "train.batch_size=8..11", "model.code_activation=relu,tanh", count=400, seed=1
    )
    rates, weights, sizes, names = zip(*(setting.values() for setting in settings), strict=True)
    assert len({repr(setting) for setting in settings}) == 400
    for values, low, high in ((rates, 1e-4, 1e-2), (weights, 0.1, 4.0)):
        assert low <= min(values) <= max(values) <= high
        assert all(value == float(f"{value:.4g}") for value in values)
    # A Latin hypercube is more even than independent draws: Kolmogorov's distance is at most 1/n, but for rounding.
    assert stats.kstest(np.log10(rates), stats.uniform(-4, 2).cdf).statistic < 2 / 400
    assert stats.kstest(weights, stats.uniform(0.1, 3.9).cdf).statistic < 2 / 400
    assert abs(stats.spearmanr(rates, weights).statistic) < 0.2  # in pairs they are independent
    assert {size: sizes.count(size) for size in range(8, 12)} == dict.fromkeys(range(8, 12), 100)
    assert {type(size) for size in sizes} == {int}
    assert names.count("relu") == names.count("tanh") == 200


def test_settings_differ_even_if_there_are_just_enough():
    found = drawn("train.batch_size=1..6", "model.code_activation=relu,tanh", count=12)
    assert len({repr(setting) for setting in found}) == 12
    sizes = [setting["train.batch_size"] for setting in drawn("train.batch_size=1..32:log", count=32)]
    assert sorted(sizes) == list(range(1, 33))


@pytest.mark.parametrize(
    ("count", "halving", "length", "sizes", "ends"),
    [
        (9, 3, (180, 10), [9, 3, 1], [20, 60, 180]),
        (20, 3, (1080, 10), [20, 7, 3], [120, 360, 1080]),
        (26, 3, (1080, 10), [26, 9, 3], [120, 360, 1080]),
        (8, 2, (100, 10), [8, 4, 2, 1], [20, 30, 50, 100]),  # each at an evaluation
        (7, 1, (100, 10), [7], [100]),
        (2, 3, (100, 10), [2], [100]),
        (27, 3, (4, 2), [27, 9], [2, 4]),  # two evaluations, two rungs
        (9, 3, (10, 10), [9], [10]),
    ],
)
def test_rungs(count, halving, length, sizes, ends):
    assert search.sizes(count, halving, {length}) == sizes
    assert search.ends(*length, halving, len(sizes)) == ends


def test_settings_are_ranked_by_the_mean_over_their_seeds():
    losses = {0: [3.0, 5.0], 1: [1.0, np.inf], 2: [3.0, 4.0], 3: [np.inf, np.inf], 4: [4.0, 4.0]}
    assert search.ranked({setting: search.mean(own) for setting, own in losses.items()}) == [2, 0, 4, 1, 3]


BAD = [
    ({"ranges": ("optim.learning_rate=1e-2..1e-4:log",)}, ["swap", "--range=optim.learning_rate=1e-4..1e-2:log"]),
    ({"ranges": ("optim.learning_rate=1e-2..0.01",)}, ["ends must differ", "--config.optim.learning_rate=0.01"]),
    ({"ranges": ("objective.l1.weight=0..1:log",)}, ["greater than 0", "leave out :log"]),
    ({"ranges": ("optim.learning_rat=1e-4..1e-2",)}, ["no such field", "did you mean config.optim.learning_rate"]),
    ({"ranges": ("checkpoint.every_steps=1..9",)}, ["checkpoint.every_steps", "cannot vary"]),
    ({"ranges": ("seed=0..9",)}, ["--config.population.seeds=N"]),
    ({"ranges": ("optim.learning_rate=-1..1",)}, ["learning_rate = -1.0", "greater than 0"]),
    ({"ranges": ("model.encoder.dropout=0..2",)}, ["model.encoder.dropout = 2.0", "lie in"]),
    ({"ranges": ("optim.learning_rate=nan..1",)}, ["finite"]),
    ({"ranges": ("optim.learning_rate=1e-4..fast",)}, ["optim.learning_rate=fast", "float"]),
    ({"ranges": ("train.batch_size=1.5..8",)}, ["train.batch_size=1.5", "int"]),
    ({"ranges": ("optim.learning_rate=1e-4..1e-2:lin",)}, ["must be FIELD=LOW..HIGH"]),
    ({"ranges": ("optim.learning_rate",)}, ["must be FIELD=LOW..HIGH"]),
    ({"ranges": ("model.code_activation=a..b",)}, ["a field that is a number", "VALUE,VALUE"]),
    ({"ranges": ("train.log_units=false..true",)}, ["a field that is a number"]),
    ({"ranges": ("model.encoder.widths=8..16",)}, ["a field that is a number"]),
    ({"ranges": ("model.code_activation=relu,relu",)}, ["--range=", "at least two values that differ"]),
    ({"ranges": (RATE, RATE)}, ["population.ranges", "once"]),
    ({"ranges": ()}, ["population.search = 9", "--range="]),
    ({"search": 0, "ranges": (RATE,)}, ["population.ranges", "--search=20"]),
    ({"search": 1, "ranges": (RATE,)}, ["population.search = 1", "0 or at least 2"]),
    ({"halving": 0, "ranges": (RATE,)}, ["population.halving = 0", "at least 1"]),
    ({"ranges": ("train.batch_size=8..11",)}, ["population.search = 9", "at most the 4 settings"]),
    ({"ranges": ("optim.learning_rate=1e-4..1.002e-4",)}, ["population.search = 9", "at most the 3 settings"]),
    ({"ranges": (RATE,), "sweep": ("objective.l1.weight=1,2",)}, ["population.sweep", "population.search"]),
    ({"ranges": (RATE,), "zip": True}, ["population.zip", "population.search"]),
    ({"ranges": (RATE,), "classes": True}, ["population.classes", "population.search"]),
    ({"ranges": (RATE,)}, ["data.validation_fraction = 0.0", "--config.data.validation_fraction=0.1"]),
]  # fmt: skip


@pytest.mark.parametrize(("own", "words"), BAD, ids=[" ".join(map(str, own.values()))[:50] for own, _ in BAD])
def test_bad_searches_are_one_line(tmp_path, own, words):
    config = small(**{f"population__{name}": value for name, value in ({"search": 9} | own).items()})
    with pytest.raises(ValueError) as error:  # noqa: PT011  (one_line checks the message)
        population.run(config, tmp_path / "p", sources.from_array(images(50), config))
    one_line(error, *words)
    assert not (tmp_path / "p").exists()


def test_members_leave_the_config_as_it_is():
    config = plan.resolve(small(population__search=3, population__ranges=(RATE,)))
    before = config.to_dict()
    assert len({member.config.optim.learning_rate for member in members.members(config)}) == 3
    assert config.to_dict() == before
    config_lib.changed(config, {"optim__learning_rate": 0.5})
    assert config.to_dict() == before


def test_the_command_of_a_search():
    config = small(population__search=3, population__ranges=(RATE, "model.code_activation=relu,tanh"))
    command = reproduce(plan.resolve(config))
    assert f"--range={RATE} --range=model.code_activation=relu,tanh" in command
    assert "--config.population.search=3" in command


def searching(count, *ranges, **fields):
    base = {"data__validation_fraction": 0.2, "train__epochs": 9, "train__batch_size": 16}
    return small(population__search=count, population__ranges=ranges, **(base | fields))


@pytest.mark.slow
def test_the_best_settings_go_on(tmp_path, capsys):
    config = searching(9, "optim.learning_rate=1e-4..3e-2:log", WEIGHT, figures__enabled=True)
    data = sources.from_array(images(), config)
    found = population.run(config, tmp_path / "p", data)
    said = capsys.readouterr().out
    n = data.spec.train // 16
    assert f"search: 9 settings, {9 * n} steps; 3 after step {n}, 1 after step {3 * n} go on" in said
    assert "note: the validation loss depends on objective.l1.weight" in said
    # Trained without halving, each setting has the same losses at the ends of the rungs.
    whole = config_lib.changed(config, {"population__halving": 1, "figures__enabled": False})
    population.run(whole, tmp_path / "whole", data)
    rows = pd.read_parquet(tmp_path / "p" / "members.parquet")
    all_rows = pd.read_parquet(tmp_path / "whole" / "members.parquet")
    assert all_rows.ended.isna().all()
    pd.testing.assert_frame_equal(rows.iloc[:, :4], all_rows.iloc[:, :4])
    losses = []
    for m in range(9):
        lines = metrics(tmp_path / "whole" / "members" / str(m))
        losses.append({line["step"]: line["loss"] for line in lines if line["split"] == "validation"})
    per_epoch = data.spec.train // 16
    alive = set(range(9))
    for epochs, size in ((1, 3), (3, 1)):
        step = epochs * per_epoch
        order = sorted(alive, key=lambda m: losses[m][step])
        for rank, m in enumerate(order[size:], size + 1):
            loss, of = losses[m][step], f"step {step} of {9 * per_epoch}"
            why = f"halved after {of}: validation loss {loss:.4g}, rank {rank} of {len(alive)}"
            assert rows.ended[m] == why
            assert rows.steps[m] == step
            assert rows["validation/loss"][m] == pytest.approx(loss, rel=1e-5)
            assert not (tmp_path / "p" / "members" / str(m) / "results.json").exists()
            assert int(aejax.load(tmp_path / "p", member=m).metrics[-1]["step"]) == step
        alive = set(order[:size])
    (best,) = alive
    assert list(rows.ended.isna()) == [m == best for m in range(9)]
    assert (found["best_member"], found["members"], found["searched"]) == (best, 1, 9)
    assert found["test/loss"] == rows["test/loss"][best] == pytest.approx(all_rows["test/loss"][best], rel=1e-5)
    assert results(tmp_path / "p") == without_clock(found)
    lines = metrics(tmp_path / "p" / "members" / str(best))
    assert [line["step"] for line in lines] == [
        line["step"] for line in metrics(tmp_path / "whole" / "members" / str(best))
    ]
    values = {field.replace(".", "__"): rows[field][best] for field in ("optim.learning_rate", "objective.l1.weight")}
    alone = small(data__validation_fraction=0.2, train__epochs=9, train__batch_size=16, **values)
    assert found["test/loss"] == pytest.approx(run_lib.run(alone, tmp_path / "alone", data)["test/loss"], rel=1e-5)
    # Without halving all reach the end, and the best is that of the smallest validation loss.
    assert results(tmp_path / "whole")["best_member"] == all_rows["validation/loss"].argmin()
    assert all_rows.ended.isna().all()
    assert (tmp_path / "p" / "figures" / "population.png").is_file()
    text = population.table(tmp_path / "p", 160)
    assert f"best: member {best}, optim.learning_rate = {values['optim__learning_rate']}" in text
    page = html.unescape((tmp_path / "p" / "report.html").read_text().replace("<wbr>", ""))
    assert search_page.best(tmp_path / "p") in page


class Killed(BaseException):
    pass


@pytest.mark.slow
def test_a_stopped_search_resumes_to_the_same_bits(tmp_path, monkeypatch):
    """Killed after every few dispatches, writes of a member and writes of a reason, until it is finished."""
    config = searching(4, RATE, population__halving=2, population__seeds=(2,), train__epochs=4,
                       checkpoint__every_steps=1, train__log_steps=3)  # fmt: skip
    data = sources.from_array(images(), config)
    population.run(config, tmp_path / "whole", data)
    left = 0

    def counted(function):
        def call(*arguments):
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return function(*arguments)

        return call

    kills = 0
    with monkeypatch.context() as patch:
        patch.setattr(Group, "run", counted(Group.run))
        patch.setattr(group_loop, "_save", counted(group_loop._save))
        patch.setattr(search, "mean", counted(search.mean))
        while True:
            left = 13 + 3 * kills
            try:
                population.run(config, tmp_path / "parts", data)
                break
            except Killed:
                kills += 1
    assert kills >= 3
    assert results(tmp_path / "parts") == results(tmp_path / "whole")
    for m in range(8):
        whole, parts = (aejax.load(tmp_path / name, member=m) for name in ("whole", "parts"))
        assert_equal(whole.params, parts.params)
        own = [tmp_path / name / "members" / str(m) for name in ("whole", "parts")]
        assert metrics(own[0]) == metrics(own[1])
        reasons = [path / "ended.txt" for path in own]
        assert reasons[0].exists() == reasons[1].exists()
        assert not reasons[0].exists() or reasons[0].read_text() == reasons[1].read_text()
    rows = pd.read_parquet(tmp_path / "parts" / "members.parquet")
    assert list(rows.seed) == [0, 1] * 4
    assert results(tmp_path / "parts")["members"] == 2
    assert "test/loss_std" in results(tmp_path / "parts")


@pytest.mark.slow
def test_a_search_over_programs_with_settings_that_are_not_finite(tmp_path):
    config = searching(4, "optim.learning_rate=1e-3,1e30", "model.encoder.widths=(8,),(4,)", train__epochs=3)
    data = sources.from_array(images(), config)
    found = population.run(config, tmp_path / "p", data)
    rows = pd.read_parquet(tmp_path / "p" / "members.parquet")
    lost = rows["optim.learning_rate"] == 1e30
    assert lost.sum() == 2
    assert rows.ended[lost].str.startswith("not finite: loss in step 1").all()
    assert rows.ended[~lost].isna().sum() == 2
    assert found["members"] == 1
    assert json.loads((tmp_path / "p" / "results.json").read_text())["validation/loss"] == rows["validation/loss"].min()
    none = searching(3, "optim.learning_rate=1e29,1e30,1e31", train__epochs=3)  # halved after the first
    with pytest.raises(NonFiniteError, match=r"ended\.txt"):
        population.run(none, tmp_path / "none", data)
