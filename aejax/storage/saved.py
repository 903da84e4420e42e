"""A trained model in a run directory."""

import dataclasses
from pathlib import Path

import jax

from aejax import experiment as experiment_lib
from aejax.errors import InputError
from aejax.storage import run_dir
from aejax.storage.checkpoint import Checkpoints
from aejax.trained import Trained, of_state


def load(workdir: str | Path, checkpoint: str = "last") -> Trained:
    """The model of a run directory; checkpoint "last", or "best" by validation loss. Raises InputError."""
    path = Path(workdir).expanduser()
    config, spec = run_dir.read(path)
    folder = path / run_dir.CHECKPOINTS / checkpoint
    if not folder.is_dir():
        raise InputError(f"workdir {path}: has no checkpoint {checkpoint!r}")
    experiment = experiment_lib.build(config, spec)
    state = jax.eval_shape(experiment.init)
    # Without the optimiser's state, whose tree may differ: few_labels chooses what is frozen.
    parts = {name: value for name, value in vars(state).items() if name != "opt_state" and value is not None}
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    like = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=device), parts)
    with Checkpoints(folder, read_only=True) as checkpoints:
        step = checkpoints.latest()
        if step is None:
            raise InputError(f"workdir {path}: has no checkpoint yet")
        found = checkpoints.restore_part(step, like)
    return of_state(experiment, dataclasses.replace(state, **found, opt_state=None))
