"""Devices and shardings: the only file that knows of devices."""

from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from aejax.config import fail


def make(data: int = -1, *, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of `data` devices (-1: all) along the axis "data"; raises InputError."""
    devices = devices or jax.devices()
    if data == -1:
        data = len(devices)
    if data > len(devices):
        raise fail("mesh.data", data, f"must be at most the {len(devices)} devices")
    # Auto axes: the compiler places what the shardings of the arguments leave open.
    return jax.make_mesh((data,), ("data",), axis_types=(AxisType.Auto,), devices=devices[:data])


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def batch(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """The examples along `axis` are split over the devices."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, "data"))


def check_batch(mesh: Mesh, field: str, size: int) -> None:
    """A global batch must be divisible by the data axis; raises InputError."""
    if size % mesh.shape["data"]:
        raise fail(field, size, f"must be divisible by the {mesh.shape['data']} devices of the data axis")


def round_up(mesh: Mesh, size: int) -> int:
    """The next size that the data axis divides."""
    data = mesh.shape["data"]
    return -(-size // data) * data
