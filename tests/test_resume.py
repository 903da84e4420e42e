"""A run that is stopped at any moment and started again equals one that never was, bit for bit."""

import random
import shutil
import signal
import time

import numpy as np
import pytest

import aejax
from aejax import run as run_lib
from aejax.data import sources
from aejax.storage.checkpoint import Checkpoints
from common import VAE, assert_equal, command, finish, images, metrics, one_line, results, small, trainer

RUN = [
    "--config=configs/vae.py",
    "--config.model.encoder.widths=64,",
    "--config.model.encoder.dropout=0.1",
    "--config.data.validation_fraction=0.1",
    "--config.optim.schedule=cosine",
    "--config.optim.ema=0.99",
    "--config.train.epochs=60",
    "--config.train.eval_epochs=3",
    "--config.train.log_steps=4",
    "--config.checkpoint.every_steps=25",
    "--config.figures.enabled=false",
]
STEPS = 60 * 10


def start(workdir):
    return command(*RUN, f"--workdir={workdir}")


def state_of(workdir, folder="last"):
    """Step and every array of the newest checkpoint: parameters, optimiser, averages, step."""
    run = trainer(aejax.load(workdir).config)
    with Checkpoints(workdir / "checkpoints" / folder, read_only=True) as checkpoints:
        step = checkpoints.latest()
        return step, checkpoints.restore(step, run.init())[0]


def assert_same_run(a, b):
    assert metrics(a) == metrics(b)
    assert results(a) == results(b)
    for folder in ("last", "best"):
        (step, state), (other_step, other) = state_of(a, folder), state_of(b, folder)
        assert step == other_step
        assert_equal(state, other)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "uninterrupted"
    finish(start(workdir))
    return workdir


def progress(workdir):
    """The last step that metrics.jsonl has reached."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return max((int(line.split('"step": ')[1].split(",")[0]) for line in lines[:-1]), default=0)


def wait_until(process, condition, seconds=600):
    """Whether the condition came true before the process ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        if process.poll() is not None:
            return False
        time.sleep(0.001)
    kill(process)
    raise TimeoutError


def saving(workdir):
    """Whether a checkpoint is being written: it has its final name only once it is whole."""
    folder = workdir / "checkpoints" / "last"
    return folder.is_dir() and any("tmp" in path.name for path in folder.iterdir())


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.slow
@pytest.mark.optimized
def test_an_interrupt_saves_and_a_second_one_need_not_wait(uninterrupted, tmp_path):
    process = start(tmp_path / "run")
    assert wait_until(process, lambda: progress(tmp_path / "run") > 30)
    process.send_signal(signal.SIGINT)
    _, err = finish(process, 130)
    assert err.startswith("aejax: stopped at step ")
    finish(start(tmp_path / "run"))
    assert_same_run(tmp_path / "run", uninterrupted)


@pytest.mark.slow
@pytest.mark.optimized
def test_stopped_and_killed_runs_continue_bit_for_bit(uninterrupted, tmp_path):
    workdir, rng = tmp_path / "run", random.Random(time.time_ns())
    # SIGTERM: saves and ends with 143.
    process = start(workdir)
    assert wait_until(process, lambda: progress(workdir) > 30)
    process.send_signal(signal.SIGTERM)
    _, err = finish(process, 143)
    assert err.startswith("aejax: stopped at step ")
    stopped = int(err.split()[4])
    with Checkpoints(workdir / "checkpoints" / "last", read_only=True) as checkpoints:
        assert checkpoints.latest() == stopped
    # SIGKILL, three times: at a random step, in the middle of a save, at a random step after it.
    process, begin = start(workdir), stopped
    target = rng.randint(begin + 10, begin + 100)
    assert wait_until(process, lambda: progress(workdir) > target), target
    kill(process)
    for _ in range(5):
        process, begin = start(workdir), progress(workdir)
        assert wait_until(process, lambda begin=begin: progress(workdir) > begin and saving(workdir))
        kill(process)
        if saving(workdir):
            break
    else:
        pytest.fail("five kills, and none in the middle of a save")
    process, begin = start(workdir), progress(workdir)
    target = rng.randint(begin + 10, STEPS - 50)
    assert wait_until(process, lambda: progress(workdir) > target), target
    kill(process)
    out, _ = finish(start(workdir))
    assert "resumes from its last checkpoint" in out
    assert not saving(workdir)
    assert_same_run(workdir, uninterrupted)


