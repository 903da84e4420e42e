"""Whether a run may start or resume in a directory, and the lock that holds the directory for it."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import filelock
from ml_collections import ConfigDict

from aejax import config as config_lib
from aejax.data.spec import Spec
from aejax.errors import InputError
from aejax.storage import config_json
from aejax.storage.run_dir import (
    CHECKPOINTS,
    CONFIG,
    DATA,
    ENVIRONMENT,
    FEW_LABELS,
    LOCK,
    MEMBERS,
    RESTART,
    RESULTS,
    SAVED,
    environment,
    read,
    write,
)
from aejax.training import members, plan

LENGTH = ("train.epochs", "train.steps")


@contextlib.contextmanager
def opened(path: Path, config: ConfigDict, spec: Spec, restart_stage: int | None = None) -> Iterator[Path]:
    """Make the directory, or check that it belongs to this run, and lock it; raises InputError.

    With `restart_stage` the run may differ in fields that affect that stage or later ones, whose checkpoints are
    deleted. They are deleted once until the run has ended, so that the same command resumes it.
    """
    if path.exists() and not (path / CONFIG).is_file() and not _begun(path):
        raise InputError(f"workdir {path}: exists and is no run directory; name one that is new or empty")
    with contextlib.ExitStack() as stack:
        try:
            path.mkdir(parents=True, exist_ok=True)
            # The lock file is never replaced, unlike config.json: a lock belongs to the file, not to its name.
            stack.enter_context(filelock.FileLock(path / LOCK, timeout=0))
        except filelock.Timeout as error:
            raise InputError(f"workdir {path}: another process is training in it") from error
        except OSError as error:
            raise InputError(f"workdir {path}: cannot be written: {error.strerror}") from error
        if (path / CONFIG).is_file():
            _check_same(path, config, spec, restart_stage)
            _say_uses(path, config)
        try:
            if restart_stage is not None:
                _delete_stages(path, config, restart_stage)
            write(path / DATA, spec.to_json())
            write(path / CONFIG, config_json.to_json(config))  # last: from here on this is a run directory
            write(path / ENVIRONMENT, json.dumps(environment(), indent=2) + "\n")
        except OSError as error:
            raise InputError(f"workdir {path}: cannot be written: {error.strerror}") from error
        yield path


def _say_uses(path: Path, config: ConfigDict) -> None:
    """Say that the uses of a finished run are not run again, if they have changed."""
    stored, before = read(path)[0].uses.to_dict(), config.uses.to_dict()
    changed = [name for name in config.uses.run if name not in stored["run"] or stored.get(name) != before[name]]
    if changed and (path / RESULTS).is_file():
        print(
            f"note: the run is finished, and its uses have changed; they run again by python -m aejax.evaluate "
            f"--workdir={path} --use={','.join(changed)}"
        )


def _begun(path: Path) -> bool:
    """Whether a directory is empty, or was left by a process killed before it wrote config.json."""
    return path.is_dir() and all(f.name in (LOCK, DATA) or f.name.endswith(".tmp") for f in path.iterdir())


def _delete_stages(path: Path, config: ConfigDict, first: int) -> None:
    done = f"{first} {config_lib.digest(config)}"
    if (path / RESTART).is_file() and (path / RESTART).read_text() == done:
        return
    for folder in (path / CHECKPOINTS).glob("stage_*"):  # the run may have had more stages
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
    population = members.several(stored)  # whose members have ended
    steady = stored.optim.schedule == "constant" and not stored.finetune.patience and not population
    length = lambda c: c["train.steps"] or c["train.epochs"] * (spec.train // c["train.batch_size"])  # noqa: E731
    longer = steady and length(now) > length(before)
    if longer:  # the same run, continued
        before |= {field: now[field] for field in LENGTH}
    count = len(config.pretrain.widths)
    differing = [field for field in sorted(now.keys() | before.keys()) if before.get(field) != now.get(field)]
    if "pretrain.widths" in differing:  # it determines these
        differing = [field for field in differing if field not in ("model.encoder.widths", "model.bottleneck.size")]
    first = {field: plan.first_stage(field, before.get(field), now.get(field), count) for field in differing}
    if first and (restart_stage is None or min(first.values()) < restart_stage):
        field = min(differing, key=lambda name: first[name])
        k, a, b = first[field], before.get(field), now.get(field)
        again = "that stage and the following ones" if k < count else "the final model"
        way = f", or --restart_stage={k} to train {again} again" if count else ""
        what = f"stage {k}" if k < count else "a run"
        if field in LENGTH and length(now) > length(before):
            reason = "finetune.patience" if stored.finetune.patience else f"optim.schedule = {stored.optim.schedule!r}"
            more = f"more {field.removeprefix('train.')} need a constant schedule and no patience"
            ended = "the members of a population have ended and are not trained for longer"
            way += f"; {ended}" if population else f"; {more}, but this run has {reason}"
        raise InputError(
            f"workdir {path}: holds {what} with config.{field} = {a!r}, not {b!r}; name another --workdir{way}; "
            f"--config.init_from={_model(path)} starts a new run from its encoder"
        )
    anew = "; --restart_stage=0 trains it anew" if count else ""
    if stored_spec.digest != spec.digest and restart_stage != 0:
        changed = f"the data of {config.data.source} has changed since the run began"
        raise InputError(f"workdir {path}: {changed}; name another --workdir{anew}")
    if longer and (path / SAVED).exists():
        raise InputError(
            f"workdir {path}: is a saved model without the optimiser's state, which more training needs; "
            f"--config.init_from={_model(path)} starts a new run from its encoder"
        )
    if longer:
        for name in (RESULTS, FEW_LABELS):
            (path / name).unlink(missing_ok=True)


def _model(path: Path) -> Path:
    """The run directory itself, or that of a population's first member."""
    return path / MEMBERS / "0" if (path / MEMBERS).is_dir() else path
