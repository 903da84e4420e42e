"""The files of a run directory: how they are written and read, what may resume in one, and its lock."""

import json
import os
import subprocess
import sys

import pytest

from aejax import config as config_lib
from aejax.data import sources
from aejax.errors import InputError
from aejax.parallel import processes
from aejax.storage import metrics, run_dir
from aejax.training import plan, resumption
from common import get_config, images, one_line, small


def open_once(path, config, seed=0, restart_stage=None):
    """Begin or resume a run and leave it: what a training does before its first step, on images of this seed."""
    config = plan.resolve(config)
    spec = sources.from_array(images(seed=seed), config).spec
    with resumption.opened(path, config, spec, restart_stage):
        pass


def contents(path):
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.fixture
def finished(tmp_path):
    """What a finished run of `small()` leaves, but its checkpoints."""
    open_once(tmp_path / "run", small())
    run_dir.write_results(tmp_path / "run", {"test/loss": 1.0})
    return tmp_path / "run"


# --- files --------------------------------------------------------------------------------------------


def test_what_is_written_is_read(finished):
    config, spec = run_dir.read(finished)
    resolved = plan.resolve(small())
    assert config.to_dict() == resolved.to_dict()
    assert spec == sources.from_array(images(), resolved).spec
    assert run_dir.read_results(finished) == {"test/loss": 1.0}
    assert {"python", "packages", "devices", "processes", "cores", "commit"} == set(
        json.loads((finished / run_dir.ENVIRONMENT).read_text())
    )


@pytest.mark.parametrize(
    ("file", "text", "parts"),
    [
        (run_dir.CONFIG, None, ["is no run directory: it has no config.json"]),
        (run_dir.DATA, None, ["is no run directory: it has no data.json"]),
        (run_dir.CONFIG, '{"format": 2, "mod', ["cannot be read: "]),
        (run_dir.DATA, "", ["cannot be read: "]),
        (run_dir.CONFIG, '{"format": 3}', ["config.json: format must be 2"]),
        (run_dir.CONFIG, '{"format": 2, "modle": 1}', ["config.json: unknown field modle"]),
        (run_dir.CONFIG, '{"format": 2, "seed": "one"}', ["config.json: seed = 'one': "]),
    ],
)
def test_what_cannot_be_read_is_one_line(finished, file, text, parts):
    (finished / file).unlink()
    if text is not None:
        (finished / file).write_text(text)
    with pytest.raises(InputError) as error:
        run_dir.read(finished)
    one_line(error, *parts)


def test_results_are_there_once_the_run_is_finished(finished):
    (finished / run_dir.RESULTS).write_text('{"test/lo')
    with pytest.raises(InputError) as error:
        run_dir.read_results(finished)
    one_line(error, str(finished / run_dir.RESULTS), "cannot be read")
    (finished / run_dir.RESULTS).unlink()
    assert run_dir.read_results(finished) is None


def test_progress_is_told_in_words(finished):
    assert run_dir.progress(finished, 9) == " (finished: these are its results)"
    (finished / run_dir.RESULTS).unlink()
    (finished / run_dir.METRICS).write_text("")
    assert run_dir.progress(finished, 9) == ""
    (finished / run_dir.METRICS).write_text('{"step": 1}\n')
    assert run_dir.progress(finished, 9) == " (resumes from its last checkpoint)"


def test_the_default_path_names_the_source_and_the_digest():
    for source, name in (
        ("digits", "digits"),
        ("csv:data/my table.csv", "csv_my_table"),
        ("idx:data/mnist", "idx_mnist"),
    ):
        config = plan.resolve(get_config("ae", source))
        assert str(run_dir.default_path(config)) == f"runs/ae-{name}-{config_lib.digest(config)}"
    ours, other = plan.resolve(small()), plan.resolve(small(seed=1))
    assert run_dir.default_path(ours) != run_dir.default_path(other)
    assert run_dir.default_path(ours) == run_dir.default_path(plan.resolve(small(checkpoint__every_steps=3)))


def test_a_file_is_replaced_whole(tmp_path, monkeypatch):
    file = tmp_path / "file"
    run_dir.write(file, "old")
    with monkeypatch.context() as patch:

        def killed(*_):
            raise KeyboardInterrupt

        patch.setattr(os, "replace", killed)  # killed when the new content is written, but not in its place
        with pytest.raises(KeyboardInterrupt):
            run_dir.write(file, "new")
    assert file.read_text() == "old"
    run_dir.write(file, b"new")
    assert file.read_text() == "new"
    assert list(tmp_path.iterdir()) == [file]


def test_the_same_content_is_not_written_again(tmp_path):
    run_dir.write(tmp_path / "file", "text")
    os.utime(tmp_path / "file", ns=(1, 1))
    run_dir.write(tmp_path / "file", "text")
    assert (tmp_path / "file").stat().st_mtime_ns == 1


