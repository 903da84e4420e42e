"""Several processes on this machine train one run: they agree, stop, are lost and resume together."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import kubernetes_validate
import numpy as np
import pyarrow
import pytest
import yaml
from pyarrow import parquet

import aejax
from common import ROOT, command, finish, images, metrics, results, small

BAD_FLAGS = {
    "no port": (["--coordinator=localhost", "--processes=2", "--process_id=0"], "must be HOST:PORT"),
    "one is missing": (["--coordinator=localhost:1", "--processes=2"], "--process_id must be given too"),
    "not one of them": (["--coordinator=localhost:1", "--processes=2", "--process_id=2"], "must lie in [0, 2)"),
    "no cluster": ([], "found no Slurm"),
}


@pytest.mark.parametrize("case", BAD_FLAGS)
def test_bad_flags_of_distributed(case):
    flags, found = BAD_FLAGS[case]
    _, err = finish(command("--config=configs/vae.py", "--distributed", *flags), 2)
    assert err.count("\n") == 1, err
    assert found in err


def test_flags_of_distributed_need_it():
    _, err = finish(command("--config=configs/vae.py", "--processes=2"), 2)
    assert err == "aejax: --coordinator, --processes and --process_id need --distributed\n"


@pytest.mark.slow
def test_what_one_process_finds_wrong_ends_all(tmp_path):
    np.save(tmp_path / "0.npy", images())
    np.save(tmp_path / "1.npy", images(seed=1))
    (tmp_path / "same.npy").symlink_to(tmp_path / "0.npy")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    for names, expected in (
        (["0", "missing"], "missing.npy"),
        (["0", "1"], "must hold the same data for all processes"),
        (["0", "same"], "must be true or false: the processes decide differently"),
    ):
        started = [
            command(
                f"--config=configs/ae.py:npy:{tmp_path}/{name}.npy",
                f"--config.data.resident={str(name != 'same').lower()}",
                "--config.train.batch_size=32",
                f"--workdir={tmp_path}/run",
                "--distributed",
                f"--coordinator=localhost:{port}",
                "--processes=2",
                f"--process_id={i}",
                env=os.environ | {"JAX_NUM_CPU_DEVICES": "1"},
            )
            for i, name in enumerate(names)
        ]
        for process in started:
            _, err = finish(process, 2)
            (line,) = [line for line in err.splitlines() if line.startswith("aejax:")]
            assert expected in line
        assert not (tmp_path / "run").exists()


RUN = [
    "--config=configs/vae.py",
    "--config.model.encoder.widths=64,32",
    "--config.model.encoder.norm=batch",
    "--config.model.encoder.dropout=0.1",
    "--config.data.validation_fraction=0.1",
    "--config.optim.ema=0.99",
    "--config.train.epochs=30",
    "--config.train.eval_epochs=5",
    "--config.train.log_steps=5",
    "--config.checkpoint.every_steps=20",
    "--config.figures.enabled=false",
]


def launch(workdir, processes, devices, *flags):
    """launch/local.sh, or one process without it."""
    arguments = [*RUN, f"--workdir={workdir}", *flags]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)}
    if processes == 1:
        return command(*arguments, env=environment)
    return subprocess.Popen(
        ["launch/local.sh", str(processes), *arguments],
        cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def member(launcher, i):
    """The process id of process i of a launcher."""
    for child in Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split():
        if f"--process_id={i}" in Path(f"/proc/{child}/cmdline").read_text().split("\0"):
            return int(child)
    raise AssertionError(f"no process {i}")


def reach(launcher, workdir, step):
    """Wait until metrics.jsonl has a line of a later step."""
    path = workdir / "metrics.jsonl"
    for _ in range(3000):
        lines = path.read_text().splitlines()[:-1] if path.exists() else []
        if lines and int(re.match(r'\{"step": (\d+)', lines[-1])[1]) > step:
            return
        assert launcher.poll() is None, launcher.communicate()
        time.sleep(0.1)
    raise TimeoutError


@pytest.mark.slow
@pytest.mark.optimized
def test_two_processes_stop_lose_one_and_resume_as_one(tmp_path):
    whole = launch(tmp_path / "whole", 1, 4)
    finish(whole)
    run = tmp_path / "run"
    # SIGTERM to one process stops both, at the same step.
    launcher = launch(run, 2, 2, "--config.mesh.fsdp=true")
    reach(launcher, run, 20)
    os.kill(member(launcher, 1), signal.SIGTERM)
    out, err = finish(launcher, 143)
    lines = [line for line in err.splitlines() if line.startswith("aejax:")]
    assert len(lines) == 2
    assert len(set(lines)) == 1
    assert out.count("run directory") == 1
    # Other processes, and other devices, go on; then one of them is lost, and another time the first.
    for lost, step in ((1, 80), (0, 160)):
        launcher = launch(run, 2, 1, "--config.mesh.model=2", "--config.mesh.data=1")
        reach(launcher, run, step)
        os.kill(member(launcher, lost), signal.SIGKILL)
        begin = time.monotonic()
        _, err = finish(launcher, 137)
        assert time.monotonic() - begin < 60
        assert f"launch/local.sh: process {lost} of 2 was lost (exit code 137)" in err
    finish(launch(run, 1, 4))
    assert results(run).keys() == results(tmp_path / "whole").keys()
    for ours, theirs in zip(metrics(run)[:20], metrics(tmp_path / "whole")[:20], strict=True):
        assert (ours["step"], ours["split"]) == (theirs["step"], theirs["split"])
        # A bias before a batch norm has no gradient but rounding, whose sign Adam follows: it moves the running mean.
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5 if ours["split"] == "train" else 1e-2)
    assert len(metrics(run)) == len(metrics(tmp_path / "whole"))
    assert results(run)["test/loss"] == pytest.approx(results(tmp_path / "whole")["test/loss"], rel=1e-2)


@pytest.mark.slow
def test_a_search_of_two_processes_that_loses_one_equals_that_of_one(tmp_path):
    flags = ("--search=3", "--range=optim.learning_rate=1e-4..1e-2:log", "--config.train.epochs=12",
             "--config.data.validation_fraction=0.1", "--config.train.log_steps=10")  # fmt: skip
    finish(launch(tmp_path / "whole", 1, 2, *flags))
    run = tmp_path / "run"
    launcher = launch(run, 2, 1, *flags)
    reach(launcher, run / "members" / "0", 20)
    os.kill(member(launcher, 1), signal.SIGKILL)
    finish(launcher, 137)
    finish(launch(run, 2, 1, *flags))
    whole, parts = (parquet.read_table(path / "members.parquet").to_pylist() for path in (tmp_path / "whole", run))
    assert [row["ended"] for row in whole] == [row["ended"] for row in parts]
    assert results(run) == pytest.approx(results(tmp_path / "whole"), rel=1e-5)


@pytest.mark.slow
def test_a_frozen_process_ends_the_other(tmp_path):
    launcher = launch(tmp_path / "run", 2, 1, "--config.train.epochs=1000")
    reach(launcher, tmp_path / "run", 20)
    frozen, other = member(launcher, 1), member(launcher, 0)
    os.kill(frozen, signal.SIGSTOP)
    begin = time.monotonic()
    while Path(f"/proc/{other}").exists():
        assert time.monotonic() - begin < 60
        time.sleep(0.1)
    os.kill(frozen, signal.SIGKILL)  # as the launcher does, after a minute more
    finish(launcher, 137)


@pytest.mark.slow
def test_each_process_reads_its_own_rows(tmp_path):
    # Of a size at which an interval takes several dispatches.
    np.save(tmp_path / "a.npy", np.random.default_rng(0).integers(0, 256, (400, 128, 128), np.uint8))
    flags = [f"--config.data.source=npy:{tmp_path}/a.npy", "--config.train.batch_size=32", "--config.train.epochs=5"]
    flags += ["--config.train.log_steps=50", "--config.train.eval_epochs=3"]
    finish(launch(tmp_path / "one", 1, 4, *flags))
    finish(launch(tmp_path / "two", 2, 2, *flags, "--config.data.resident=false"))
    lines = [[line for line in metrics(tmp_path / name) if line["split"] == "train"] for name in ("one", "two")]
    for ours, theirs in zip(*lines, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)


@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_kubernetes_file_fits_the_schema(version):
    for document in yaml.safe_load_all((ROOT / "launch" / "kubernetes.yaml").read_text()):
        kubernetes_validate.validate(document, version, strict=True)


def test_kubernetes_job_is_consistent():
    """What Kubernetes itself does not check: names, counts and the port fit together."""
    service, job = yaml.safe_load_all((ROOT / "launch" / "kubernetes.yaml").read_text())
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    flags = dict(flag.removeprefix("--").split("=", 1) for flag in container["args"] if "=" in flag)
    assert (service["kind"], service["apiVersion"], service["spec"]["clusterIP"]) == ("Service", "v1", "None")
    assert (job["kind"], job["apiVersion"], spec["completionMode"]) == ("Job", "batch/v1", "Indexed")
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert spec["completions"] == spec["parallelism"] == int(flags["processes"])
    host, _, port = flags["coordinator"].partition(":")
    assert host == f"{job['metadata']['name']}-0.{pod['subdomain']}"
    assert pod["subdomain"] == service["metadata"]["name"]
    assert 1024 < int(port) < 65536
    assert flags["process_id"] == f"$({container['env'][0]['name']})"
    assert pod["restartPolicy"] == "Never"  # which podFailurePolicy asks for
    rule = spec["podFailurePolicy"]["rules"][1]["onExitCodes"]
    assert (rule["containerName"], rule["values"]) == (container["name"], [2, 3])
    mounts, volumes = container["volumeMounts"], pod["volumes"]
    assert {mount["name"] for mount in mounts} == {volume["name"] for volume in volumes}
    assert "--distributed" in container["args"]


@pytest.mark.parametrize("file", ["gallery.sh", "gpu.sh", "local.sh", "tpu_pod.sh", "slurm.sbatch"])
def test_shell_files(file):
    done = subprocess.run(["shellcheck", ROOT / "launch" / file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_processes_share_the_rows_of_a_prediction(tmp_path):
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((30_000, 100))  # two batches
    table = pyarrow.table({f"c{j}": rows[:, j] for j in range(100)})
    parquet.write_table(table, tmp_path / "x.parquet", row_group_size=11_000)
    run = tmp_path / "run"
    source = f"parquet:{tmp_path}/x.parquet"
    flags = ["--config.objective.likelihood=squared_error", "--config.train.steps=5", "--config.uses.run=anomaly,"]
    finish(command(f"--config=configs/ae.py:{source}", f"--workdir={run}", *flags))
    for what in ("anomalies", "codes"):
        asked = [f"--workdir={run}", f"--what={what}"]
        finish(command(*asked, f"--output={tmp_path / what}.parquet", module="aejax.predict"))
        folder = tmp_path / f"{what}_of_2.parquet"
        folder.mkdir()
        (folder / ".part-00000-of-00002.parquet.1.tmp").touch()  # left by a killed process
        done = subprocess.run(
            ["launch/local.sh", "2", "predict", *asked, f"--output={folder}"],
            cwd=ROOT,
            env=os.environ | {"PYTHON": sys.executable},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "30000 rows" in done.stdout
        names = [f"part-0000{i}-of-00002.parquet" for i in range(2)]
        assert sorted(path.name for path in folder.iterdir()) == names
        one, two = parquet.read_table(tmp_path / f"{what}.parquet"), parquet.read_table(folder)
        first = one.column_names[0]
        two = two.sort_by(first)
        assert one.column_names == two.column_names
        for name in one.column_names:
            a, b = one[name].to_pylist(), two[name].to_pylist()
            if name == "reasons":
                assert np.mean([x == y for x, y in zip(a, b, strict=True)]) > 0.99  # rounding
            else:
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_output_of_several_processes_is_a_folder(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    folder = tmp_path / "o.parquet"
    folder.mkdir()
    (folder / "part-00000-of-00003.parquet").touch()
    model = aejax.fit(images(), small(train__epochs=1), workdir=tmp_path / "run")
    assert model
    joining = ["--distributed", f"--coordinator=localhost:{port}", "--processes=1", "--process_id=0"]
    np.save(tmp_path / "x.npy", images())
    asked = [f"--workdir={tmp_path / 'run'}", f"--input=npy:{tmp_path / 'x.npy'}"]
    for output, words in ((tmp_path / "o.csv", "must end in .parquet"), (folder, "not of 1 processes")):
        _, err = finish(command(*asked, f"--output={output}", *joining, module="aejax.predict"), 2)
        assert words in err
