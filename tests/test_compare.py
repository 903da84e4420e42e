import csv
import json

import pytest

import common
from aejax import config as config_lib
from aejax.data import sources
from aejax.errors import InputError
from aejax.page import comparison
from aejax.storage import run_dir
from common import change, finish, get_config, images, one_line, small


@pytest.fixture
def runs(tmp_path):
    """Three runs of an untold training: what a directory holds of it; the last is not finished."""
    for name, loss, fields in (
        ("a", 3.25, {"seed": 1}),
        ("b", 12.0, {"model__encoder__widths": (16, 4), "checkpoint__every_steps": 7}),
        ("c", 0.5, {"objective__likelihood": "gaussian"}),
        ("going", None, {}),
    ):
        write(tmp_path / name, loss, **fields)
    return tmp_path


def write(folder, loss, x=None, config=None, **fields):
    config = config or small(**fields)
    folder.mkdir(parents=True)
    (folder / run_dir.CONFIG).write_text(config_lib.to_json(config))
    (folder / run_dir.DATA).write_text(sources.from_array(images() if x is None else x, config).spec.to_json())
    lines = [{"step": i, "epoch": i, "split": "test", "loss": (loss or 1) + 1 / i} for i in (1, 2, 3)]
    (folder / run_dir.METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    if loss is not None:
        results = {"test/loss": loss, "seconds": 1.5, **({"test/elbo": -loss} if folder.name == "c" else {})}
        (folder / run_dir.RESULTS).write_text(json.dumps(results))


def command(*arguments, code=0):
    return finish(common.command(*arguments, module="aejax.compare"), code)


def test_command(runs, tmp_path):
    folders = [runs / name for name in ("a", "b", "c", "going")]
    out, err = command(*folders, f"--csv={tmp_path / 'runs.csv'}", f"--figure={tmp_path / 'runs.png'}", runs / "a")
    assert err == ""
    assert [line.split()[0] for line in out.splitlines()[-4:]] == ["c", "a", "b", "going"]
    with open(tmp_path / "runs.csv") as file:
        rows = list(csv.DictReader(file))
    assert rows == [
        {"run": "c", "seed": "0", "model.encoder.widths": "[8]", "objective.likelihood": "gaussian",
         "test/elbo": "-0.5", "test/loss": "0.5", "seconds": "1.5"},
        {"run": "a", "seed": "1", "model.encoder.widths": "[8]", "objective.likelihood": "squared_error",
         "test/elbo": "", "test/loss": "3.25", "seconds": "1.5"},
        {"run": "b", "seed": "0", "model.encoder.widths": "[16, 4]", "objective.likelihood": "squared_error",
         "test/elbo": "", "test/loss": "12.0", "seconds": "1.5"},
        {"run": "going", "seed": "0", "model.encoder.widths": "[8]", "objective.likelihood": "squared_error",
         "test/elbo": "", "test/loss": "", "seconds": ""},
    ]  # fmt: skip
    assert (tmp_path / "runs.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.slow
def test_runs_without_a_loss_are_sorted_by_what_they_have(tmp_path):
    for name, error in (("a", 3.0), ("b", 2.0)):
        write(tmp_path / name, 1.0)
        (tmp_path / name / run_dir.RESULTS).write_text(json.dumps({"random_12/error": error}))
    out, _ = command(tmp_path / "a", tmp_path / "b", f"--figure={tmp_path / 'runs.png'}")
    assert [line.split()[0] for line in out.splitlines()[-2:]] == ["b", "a"]


def test_table(runs):
    read = comparison.ordered(comparison.read(sorted(runs.iterdir())), "-test/loss")
    wide = comparison.table(read, 200).splitlines()
    assert len({len(line) for line in wide[-4:]}) == 1  # columns end together
    assert wide[-4].split() == ["b", "16,4", "squared_error", "0", "-", "12", "1.5"]
    assert wide[-1].split() == ["going", "8", "squared_error", "0", "-", "-", "-"]
    narrow = comparison.table(read, 30)
    assert max(map(len, narrow.splitlines())) <= 30
    assert all(narrow.count(f"\n{run.name} ") == narrow.count("\n\n") + 1 for run in read)


@pytest.mark.parametrize(
    ("key", "order"),
    [
        ("test/loss", ["c", "a", "b", "going"]),
        ("-test/loss", ["b", "a", "c", "going"]),
        ("test/elbo", ["c", "a", "b", "going"]),
        ("seed", ["b", "c", "going", "a"]),
        ("model.encoder.widths", ["b", "a", "c", "going"]),
    ],
)
def test_order(runs, key, order):
    assert [run.name for run in comparison.ordered(comparison.read(sorted(runs.iterdir())), key)] == order


def test_names(tmp_path):
    write(tmp_path / "x" / "run", 1.0, seed=1)
    write(tmp_path / "y" / "run", 2.0, seed=2)
    read = comparison.read([tmp_path / "x" / "run", tmp_path / "y" / "run"])
    assert [run.name for run in read] == [str(tmp_path / "x" / "run"), str(tmp_path / "y" / "run")]
    assert list(comparison.labels(read).values()) == ["seed 1", "seed 2"]
    assert comparison.differing(read) == ["seed"]


def test_one_in_stages_and_one_without(tmp_path):
    write(tmp_path / "one", 1.0)
    config = change(get_config("stacked"), data__source="digits")
    write(tmp_path / "stacked", 2.0, config=config)
    read = comparison.read([tmp_path / "one", tmp_path / "stacked"])
    assert "pretrain.widths" in comparison.differing(read)
    assert not any(".stage_" in name for name in comparison.differing(read))
    assert "200,200" in comparison.table(read, 1000)
    write(tmp_path / "longer", 3.0, config=get_config("stacked", pretrain__stage_1__epochs=7))
    read = comparison.read([tmp_path / name for name in ("one", "stacked", "longer")])
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
        ([a, c, "--sorted=seed"], ["sorted"]),
    ):
        out, err = command(*arguments, code=2)
        assert (out, err.count("\n")) == ("", 1), err
        for name in names:
            assert name in err