@pytest.mark.slow
@pytest.mark.optimized
def test_twenty_kills_at_random_moments(uninterrupted, tmp_path):
    seed = time.time_ns()
    print(f"seed {seed}")
    workdir, rng = tmp_path / "run", random.Random(seed)
    for i in range(20):
        process, begin = start(workdir), progress(workdir)
        if i % 4 == 0:  # at any moment of the process: while it starts, reads, compiles, restores
            time.sleep(rng.uniform(0, 8))
        elif i % 4 == 1:
            wait_until(process, lambda: saving(workdir))
        elif i % 4 == 2:
            target = begin + rng.randint(1, 30)
            wait_until(process, lambda target=target: progress(workdir) > target)
        else:
            wait_until(process, lambda begin=begin: progress(workdir) > begin)
            time.sleep(rng.uniform(0, 0.3))
        kill(process)
        if (workdir / "results.json").exists():  # finished: begin again, so that every kill meets a run
            assert_same_run(workdir, uninterrupted)
            shutil.rmtree(workdir)
    finish(start(workdir))
    assert_same_run(workdir, uninterrupted)


@pytest.mark.slow
@pytest.mark.optimized
def test_a_finished_run_does_no_work(uninterrupted):
    files = [path for path in uninterrupted.rglob("*") if path.is_file() and path.name != ".lock"]
    before = {path: path.stat().st_mtime_ns for path in files}
    first = (uninterrupted / "results.json").read_text()
    out, _ = finish(start(uninterrupted))
    assert "finished: these are its results" in out
    assert "test/elbo" in out
    assert (uninterrupted / "results.json").read_text() == first
    assert before == {path: path.stat().st_mtime_ns for path in files}


@pytest.mark.slow
@pytest.mark.optimized
def test_kills_between_the_last_save_and_the_results(tmp_path):
    config = small(**VAE, data__validation_fraction=0.2)
    data = sources.from_array(images(), config)
    run_lib.run(config, tmp_path / "a", data)
    run_lib.run(config, tmp_path / "b", data)
    (tmp_path / "b" / "results.json").unlink()
    run_lib.run(config, tmp_path / "b", data)
    assert results(tmp_path / "a") == results(tmp_path / "b")
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")


@pytest.mark.parametrize("left", [[], ["data.json"], [".lock"], ["data.json", ".lock", ".config.json.tmp"]])
def test_a_process_killed_before_it_wrote_its_config(tmp_path, left):
    config = small(train__epochs=1)
    data = sources.from_array(images(), config)
    (tmp_path / "a").mkdir()
    for name in left:
        (tmp_path / "a" / name).write_text(data.spec.to_json() if name == "data.json" else "")
    run_lib.run(config, tmp_path / "a", data)
    assert (tmp_path / "a" / "results.json").exists()


