"""The command line as a real process; test_cli.py has its errors in this one."""

import os
import subprocess
import sys

import numpy as np
import pytest

from common import ROOT, command, finish, images

VAE = "--config=configs/vae.py"


def one_line_exit_2(process, *names):
    _, err = finish(process, 2)
    assert err.count("\n") == 1, err
    assert err.startswith("aejax: ")
    for name in names:
        assert name in err, err


def test_a_bad_command_line_and_a_bad_config_file(tmp_path):
    (tmp_path / "mine.py").write_text("def get_config(:\n")
    workdir = f"--workdir={tmp_path / 'run'}"
    field = command(VAE, "--config.model.encoder.width=3", workdir)
    file = command(f"--config={tmp_path}/mine.py", workdir)
    one_line_exit_2(field, "config.model.encoder.width", "did you mean --config.model.encoder.widths?")
    one_line_exit_2(file, "line 1", "SyntaxError")
    assert not (tmp_path / "run").exists()


def test_bad_files(tmp_path):
    (tmp_path / "a.csv").write_text("p,q\n1,2\n3,four\n")
    process = command(f"--config=configs/ae.py:csv:{tmp_path}/a.csv", f"--workdir={tmp_path / 'run'}")
    one_line_exit_2(process, "a.csv", "row 1", "'four'")
    assert not (tmp_path / "run").exists()


def test_unwritable_workdir(tmp_path):
    (tmp_path / "file").write_text("")
    one_line_exit_2(command(VAE, f"--workdir={tmp_path}/file/run"), "workdir", "file/run")


def test_help_shows_examples_and_print_config_the_config(tmp_path):
    help_process, print_process = (
        command("--help"),
        command(
            "--config=configs/inpainting.py",
            "--config.optim.clip=2",
            "--config.pair.inpaint.visible=top_left, top_right",
            "--config.model.encoder.widths=7,",
            "--print_config",
        ),
    )
    out, _ = finish(help_process)
    assert "python -m aejax.main --config=configs/vae.py" in out
    assert "--workdir" in out
    out, _ = finish(print_process)
    lines = out.splitlines()
    assert "optim.clip = 2.0  # largest global norm of the gradient; 0 = off; must be at least 0" in lines
    printed = dict(line.partition("  # ")[0].split(" = ", 1) for line in lines)
    assert printed["pair.name"] == "'inpaint'"
    assert printed["pair.inpaint.visible"] == "('top_left', 'top_right')"
    assert printed["model.encoder.widths"] == "(7,)"


@pytest.mark.slow
def test_a_run_then_another_config_then_divergence(tmp_path):
    np.savez(tmp_path / "a.npz", x=images())
    source = f"--config=configs/ae.py:npz:{tmp_path}/a.npz"
    short = ["--config.train.epochs=1", "--config.train.batch_size=32", "--config.figures.enabled=false"]
    small = ["--config.model.encoder.widths=8,", "--config.model.bottleneck.size=3"]
    run = [source, *short, *small, f"--workdir={tmp_path / 'run'}"]
    diverges = [source, *short, *small, "--config.optim.learning_rate=1e38", f"--workdir={tmp_path / 'bad'}"]
    first, bad = command(*run), command(*diverges)
    out, err = finish(first)
    assert "test/squared_error" in out
    assert "it/s" not in err  # no progress bar without a terminal
    assert "examples/s" not in err
    _, err = finish(bad, 3)
    assert "step 0: not finite: update of" in err
    one_line_exit_2(command(*run, "--config.seed=1"), "config.seed")


@pytest.mark.slow
def test_default_workdir_is_named_by_the_config(tmp_path):
    short = ["--config.train.epochs=1", "--config.figures.enabled=false"]
    done = subprocess.run(
        [sys.executable, "-m", "aejax.main", f"--config={ROOT}/configs/ae.py", *short],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    (path,) = (tmp_path / "runs").iterdir()
    assert path.name.startswith("ae-digits-")
    assert str(path.name) in done.stdout


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts threads as Linux names them")
@pytest.mark.parametrize("threads", [1, 3])
def test_threads_of_the_cpu(threads):
    code = """
import glob
import jax
from aejax import cli
from aejax.storage import run_dir
cli.define_config()
def main():
    jax.devices()
    names = [open(path).read() for path in glob.glob("/proc/self/task/*/comm")]
    print(sum("XLAEigen" in name for name in names), run_dir.cores())
cli.run(main)
"""
    command = [sys.executable, "-c", code, "--config=configs/ae.py", f"--config.mesh.threads={threads}"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(threads)] * 2