def test_of_several_processes_the_first_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "first", lambda: False)
    run_dir.write(tmp_path / "file", "text")
    writer = metrics.Writer(tmp_path, 0)
    writer.write(1, 0.5, "train", {"loss": 1.0})
    writer.close()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_named_file_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(InputError) as error:
        run_dir.write_output(tmp_path / "missing" / "file", "text")
    one_line(error, str(tmp_path / "missing" / "file"), "cannot be written: No such file or directory")


# --- metrics ------------------------------------------------------------------------------------------


def write_metrics(path, step, *steps):
    writer = metrics.Writer(path, step)
    for k in steps:
        writer.write(k, k / 3, "train", {"loss": 1.0 / k})
    writer.close()


def steps_of(path):
    return [line["step"] for line in metrics.read(path)]


def test_lines_are_read_as_they_were_written(tmp_path):
    assert metrics.read(tmp_path) == []
    write_metrics(tmp_path, 0, 1, 2)
    assert metrics.read(tmp_path) == [
        {"step": 1, "epoch": 0.3333, "split": "train", "loss": 1.0},
        {"step": 2, "epoch": 0.6667, "split": "train", "loss": 0.5},
    ]


@pytest.mark.parametrize("cut", [1, 2, 20, 60])
def test_a_last_line_that_was_cut_is_left_out_and_written_again(tmp_path, cut):
    write_metrics(tmp_path, 0, 1, 2, 3)
    whole = (tmp_path / run_dir.METRICS).read_text()
    (tmp_path / run_dir.METRICS).write_text(whole[:-cut])
    assert steps_of(tmp_path) == ([1, 2, 3] if cut == 1 else [1, 2])  # without its end of line it is whole
    write_metrics(tmp_path, 2, 3)
    assert (tmp_path / run_dir.METRICS).read_text() == whole


def test_lines_after_the_resumed_step_are_cut(tmp_path):
    write_metrics(tmp_path, 0, 1, 2, 3, 4)
    write_metrics(tmp_path, 2, 3)
    assert steps_of(tmp_path) == [1, 2, 3]
    write_metrics(tmp_path, 0)
    assert (tmp_path / run_dir.METRICS).read_text() == ""


# --- what may resume ----------------------------------------------------------------------------------

RESUMABLE = {
    "data__resident": "false",
    "mesh__threads": 1,
    "checkpoint__every_steps": 7,
    "figures__examples": 3,
    "train__profile_steps": 5,
    "train__progress": True,
    "uses__run": ("probe",),
}


@pytest.mark.parametrize("field", RESUMABLE)
def test_a_field_that_changes_no_number_may_change(finished, field):
    value = RESUMABLE[field]
    open_once(finished, small(**{field: value}))
    assert config_lib.get(run_dir.read(finished)[0], field.replace("__", ".")) == value
    assert run_dir.read_results(finished) == {"test/loss": 1.0}


def test_every_such_field_is_tried():
    assert {field.partition("__")[0] for field in RESUMABLE} == {
        field.partition(".")[0] for field in config_lib.RESUMABLE
    }


REFUSED = {
    "another field": ({"seed": 1}, "config.seed = 0, not 1; name another --workdir"),
    "an earlier one of two": (
        {"optim__learning_rate": 0.5, "model__encoder__widths": (9,)},
        "config.model.encoder.widths = [8], not [9]; name another --workdir",
    ),
    "fewer epochs": ({"train__epochs": 1}, "config.train.epochs = 2, not 1; name another --workdir"),
    "longer, and another": ({"train__epochs": 3, "seed": 1}, "config.seed = 0, not 1; name another --workdir"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_another_run_is_refused_and_nothing_changed(finished, case):
    fields, message = REFUSED[case]
    before = contents(finished)
    with pytest.raises(InputError) as error:
        open_once(finished, small(**fields))
    one_line(
        error, f"workdir {finished}: holds a run with {message}", f"--config.init_from={finished} starts a new run"
    )
    assert contents(finished) == before


def test_other_data_are_refused(finished):
    before = contents(finished)
    with pytest.raises(InputError) as error:
        open_once(finished, small(), seed=1)
    one_line(error, f"workdir {finished}: the data of digits has changed since the run began; name another --workdir")
    assert contents(finished) == before


def test_more_epochs_continue_a_run(finished):
    (finished / run_dir.FEW_LABELS).write_text("{}")
    open_once(finished, small(train__epochs=3))
    assert run_dir.read_results(finished) is None
    assert not (finished / run_dir.FEW_LABELS).exists()
    assert run_dir.read(finished)[0].train.epochs == 3


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"optim__schedule": "cosine"}, "this run has optim.schedule = 'cosine'"),
        ({"finetune__patience": 2, "data__validation_fraction": 0.2}, "this run has finetune.patience"),
    ],
)
def test_more_epochs_do_not_where_the_end_is_part_of_the_run(tmp_path, fields, reason):
    open_once(tmp_path / "run", small(**fields))
    before = contents(tmp_path)
    with pytest.raises(InputError) as error:
        open_once(tmp_path / "run", small(**fields, train__epochs=3))
    one_line(error, "config.train.epochs = 2, not 3", "more epochs need a constant schedule", reason)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "left", [[], [run_dir.LOCK, run_dir.DATA, ".config.json.tmp"], [run_dir.RESULTS], ["notes.txt"]]
)
def test_a_directory_is_taken_where_a_killed_process_or_nobody_left_it(tmp_path, left):
    (tmp_path / "run").mkdir()
    for name in left:
        (tmp_path / "run" / name).write_text("")
    if run_dir.RESULTS in left or "notes.txt" in left:
        with pytest.raises(InputError) as error:
            open_once(tmp_path / "run", small())
        one_line(error, f"workdir {tmp_path / 'run'}: exists and is no run directory; name one that is new or empty")
        assert [file.name for file in (tmp_path / "run").iterdir()] == left
    else:
        open_once(tmp_path / "run", small())
        assert run_dir.read(tmp_path / "run")[0].name == "ae"