def test_a_line_that_was_cut_short_is_written_again(tmp_path):
    config = small(train__epochs=3, checkpoint__every_steps=1, checkpoint__max_to_keep=20)
    data = sources.from_array(images(), config)
    for name in ("a", "b"):
        run_lib.run(config, tmp_path / name, data)
    (tmp_path / "b" / "results.json").unlink()
    newest = max((tmp_path / "b" / "checkpoints" / "last").iterdir(), key=lambda path: int(path.name))
    shutil.rmtree(newest)  # as if the kill came before the last save
    file = tmp_path / "b" / "metrics.jsonl"
    file.write_text(file.read_text()[:-20])
    run_lib.run(config, tmp_path / "b", data)
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{}, {"optim__ema": 0.9, "objective__kl__weight": 0.5}])
def test_more_epochs_continue_the_run(tmp_path, fields):
    config = VAE | {"train__eval_epochs": 1, "data__validation_fraction": 0.2} | fields
    data = sources.from_array(images(), small(**config))
    for epochs in (2, 5):
        run_lib.run(small(**config, train__epochs=epochs), tmp_path / "continued", data)
    run_lib.run(small(**config, train__epochs=5), tmp_path / "whole", data)
    a, b = (aejax.load(tmp_path / name) for name in ("continued", "whole"))
    assert_equal(a.params, b.params)
    assert metrics(tmp_path / "continued") == metrics(tmp_path / "whole")
    assert results(tmp_path / "continued") == results(tmp_path / "whole")


def test_more_epochs_under_a_schedule_are_another_run(tmp_path):
    config = small(optim__schedule="cosine")
    data = sources.from_array(images(), config)
    run_lib.run(config, tmp_path / "a", data)
    with pytest.raises(ValueError, match=r"config\.train\.epochs") as error:
        run_lib.run(small(optim__schedule="cosine", train__epochs=3), tmp_path / "a", data)
    one_line(error)
    assert (tmp_path / "a" / "results.json").exists()


def test_checkpoint_logging_and_mesh_fields_may_change(tmp_path):
    config = small(checkpoint__every_steps=1, checkpoint__max_to_keep=9)
    data = sources.from_array(images(), config)
    for name in ("a", "b"):
        run_lib.run(config, tmp_path / name, data)
    (tmp_path / "b" / "results.json").unlink()
    folder = tmp_path / "b" / "checkpoints" / "last"
    for path in folder.iterdir():
        if int(path.name) > 2:
            shutil.rmtree(path)
    changed = small(checkpoint__every_steps=3, checkpoint__max_to_keep=1, mesh__data=1, train__progress=True)
    run_lib.run(changed, tmp_path / "b", data)
    assert len(list(folder.iterdir())) == 1
    assert_equal(aejax.load(tmp_path / "a").params, aejax.load(tmp_path / "b").params)
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")


@pytest.mark.slow
def test_a_finished_run_with_biases_before_batch_norm_computes_with_them(tmp_path, monkeypatch):
    """An earlier version had them."""
    config = small(model__encoder__norm="batch", train__epochs=1)
    data = sources.from_array(images(), config)
    with monkeypatch.context() as patch:
        patch.setattr("aejax.models.mlp.has_bias", lambda norm: True)
        run_lib.run(config, tmp_path / "a", data)
        codes = aejax.load(tmp_path / "a").encode(data.test["x"])
    loaded = aejax.load(tmp_path / "a")
    assert "bias" in loaded.params["encoder"]["layers_0"]
    np.testing.assert_allclose(loaded.encode(data.test["x"]), codes, rtol=1e-6)
    run_lib.run(config, tmp_path / "b", data)
    assert "bias" not in aejax.load(tmp_path / "b").params["encoder"]["layers_0"]


def test_a_damaged_checkpoint_is_one_line(tmp_path):
    config = small(train__epochs=1)
    run_lib.run(config, tmp_path / "a", sources.from_array(images(), config))
    (folder,) = (tmp_path / "a" / "checkpoints" / "last").iterdir()
    shutil.rmtree(folder / "state" / "d")
    with pytest.raises(ValueError, match="cannot be restored") as error:
        aejax.load(tmp_path / "a")
    one_line(error, "checkpoints/last")


@pytest.mark.slow
@pytest.mark.optimized
def test_metrics_of_resumed_steps_stand_once(uninterrupted):
    lines = [(line["step"], line["split"]) for line in metrics(uninterrupted)]
    assert len(lines) == len(set(lines))
    assert np.isfinite([line["loss"] for line in metrics(uninterrupted)]).all()
