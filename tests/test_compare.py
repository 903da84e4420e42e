import csv
import json
import statistics

import numpy as np
import pytest

import common
from aejax.data import sources
from aejax.errors import InputError
from aejax.page import comparison, comparison_figure
from aejax.storage import config_json, run_dir
from common import change, finish, get_config, images, one_line, small


@pytest.fixture
def runs(tmp_path):
    """What a directory holds of five runs that were never trained: two seeds of one, and one that is not finished."""
    for name, loss, fields in (
        ("a", 3.25, {"seed": 1}),
        ("a2", 3.75, {"seed": 2}),
        ("b", 12.0, {"model__encoder__widths": (16, 4), "checkpoint__every_steps": 7}),
        ("c", 0.5, {"objective__likelihood": "gaussian"}),
        ("going", None, {"train__epochs": 3}),
    ):
        write(tmp_path / name, loss, **fields)
    return tmp_path


def write(folder, loss, x=None, config=None, **fields):
    config = config or small(**fields)
    folder.mkdir(parents=True)
    (folder / run_dir.CONFIG).write_text(config_json.to_json(config))
    (folder / run_dir.DATA).write_text(sources.from_array(images() if x is None else x, config).spec.to_json())
    lines = [{"step": i, "epoch": i, "split": "test", "loss": (loss or 1) + 1 / i} for i in (1, 2, 3)]
    (folder / run_dir.METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    if loss is not None:
        results = {"test/loss": loss, "seconds": 1.5, **({"test/elbo": -loss} if folder.name == "c" else {})}
        (folder / run_dir.RESULTS).write_text(json.dumps(results))


def groups(folder):
    return comparison.grouped(comparison.read(sorted(folder.iterdir())))


def command(*arguments, code=0):
    return finish(common.command(*arguments, module="aejax.compare"), code)


@pytest.mark.slow
def test_command(runs, tmp_path):
    folders = [runs / name for name in ("a2", "b", "c", "going", "a")]
    out, err = command(*folders, f"--csv={tmp_path / 'runs.csv'}", f"--figure={tmp_path / 'runs.png'}", runs / "a")
    assert err == ""
    lines = [line.split() for line in out.splitlines()[-4:]]
    assert [line[0] for line in lines] == ["c", "a", "b", "going"]
    assert lines[1][1] == "+1"
    assert " 3.50 ± 0.35 " in out
    with open(tmp_path / "runs.csv") as file:
        rows = list(csv.DictReader(file))
    usual = {"seed": "0", "model.encoder.widths": "[8]", "objective.likelihood": "squared_error", "train.epochs": "2",
             "n": "1", "test/elbo_mean": "", "test/elbo_std": "", "test/loss_mean": "", "test/loss_std": "",
             "seconds_mean": "1.5", "seconds_std": ""}  # fmt: skip
    assert rows == [
        {"run": "c", **usual, "objective.likelihood": "gaussian", "test/elbo_mean": "-0.5", "test/loss_mean": "0.5"},
        {"run": "a a2", **usual, "seed": "[1, 2]", "n": "2", "test/loss_mean": "3.5",
         "test/loss_std": repr(statistics.stdev([3.25, 3.75])), "seconds_std": "0.0"},
        {"run": "b", **usual, "model.encoder.widths": "[16, 4]", "test/loss_mean": "12.0"},
        {"run": "going", **usual, "train.epochs": "3", "n": "0", "seconds_mean": ""},
    ]  # fmt: skip
    assert (tmp_path / "runs.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.slow
def test_runs_without_a_loss_are_sorted_by_what_they_have(tmp_path):
    for name, error in (("a", 3.0), ("b", 2.0)):
        write(tmp_path / name, 1.0, train__batch_size=int(error))
        (tmp_path / name / run_dir.RESULTS).write_text(json.dumps({"random_12/error": error}))
    out, _ = command(tmp_path / "a", tmp_path / "b", f"--figure={tmp_path / 'runs.png'}")
    assert [line.split()[0] for line in out.splitlines()[-2:]] == ["b", "a"]


def test_table(runs):
    read = comparison.ordered(groups(runs), "-test/loss")
    wide = comparison.table(read, 200).splitlines()
    assert len({len(line) for line in wide[-4:]}) == 1  # columns end together
    assert wide[-4].split() == ["b", "16,4", "squared_error", "0", "2", "1", "-", "12", "1.5"]
    assert wide[-3].split() == ["a", "+1", "8", "squared_error", "1,2", "2", "2", "-", "3.50", "±", "0.35", "1.5"]
    assert wide[-1].split() == ["going", "8", "squared_error", "0", "3", "0", "-", "-", "-"]
    narrow = comparison.table(read, 30)
    assert max(map(len, narrow.splitlines())) <= 30
    assert all(narrow.count(f"\n{run.name} ") == narrow.count("\n\n") + 1 for run in read)


@pytest.mark.parametrize(
    ("key", "order"),
    [
        ("test/loss", ["c", "a", "b", "going"]),
        ("-test/loss", ["b", "a", "c", "going"]),
        ("test/elbo", ["c", "a", "b", "going"]),
        ("train.epochs", ["a", "b", "c", "going"]),
        ("model.encoder.widths", ["b", "a", "c", "going"]),
    ],
)
def test_order(runs, key, order):
    assert [group.runs[0].name for group in comparison.ordered(groups(runs), key)] == order


def test_names(tmp_path):
    write(tmp_path / "x" / "run", 1.0, model__bottleneck__size=1, seed=2)
    write(tmp_path / "y" / "run", 2.0, model__bottleneck__size=2)
    names = [str(tmp_path / folder / "run") for folder in "xy"]
    read = comparison.grouped(comparison.read(names))
    assert [group.name for group in read] == names
    assert comparison.differing(read) == ["model.bottleneck.size", "seed"]
    assert list(comparison.labels(read).values()) == ["size 1", "size 2"]
    fields = {"a.size": 1, "b.size": [2, 3], "c.name": "x", "d.name": None}
    told = comparison.describe(comparison.Group((), fields), list(fields))
    assert told == "a.size 1, b.size 2,3, c x, d -"


def test_other_data_are_not_the_same_group(tmp_path):
    for seed in (0, 1):
        write(tmp_path / str(seed), 1.0, x=images(seed=seed), seed=seed)
    read = comparison.grouped(comparison.read([tmp_path / "0", tmp_path / "1"], allow_different_data=True))
    assert [group.n for group in read] == [1, 1]
    assert comparison.labels(read) == {"0": "0", "1": "1"}


@pytest.fixture
def sizes(tmp_path):
    """Sizes 2 and 40 in two seeds each, 2 also by another optimiser."""
    for size, optimizer, seed, loss in (
        (2, "adam", 0, 4.0), (2, "adam", 1, 5.0), (40, "adam", 0, 1.0), (40, "adam", 1, 1.5), (2, "sgd", 0, 6.0),
    ):  # fmt: skip
        fields = {"model__bottleneck__size": size, "optim__name": optimizer, "seed": seed}
        write(tmp_path / f"{optimizer}{size}-{seed}", loss, **fields)
    return groups(tmp_path)


def test_figure(sizes):
    field = comparison_figure.against(sizes, None)
    assert field == "model.bottleneck.size"
    curves, against, ends = comparison_figure.figure(sizes, "test/loss", field).axes
    told = [text.get_text() for text in curves.get_legend().get_texts()]
    assert told == ["size 2, optim adam", "size 40, optim adam", "size 2, optim sgd"]
    assert [text.get_text() for text in ends.get_yticklabels()] == told
    np.testing.assert_allclose(curves.lines[0].get_xydata(), [[i, 4.5 + 1 / i] for i in (1, 2, 3)])
    deviation = statistics.stdev([4.0, 5.0])
    band = curves.collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx(5.5 + deviation)
    assert len(curves.collections) == 2  # none of a single run
    assert [text.get_text() for text in against.get_legend().get_texts()] == ["optim adam", "optim sgd"]
    line, _, (bars,) = against.containers[0]
    np.testing.assert_allclose(line.get_xydata(), [[2, 4.5], [40, 1.25]])
    np.testing.assert_allclose(bars.get_segments()[0], [[2, 4.5 - deviation], [2, 4.5 + deviation]])
    assert (against.get_xlabel(), against.get_xscale()) == (field, "log")
    assert "4.50 ± 0.71" in {text.get_text() for text in ends.texts}


def test_a_run_that_has_just_begun_hides_no_curve(tmp_path):
    for seed, loss in enumerate((1.0, None, 3.0)):
        write(tmp_path / str(seed), loss, seed=seed)
    (tmp_path / "1" / run_dir.METRICS).write_text("")
    (group,) = groups(tmp_path)
    assert (group.n, group.mean("test/loss"), group.deviation("test/loss")) == (2, 2.0, statistics.stdev([1, 3]))
    curves, ends = comparison_figure.figure([group], "test/loss").axes
    np.testing.assert_allclose(curves.lines[0].get_ydata(), [2 + 1 / i for i in (1, 2, 3)])
    assert [text.get_text() for text in ends.get_yticklabels()] == ["0 +2"]


def test_what_the_figure_cannot_show(sizes):
    for refused, names in (
        (lambda: comparison_figure.metric(sizes, "test/los"), ["--metric=test/los", "did you mean test/loss?"]),
        (lambda: comparison_figure.against(sizes, "optim.name"), ["--against=optim.name", "model.bottleneck.size"]),
        (lambda: comparison_figure.against(sizes, "model.bottleneck.siz"), ["did you mean model.bottleneck.size?"]),
        (lambda: comparison_figure.against(sizes[:1], "seed"), ["--against=seed", "there are none"]),
    ):
        with pytest.raises(InputError) as error:
            refused()
        one_line(error, *names)
    assert comparison_figure.against(sizes[:1], None) is None


def test_one_in_stages_and_one_without(tmp_path):
    write(tmp_path / "one", 1.0)
    config = change(get_config("stacked"), data__source="digits")
    write(tmp_path / "stacked", 2.0, config=config)
    read = comparison.grouped(comparison.read([tmp_path / "one", tmp_path / "stacked"]))
    assert "pretrain.widths" in comparison.differing(read)
    assert not any(".stage_" in name for name in comparison.differing(read))
    assert "200,200" in comparison.table(read, 1000)
    write(tmp_path / "longer", 3.0, config=get_config("stacked", pretrain__stage_1__epochs=7))
    read = comparison.grouped(comparison.read([tmp_path / name for name in ("one", "stacked", "longer")]))
    assert "pretrain.stage_1.epochs" in comparison.differing(read)
    assert comparison.ordered(read, "pretrain.stage_1.epochs")[-1].name == "one"


def test_other_data(runs):
    write(runs / "other", 1.0, x=images(seed=1))
    folders = [runs / "a", runs / "other"]
    with pytest.raises(InputError) as error:
        comparison.read(folders)
    one_line(error, "other", "allow_different_data")
    assert len(comparison.read(folders, allow_different_data=True)) == 2


@pytest.mark.slow
def test_bad_input(runs, tmp_path):
    (runs / "b" / run_dir.RESULTS).write_text("{")
    (runs / "empty").mkdir()
    write(runs / "also", None)
    a, c = runs / "a", runs / "c"
    for arguments, names in (
        ([], ["two run directories", "0"]),
        ([a, a], ["two run directories", "1"]),
        ([a, runs / "empty"], ["empty", "no run directory"]),
        ([a, runs / "missing"], ["missing", "no run directory"]),
        ([a, runs / "b"], ["results.json", "cannot be read"]),
        ([runs / "going", runs / "also"], ["none of these runs is finished"]),
    ):
        with pytest.raises(InputError) as error:
            comparison.read(arguments)
        one_line(error, *names)
    for arguments, names in (
        ([a, c, "--sort=test/los"], ["--sort=test/los", "did you mean test/loss?"]),
        ([a, c, f"--figure={tmp_path / 'runs.jpeg'}"], ["runs.jpeg", ".png"]),
        ([a, c, f"--csv={tmp_path / 'missing' / 'runs.csv'}"], ["runs.csv", "cannot be written"]),
        ([a, c, "--against=seed"], ["--against=seed: needs --figure=FILE"]),
    ):
        out, err = command(*arguments, code=2)
        assert (out, err.count("\n")) == ("", 1), err
        for name in names:
            assert name in err
