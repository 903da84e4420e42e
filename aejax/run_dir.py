"""What lies where in a run directory, and the writer of its metrics."""

import contextlib
import fcntl
import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict
from tensorboardX import SummaryWriter

from aejax import config as config_lib
from aejax import plan, processes
from aejax.data.dataset import Spec
from aejax.errors import InputError

CONFIG, DATA, ENVIRONMENT = "config.json", "data.json", "environment.json"
FEW_LABELS = "few_labels.json"  # errors of every draw of labels
METRICS, RESULTS = "metrics.jsonl", "results.json"
LOCK, RESTART = ".lock", ".restart_stage"
CHECKPOINTS, FIGURES, TENSORBOARD, PROFILE = "checkpoints", "figures", "tensorboard", "profile"
REPORT, MAP = "report.html", "map.npz"  # the latter in FIGURES
PACKAGES = ("aejax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scikit-learn")


def default_path(config: ConfigDict) -> Path:
    """runs/NAME-SOURCE-DIGEST."""
    name, _, argument = config.data.source.partition(":")
    source = re.sub(r"[^A-Za-z0-9.]+", "_", f"{name} {Path(argument).stem}".strip())
    return Path("runs") / f"{config.name}-{source}-{config_lib.digest(config)}"


@contextlib.contextmanager
def opened(path: Path, config: ConfigDict, spec: Spec, restart_stage: int | None = None) -> Iterator[Path]:
    """Make the directory, or check that it is this run's, and hold it; raises InputError.

    With `restart_stage` the run may differ in what determines that stage and those after it, which are deleted:
    once, until the run has ended, so that the same command resumes.
    """
    if path.exists() and not (path / CONFIG).is_file() and not _begun(path):
        raise InputError(f"workdir {path}: exists and is no run directory; name one that is new or empty")
    with contextlib.ExitStack() as stack:
        try:
            path.mkdir(parents=True, exist_ok=True)
            # A file that is never replaced, as config.json is: a lock goes with the file, not its name.
            lock = stack.enter_context(open(path / LOCK, "a"))
        except OSError as error:
            raise InputError(f"workdir {path}: cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(f"workdir {path}: another process is training in it") from error
        if (path / CONFIG).is_file():
            _check_same(path, config, spec, restart_stage)
        try:
            if restart_stage is not None:
                _delete_stages(path, config, restart_stage)
            write(path / DATA, spec.to_json())
            write(path / CONFIG, config_lib.to_json(config))  # last: from here on this is a run directory
            write(path / ENVIRONMENT, json.dumps(environment(), indent=2) + "\n")
        except OSError as error:
            raise InputError(f"workdir {path}: cannot be written: {error.strerror}") from error
        yield path


def _begun(path: Path) -> bool:
    """Whether a directory is empty, or was left so by a process killed before it wrote config.json."""
    return path.is_dir() and all(f.name in (LOCK, DATA) or f.name.endswith(".tmp") for f in path.iterdir())


def read(path: Path) -> tuple[ConfigDict, Spec]:
    """The config and the data's description of a run directory; raises InputError."""
    for name in (CONFIG, DATA):
        if not (path / name).is_file():
            raise InputError(f"workdir {path}: is no run directory: it has no {name}")
    try:
        return config_lib.from_json((path / CONFIG).read_text()), Spec.from_json((path / DATA).read_text())
    except json.JSONDecodeError as error:
        raise InputError(f"workdir {path}: cannot be read: {error}") from error


def _delete_stages(path: Path, config: ConfigDict, first: int) -> None:
    done = f"{first} {config_lib.digest(config)}"
    if (path / RESTART).is_file() and (path / RESTART).read_text() == done:
        return
    for folder in (path / CHECKPOINTS).glob("stage_*"):  # there may have been more of them
        if int(folder.name.removeprefix("stage_")) >= first:
            shutil.rmtree(folder, ignore_errors=True)
    for name in ("last", "best"):
        shutil.rmtree(path / CHECKPOINTS / name, ignore_errors=True)
    for name in (RESULTS, FEW_LABELS):
        (path / name).unlink(missing_ok=True)
    write(path / RESTART, done)  # last: a process killed before this deletes again


def _check_same(path: Path, config: ConfigDict, spec: Spec, restart_stage: int | None) -> None:
    stored, stored_spec = read(path)
    before, now = config_lib.identity(stored), config_lib.identity(config)
    # Under patience a finished run holds its best state, not its last.
    steady = stored.optim.schedule == "constant" and not stored.finetune.patience
    longer = steady and now["train.epochs"] > before["train.epochs"]
    if longer:  # the same run, continued
        before["train.epochs"] = now["train.epochs"]
    count = len(config.pretrain.widths)
    differing = [field for field in sorted(now.keys() | before.keys()) if before.get(field) != now.get(field)]
    if "pretrain.widths" in differing:  # which these follow
        differing = [field for field in differing if field not in ("model.encoder.widths", "model.bottleneck.size")]
    first = {field: plan.first_stage(field, before.get(field), now.get(field), count) for field in differing}
    if first and (restart_stage is None or min(first.values()) < restart_stage):
        field = min(differing, key=lambda name: first[name])
        k, a, b = first[field], before.get(field), now.get(field)
        again = "that stage and what follows it" if k < count else "what follows the stages"
        way = f", or --restart_stage={k} to train {again} again" if count else ""
        what = f"stage {k}" if k < count else "a run"
        raise InputError(
            f"workdir {path}: holds {what} with config.{field} = {a!r}, not {b!r}; name another --workdir{way}"
        )
    anew = "; --restart_stage=0 trains it anew" if count else ""
    if stored_spec.digest != spec.digest and restart_stage != 0:
        raise InputError(f"workdir {path}: the data of {config.data.source} has changed since the run began{anew}")
    if longer:
        for name in (RESULTS, FEW_LABELS):
            (path / name).unlink(missing_ok=True)


def write(path: Path, content: str | bytes) -> None:
    """Replace a file whole, in process 0: one killed at any moment leaves the old content or the new."""
    if not processes.first():
        return
    content = content.encode() if isinstance(content, str) else content
    if path.exists() and path.read_bytes() == content:
        return
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def write_output(path: Path, content: str | bytes) -> None:
    """`write` a file that the caller has named; raises InputError."""
    try:
        write(path, content)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error


def environment() -> dict[str, Any]:
    """What a result depends on besides the config."""
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return {
        "python": platform.python_version(),
        "packages": versions,
        "devices": [str(device.device_kind) for device in jax.devices()],
        "processes": jax.process_count(),
        "cores": cores(),
        "commit": commit.stdout.strip(),
    }


def cores() -> int:
    """Of the CPU, those that this process uses: NPROC, which XLA goes by, or those that it may."""
    if os.environ.get("NPROC", "").isdecimal():
        return int(os.environ["NPROC"])
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Writer:
    """Metrics to metrics.jsonl and TensorBoard, in process 0; lines after the step of a resumed state are cut."""

    def __init__(self, path: Path, step: int):
        kept = [line for line in read_metrics(path) if line["step"] <= step]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        write(path / METRICS, text)
        first = processes.first()
        self._file = open(path / METRICS if first else os.devnull, "a")  # noqa: SIM115  (closed in close)
        purge = step + 1 if step else None
        self._board = SummaryWriter(str(path / TENSORBOARD), purge_step=purge, write_to_disk=first)

    def write(self, step: int, epoch: float, split: str, metrics: Mapping[str, Any]) -> None:
        line = {"step": step, "epoch": round(epoch, 4), "split": split, **metrics}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        for name, value in metrics.items():
            if name != "stage":
                self._board.add_scalar(f"{split}/{name}", value, step)

    def close(self) -> None:
        self._file.close()
        self._board.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; a last line cut short by a kill is left out."""
    if not (path / METRICS).is_file():
        return []
    lines = []
    for text in (path / METRICS).read_text().splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            lines.append(json.loads(text))
    return lines


def write_results(path: Path, results: Mapping[str, float]) -> None:
    """results.json, and the table on the terminal."""
    write(path / RESULTS, json.dumps(results, indent=2) + "\n")
    (path / RESTART).unlink(missing_ok=True)


def progress(path: Path) -> str:
    """What the terminal says of a run that is not new."""
    if (path / RESULTS).is_file():
        return " (finished: its results, without work)"
    if (path / METRICS).is_file() and (path / METRICS).stat().st_size:
        return " (begun before: it goes on from its last checkpoint)"
    return ""


def read_results(path: Path) -> dict[str, float] | None:
    """The results of a finished run, or None; raises InputError."""
    if not (path / RESULTS).is_file():
        return None
    try:
        results: dict[str, float] = json.loads((path / RESULTS).read_text())
    except json.JSONDecodeError as error:
        raise InputError(f"{path / RESULTS}: cannot be read: {error}") from error
    return results
