"""Several processes that train one run: how they start, what they agree on, and which of them writes."""

import contextlib
import json
import os
import re
import sys
import traceback
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from aejax.errors import InputError, LostError, NonFiniteError, Stopped

HEARTBEAT = 30  # seconds without a heartbeat after which a process is lost


def initialize(coordinator: str | None, processes: int | None, process_id: int | None) -> None:
    """Join the other processes, before any other use of JAX; without arguments, as the cluster configures it.

    Slurm, Kubernetes (with the package `kubernetes`), Open MPI and TPU pods give the number of processes and the id of
    this one. Raises InputError, and LostError if the others do not join.
    """
    given = {"--coordinator": coordinator, "--processes": processes, "--process_id": process_id}
    missing = [name for name, value in given.items() if value is None]
    if 0 < len(missing) < len(given):
        raise InputError(f"--distributed: {' and '.join(missing)} must be given too, or none of {', '.join(given)}")
    if processes is not None and process_id is not None and not 0 <= process_id < processes:
        raise InputError(f"--process_id={process_id}: must lie in [0, {processes}), the number of --processes")
    if coordinator is not None and not coordinator.rpartition(":")[2].isdecimal():
        raise InputError(f"--coordinator={coordinator}: must be HOST:PORT")
    # SIGTERM is handled as in a run of one process.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process_id,
            cluster_detection_method="deactivate" if coordinator else None,
            heartbeat_timeout_seconds=HEARTBEAT,
        )
    except ValueError as error:
        if coordinator:
            raise InputError(f"--coordinator={coordinator}: {str(error).splitlines()[0]}") from error
        raise InputError(
            "--distributed: found no Slurm, Kubernetes, Open MPI or TPU pod; "
            "give --coordinator=HOST:PORT --processes=N --process_id=I"
        ) from error
    except RuntimeError as error:
        raise LostError(f"--distributed: the processes did not meet: {str(error).splitlines()[0]}") from error


def first() -> bool:
    """Whether this is the process that writes and prints."""
    return jax.process_index() == 0


def any_of(flag: bool) -> bool:
    """Whether the flag is set in some process."""
    return flag if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.array(flag)).any())


def total(count: int) -> int:
    """The sum over the processes."""
    return count if jax.process_count() == 1 else int(multihost_utils.process_allgather(np.array(count)).sum())


def share(value: Any) -> Any:
    """The value of process 0, which JSON can hold, in every process."""
    return value if jax.process_count() == 1 else json.loads(_texts(json.dumps(value))[0])


def same(text: str) -> bool:
    """Whether the text is the same in all processes."""
    return jax.process_count() == 1 or len(set(_texts(text))) == 1


@contextlib.contextmanager
def agreed() -> Iterator[None]:
    """Context manager: an InputError of one process is raised in every process."""
    message = ""
    try:
        yield
    except InputError as error:
        if jax.process_count() == 1:
            raise
        message = str(error)
    if any_of(bool(message)):
        raise InputError(next(filter(None, _texts(message))))


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Context manager: if one of several processes fails, it exits at once, so that the others notice and end too.

    NonFiniteError and Stopped are raised in all processes and pass. The exit code is 4 if a collective operation
    failed, as it does when another process is gone, and 2 if examples cannot be read.
    """
    try:
        yield
    except (NonFiniteError, Stopped):
        raise
    except Exception as error:
        if jax.process_count() == 1:
            raise
        code = 1
        if isinstance(error, InputError):  # perhaps only in this process
            code = error.exit_code
            print(f"aejax: {error}", file=sys.stderr)
        # Errors of XLA begin with a status, whatever their type.
        elif re.match("[A-Z_]+: ", str(error)):
            code = 4
            print(f"aejax: another process was lost: {' '.join(str(error).split())}", file=sys.stderr)
        else:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # an orderly exit would wait for the others


def _texts(text: str) -> list[str]:
    """The text of each process, in order."""
    data = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array(len(data)))
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: len(data)] = data
    rows = multihost_utils.process_allgather(padded)
    return [row[:size].tobytes().decode() for row, size in zip(rows, sizes, strict=True)]
