"""A trained model in a run directory."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from aejax import experiment as experiment_lib
from aejax.errors import InputError
from aejax.storage import run_dir
from aejax.storage.checkpoint import Checkpoints
from aejax.trained import Trained, of_state
from aejax.uses import stored
from aejax.uses.anomaly import detector
from aejax.uses.anomaly.detector import Detector
from aejax.uses.clustering import clusters
from aejax.uses.clustering.clusters import Clusters
from aejax.uses.compression import quantizer
from aejax.uses.compression.quantizer import Quantizer
from aejax.uses.generation import samplers
from aejax.uses.generation.samplers import Sampler


def load(workdir: str | Path, checkpoint: str = "last") -> Trained:
    """The model of a run directory; checkpoint "last", or "best" by validation loss. Raises InputError."""
    path = run_dir.member(workdir, None)
    config, spec = run_dir.read(path)
    folder = path / run_dir.CHECKPOINTS / checkpoint
    if not folder.is_dir():
        raise InputError(f"workdir {path}: has no checkpoint {checkpoint!r}")
    experiment = experiment_lib.build(config, spec)
    state = jax.eval_shape(experiment.init)
    # Without the optimiser's state, whose tree may differ: few_labels chooses what is frozen.
    parts = vars(state).keys() - {"opt_state"}
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    with Checkpoints(folder, read_only=True) as checkpoints:
        step = checkpoints.latest()
        if step is None:
            raise InputError(f"workdir {path}: has no checkpoint yet")
        found = checkpoints.restore_part(step, parts, device)
    return of_state(experiment, dataclasses.replace(state, **found, opt_state=None))


def load_all(workdir: str | Path, checkpoint: str = "last") -> list[Trained]:
    """The models of a population that have finished, or the one model of a run; raises InputError."""
    folders = run_dir.finished_members(Path(workdir).expanduser())
    return [load(folder, checkpoint) for folder in folders or [Path(workdir)]]


def load_detector(workdir: str | Path, models: Sequence[Trained], what: str) -> tuple[Detector, dict[str, np.ndarray]]:
    """The detector that the use `anomaly` has stored with a run or a population of these models, and all its arrays.

    Raises InputError.
    """
    return detector.load(_stored(workdir, "anomaly", detector.STORED, what), models)


def load_clusters(workdir: str | Path, model: Trained, what: str) -> Clusters:
    """The clusters that the use `clustering` has stored with the run of this model; raises InputError."""
    return clusters.load(_stored(workdir, "clustering", clusters.STORED, what), model)


def load_quantizer(workdir: str | Path, model: Trained) -> Quantizer | None:
    """The quantiser that the use `compression` has stored with the run of this model, if it has; raises InputError."""
    path = Path(workdir).expanduser() / run_dir.USES / "compression" / f"{quantizer.STORED}.npz"
    return quantizer.restored(stored.read(path, [model], "compression")[0]) if path.is_file() else None


def load_samplers(workdir: str | Path, model: Trained, what: str) -> dict[str, Sampler]:
    """The samplers that the use `generation` has stored with the run of this model, by name; raises InputError."""
    return samplers.load(_stored(workdir, "generation", samplers.STORED, what), model)


def _stored(workdir: str | Path, use: str, name: str, what: str) -> Path:
    """The file of what a use has fitted; raises InputError."""
    path = Path(workdir).expanduser() / run_dir.USES / use / f"{name}.npz"
    if not path.is_file():
        raise InputError(
            f"--what={what}: this run has no fitted {name}; make {'them' if name.endswith('s') else 'one'} by "
            f"python -m aejax.evaluate --workdir={workdir} --use={use}"
        )
    return path
