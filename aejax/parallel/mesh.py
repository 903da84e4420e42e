"""Devices and shardings: the only file that places arrays on devices.

A mesh has the axes "data", which splits a batch, and "model", which splits wide layers. The placement is a function
of an array's shape, so that an optimiser's moments lie where their parameter does; the compiler adds the
communication.
"""

import functools
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from aejax.errors import FieldError

AXES = ("data", "model")
WIDE = 256  # smallest number of units that is split over the axis "model"


def make(data: int = -1, model: int = 1, *, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of the first data x model devices; -1 = all that are left. Raises InputError."""
    devices, shape = devices or _undivided(), [data, model]
    total, rest = len(devices), [i for i in range(2) if shape[i] == -1]
    if len(rest) == 2:
        raise FieldError("mesh.model", model, "must be at least 1 if config.mesh.data = -1 takes the rest")
    for i in rest:
        fixed = shape[1 - i]
        if fixed < 1 or total % fixed:
            raise FieldError(f"mesh.{AXES[1 - i]}", fixed, f"must divide the {total} devices")
        shape[i] = total // fixed
    used = shape[0] * shape[1]
    if used > total:
        raise FieldError("mesh.data", data, f"needs {used} devices with mesh.model = {model}; there are {total}")
    if used < total and jax.process_count() > 1:
        raise FieldError("mesh.data", data, f"must be -1: several processes use all of their {total} devices")
    # Auto axes: the compiler places what the shardings of the arguments leave open.
    return jax.make_mesh(tuple(shape), AXES, axis_types=(AxisType.Auto,) * 2, devices=devices[:used])


def split_cpu(cores: int) -> None:
    """Make each core a device, unless JAX_NUM_CPU_DEVICES says how many there are; before devices are first used."""
    if "JAX_NUM_CPU_DEVICES" not in os.environ:
        jax.config.update("jax_num_cpu_devices", cores)


def _undivided() -> list[jax.Device]:
    """The devices for one model: of CPUs that `split_cpu` has split only the first, which uses all cores."""
    devices: list[jax.Device] = jax.devices()
    split = "JAX_NUM_CPU_DEVICES" not in os.environ and jax.config.jax_num_cpu_devices > 1  # type: ignore[attr-defined]
    if not split or devices[0].platform != "cpu":
        return devices
    return [device for device in devices if device == jax.local_devices(process_index=device.process_index)[0]]


def members(count: int) -> Mesh:
    """A mesh of the one axis "member": all devices, or as many as there are members."""
    devices = jax.devices()[:count] if jax.process_count() == 1 else jax.devices()
    return jax.make_mesh((len(devices),), ("member",), axis_types=(AxisType.Auto,), devices=devices)


def along(mesh: Mesh, axis: str) -> NamedSharding:
    """Arrays are split over a mesh axis by their first dimension."""
    return NamedSharding(mesh, PartitionSpec(axis))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def batch(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """The examples along `axis` are split over the axis "data"."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, "data"))


def state(mesh: Mesh, tree: Any, *, fsdp: bool) -> Any:
    """The sharding of each array of a state, given as shapes: a tree of the same structure."""
    return jax.tree.map(lambda leaf: NamedSharding(mesh, spec(leaf.shape, mesh.shape, fsdp=fsdp)), tree)


def spec(shape: Sequence[int], axes: Any, *, fsdp: bool) -> PartitionSpec:
    """How an array of a state is split over mesh axes of these sizes.

    Only kernels are split; they have at least two dimensions. The larger of the last two is split over "model" if it
    is at least WIDE. So a layer that widens is split by its outputs and the next one by its inputs, and one sum serves
    both. With `fsdp` the largest other dimension is split over "data". A dimension that the axis size does not divide
    is not split.
    """
    split: list[str | None] = [None] * len(shape)
    if len(shape) < 2:
        return PartitionSpec()
    last = len(shape) - 1
    wide = max((last, last - 1), key=lambda i: shape[i])
    if axes["model"] > 1 and shape[wide] >= WIDE and shape[wide] % axes["model"] == 0:
        split[wide] = "model"
    divided = [i for i, n in enumerate(shape) if split[i] is None and n % axes["data"] == 0]
    if fsdp and axes["data"] > 1 and divided:
        split[max(divided, key=lambda i: shape[i])] = "data"
    return PartitionSpec(*split)


def put(tree: Any, shardings: Any) -> Any:
    """Place arrays that every process holds whole on the devices; `shardings`: one for all, or a tree of them."""

    def place(leaf: Any, sharding: NamedSharding) -> jax.Array:
        leaf = np.asarray(leaf)
        return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])

    if isinstance(shardings, NamedSharding):
        return jax.tree.map(lambda leaf: place(leaf, shardings), tree)
    return jax.tree.map(place, tree, shardings)


def held(mesh: Mesh, size: int) -> np.ndarray:
    """The rows of a batch of `size` that the devices of this process hold, in order."""
    indices = batch(mesh).addressable_devices_indices_map((size,)).values()
    return np.unique(np.concatenate([np.arange(size)[index] for index in indices if index is not None]))


def put_held(tree: Any, rows: np.ndarray, size: int, sharding: NamedSharding) -> Any:
    """Device arrays [k, size, ...] from host arrays [k, len(rows), ...]: each process holds `rows` of every batch."""
    if len(rows) == size:
        return put(tree, sharding)

    def place(leaf: np.ndarray) -> jax.Array:
        def part(index: Any) -> np.ndarray:
            return leaf[:, np.searchsorted(rows, np.arange(size)[index[1]])]

        return jax.make_array_from_callback((len(leaf), size, *leaf.shape[2:]), sharding, part)

    return jax.tree.map(place, tree)


def gather(mesh: Mesh, tree: Any) -> Any:
    """Arrays on the devices as NumPy arrays, whole in every process."""
    return jax.tree.map(np.asarray, _whole(mesh)(tree))


@functools.cache
def _whole(mesh: Mesh) -> Any:
    """The identity whose result every device holds; one for each mesh, since a new one would be traced at each call."""
    return jax.jit(lambda tree: tree, out_shardings=replicated(mesh))


def check_batch(mesh: Mesh, field: str, size: int) -> None:
    """A global batch must be divisible by the data axis; raises InputError."""
    if size % mesh.shape["data"]:
        raise FieldError(field, size, f"must be divisible by the {mesh.shape['data']} devices of the data axis")


def round_up(mesh: Mesh, size: int) -> int:
    """The next size that the data axis divides."""
    data = mesh.shape["data"]
    return -(-size // data) * data
