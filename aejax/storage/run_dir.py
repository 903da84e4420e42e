"""The files of a run directory."""

import contextlib
import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from aejax import config as config_lib
from aejax.data.spec import Spec
from aejax.errors import InputError
from aejax.parallel import processes
from aejax.storage import config_json

CONFIG, DATA, ENVIRONMENT = "config.json", "data.json", "environment.json"
FEW_LABELS = "few_labels.json"  # errors of every draw of labels
METRICS, RESULTS = "metrics.jsonl", "results.json"
LOCK, RESTART, SAVED = ".lock", ".restart_stage", ".saved"  # saved: by Model.save, without the optimiser's state
CHECKPOINTS, FIGURES, TENSORBOARD, PROFILE = "checkpoints", "figures", "tensorboard", "profile"
REPORT, MAP, USES = "report.html", "map.npz", "uses"  # the map lies in FIGURES
MEMBERS, TABLE = "members", "members.parquet"  # of a population
ENDED = "ended.txt"  # why a member of a population has no results
PACKAGES = ("aejax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scikit-learn")


def default_path(config: ConfigDict) -> Path:
    """runs/NAME-SOURCE-DIGEST."""
    name, _, argument = config.data.source.partition(":")
    source = re.sub(r"[^A-Za-z0-9.]+", "_", f"{name} {Path(argument).stem}".strip())
    return Path("runs") / f"{config.name}-{source}-{config_lib.digest(config)}"


def read(path: Path) -> tuple[ConfigDict, Spec]:
    """The config and the data's description of a run directory; raises InputError."""
    for name in (CONFIG, DATA):
        if not (path / name).is_file():
            raise InputError(f"workdir {path}: is no run directory: it has no {name}")
    try:
        return config_json.from_json((path / CONFIG).read_text()), Spec.from_json((path / DATA).read_text())
    except json.JSONDecodeError as error:
        raise InputError(f"workdir {path}: cannot be read: {error}") from error


def member(workdir: str | Path, number: int | str | None) -> Path:
    """The run directory of a member of a population, or `workdir` itself if it is one run; raises InputError."""
    path = Path(workdir).expanduser()
    known = sorted(int(folder.name) for folder in (path / MEMBERS).glob("*"))
    if not known:
        if number is not None:
            raise InputError(f"workdir {path}: is one run, which has no member {number!r}")
        return path
    best = (read_results(path) or {}).get("best_member")
    chosen = int(best) if number == "best" and best is not None else number
    if chosen not in known:
        ways = f"{known[0]} to {known[-1]}" + (f", best: {best:.0f}" if best is not None else "")
        raise InputError(
            f"workdir {path}: is a population; name one of its members ({ways}): {path / MEMBERS}/N, in Python member=N"
        )
    return path / MEMBERS / str(chosen)


def finished_members(path: Path) -> list[Path]:
    """The run directories of the members of a population that have results, by number; [] of one run."""
    found = [folder for folder in (path / MEMBERS).glob("*") if (folder / RESULTS).is_file()]
    return sorted(found, key=lambda folder: int(folder.name))


def write(path: Path, content: str | bytes) -> None:
    """Replace a file atomically, in process 0: a killed process leaves the old content or the new."""
    if not processes.first():
        return
    content = content.encode() if isinstance(content, str) else content
    if path.exists() and path.read_bytes() == content:
        return
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def write_output(path: Path, content: str | bytes) -> None:
    """`write` to a path that the user named; raises InputError."""
    try:
        write(path, content)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error


def environment() -> dict[str, Any]:
    """The environment that a result depends on besides the config."""
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
    """CPU cores of this process: NPROC, which XLA reads, or else those that the process may use."""
    if os.environ.get("NPROC", "").isdecimal():
        return int(os.environ["NPROC"])
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def write_results(path: Path, results: Mapping[str, float]) -> None:
    """results.json: the run is finished."""
    write(path / RESULTS, json.dumps(results, indent=2) + "\n")
    (path / RESTART).unlink(missing_ok=True)


def progress(path: Path, steps: int) -> str:
    """The state of a run of so many steps that is not new, for the terminal."""
    if (path / RESULTS).is_file():
        return " (finished: these are its results)"
    if (path / METRICS).is_file() and (path / METRICS).stat().st_size:
        saved = [int(step.name) for step in (path / CHECKPOINTS / "last").glob("*") if step.name.isdecimal()]
        return f" (resumes from its last checkpoint{f', step {max(saved):,} of {steps:,}' if saved else ''})"
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
