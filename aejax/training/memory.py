"""How many members of a population the devices hold."""

import math
import os
from collections.abc import Sequence

import jax
import numpy as np

from aejax.data.dataset import Dataset
from aejax.errors import FieldError
from aejax.experiment import Experiment

SHARE = 0.5  # of a device's memory that the members may take
COPIES = 4  # of a member's state: before and after a step, the best one, and gradients


def members(experiment: Experiment, data: Sequence[Dataset]) -> int:
    """Members that fit into the memory of all devices besides the data; raises FieldError if not one does.

    A member takes COPIES times its parameters with the optimiser's state, and the activations of a batch.
    """
    state = sum(math.prod(a.shape) * a.dtype.itemsize for a in jax.tree.leaves(jax.eval_shape(experiment.init)))
    batch = 8 * experiment.config.train.batch_size * math.prod(experiment.shape) * 4
    devices = jax.local_devices()
    held = sum(_held(one) for one in {id(one): one for one in data}.values())
    room = SHARE * limit(devices[0]) - held
    if devices[0].platform == "cpu":  # they share the machine's memory, and each holds the data
        room = SHARE * limit(devices[0]) / len(devices) - held
    each = int(room // (COPIES * state + batch))
    if each < 1:
        need = (COPIES * state + batch + held) / 2**30
        raise FieldError(
            "population.seeds", tuple(experiment.config.population.seeds),
            f"needs {need:.1f} GiB on a device for one member, more than {SHARE:.0%} of its "
            f"{limit(devices[0]) / 2**30:.1f} GiB",
        )  # fmt: skip
    return each * len(jax.devices())


def _held(data: Dataset) -> int:
    """Bytes of the examples on a device, where all are dense."""
    spec, x = data.spec, data.spec.x
    return (spec.train + spec.validation + spec.test) * math.prod(x.shape) * np.dtype(x.dtype).itemsize


def limit(device: jax.Device) -> int:
    """Bytes of memory of a device; of a CPU those of the machine."""
    found = (device.memory_stats() or {}).get("bytes_limit") if device.platform != "cpu" else None
    return found or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