def test_the_config_is_written_after_the_data(tmp_path, monkeypatch):
    """A process killed between the two leaves what another one may begin in."""
    written = []
    original = resumption.write
    monkeypatch.setattr(resumption, "write", lambda path, text: (written.append(path.name), original(path, text)))
    open_once(tmp_path / "run", small())
    assert written.index(run_dir.DATA) < written.index(run_dir.CONFIG)


# --- stages -------------------------------------------------------------------------------------------


def stacked(**fields):
    return get_config("stacked", **fields)


@pytest.fixture
def staged(tmp_path):
    """What a finished run of two stages leaves."""
    path = tmp_path / "run"
    open_once(path, stacked())
    run_dir.write_results(path, {"test/error": 1.0})
    for name in ("stage_0", "stage_1", "last", "best"):
        (path / run_dir.CHECKPOINTS / name).mkdir(parents=True)
    return path


def checkpoints(path):
    return {folder.name for folder in (path / run_dir.CHECKPOINTS).iterdir()}


@pytest.mark.parametrize(
    ("fields", "holds", "way"),
    [
        ({"seed": 1}, "stage 0 with config.seed = 0, not 1", "--restart_stage=0 to train that stage and the following"),
        ({"pretrain__stage_1__epochs": 7}, "stage 1 with config.pretrain.stage_1.epochs = 100, not 7",
         "--restart_stage=1 to train that stage and the following ones again"),
        ({"optim__learning_rate": 0.5}, "a run with config.optim.learning_rate = ",
         "--restart_stage=2 to train the final model again"),
    ],
)  # fmt: skip
def test_a_refusal_names_the_first_stage_that_differs(staged, fields, holds, way):
    with pytest.raises(InputError) as error:
        open_once(staged, stacked(**fields))
    one_line(error, f"workdir {staged}: holds {holds}", way)
    assert checkpoints(staged) == {"stage_0", "stage_1", "last", "best"}
    assert run_dir.read_results(staged) == {"test/error": 1.0}


def test_a_restart_deletes_a_stage_and_what_follows_it_once(staged):
    config = stacked(pretrain__stage_1__epochs=7)
    with pytest.raises(InputError) as error:  # what differs comes before
        open_once(staged, config, restart_stage=2)
    one_line(error, "stage 1", "--restart_stage=1")
    open_once(staged, config, restart_stage=1)
    assert checkpoints(staged) == {"stage_0"}
    assert run_dir.read_results(staged) is None
    (staged / run_dir.CHECKPOINTS / "stage_1").mkdir()  # as the same command finds it that was stopped
    open_once(staged, config, restart_stage=1)
    assert checkpoints(staged) == {"stage_0", "stage_1"}
    run_dir.write_results(staged, {})
    open_once(staged, config, restart_stage=1)
    assert checkpoints(staged) == {"stage_0"}


def test_other_data_begin_anew_from_stage_0_alone(staged):
    for restart_stage in (None, 1):
        with pytest.raises(InputError) as error:
            open_once(staged, stacked(), seed=1, restart_stage=restart_stage)
        one_line(error, "has changed since the run began", "--restart_stage=0 trains it anew")
    open_once(staged, stacked(), seed=1, restart_stage=0)
    assert checkpoints(staged) == set()


# --- the lock -----------------------------------------------------------------------------------------

HOLD = """
import sys, time, filelock
with filelock.FileLock(sys.argv[1], timeout=0):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_run_is_held_by_one_process_and_a_kill_frees_it(finished):
    before = contents(finished)
    command = [sys.executable, "-c", HOLD, str(finished / run_dir.LOCK)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout.readline() == "held\n"
            for config in (small(), small(seed=1)):
                with pytest.raises(InputError) as error:
                    open_once(finished, config)
                one_line(error, f"workdir {finished}: another process is training in it")
            assert contents(finished) == before
        finally:
            other.kill()
    open_once(finished, small())
    open_once(finished, small())  # freed at the end, too


def test_the_lock_goes_with_a_run_that_fails(finished):
    config = plan.resolve(small())
    spec = sources.from_array(images(), config).spec
    with pytest.raises(ZeroDivisionError), resumption.opened(finished, config, spec):
        raise ZeroDivisionError
    open_once(finished, small())
