"""The step of a config compiled for TPU chips that need not exist, and the time that its numbers imply."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies
from ml_collections import ConfigDict

from aejax.benchmark import limits
from aejax.data.spec import Spec
from aejax.errors import InputError
from aejax.parallel import mesh as mesh_lib


class Chip(NamedTuple):
    """Peak figures of one chip, of the pages "TPU v5e", "TPU v5p" and "TPU v6e" of Google Cloud's documentation."""

    operations: float  # per second, in bfloat16, in which a TPU multiplies float32 by default
    memory: float  # bytes
    bandwidth: float  # bytes per second, of that memory
    links: float  # bytes per second that leave it to other chips: half of the bidirectional figure


CHIPS = {
    "v5e": Chip(197e12, 16e9, 819e9, 200e9),
    "v5p": Chip(459e12, 95e9, 2765e9, 600e9),
    "v6e": Chip(918e12, 32e9, 1638e9, 400e9),
}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
OPERATION = re.compile(rf"= (?P<shape>\S.*?) (?P<kind>{'|'.join(COLLECTIVES)})(?P<start>-start)?\((?P<rest>.*)")
ARRAY = re.compile(r"\b(pred|[a-z]+\d+)\w*\[([\d,]*)\]")


def describe(config: ConfigDict, spec: Spec, names: Sequence[str]) -> dict[str, Any]:
    """What a step needs of each chip and how long it takes, for topologies such as "v5e:16x16"; raises InputError.

    The batch is the config's on the first topology and grows with the number of chips. `weak_scaling` is the time on
    the first topology divided by that on the last.
    """
    # For a machine without a TPU, where libtpu complains that it cannot find these.
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-256")
    result: dict[str, Any] = {}
    first = 0
    for name in names:
        if name.partition(":")[0] not in CHIPS:
            raise InputError(f"--topology={name}: must be {', '.join(f'{chip}:...' for chip in CHIPS)}")
        try:
            chips = topologies.get_topology_desc(platform="tpu", topology_name=name).devices
        except (RuntimeError, ValueError, NotImplementedError) as error:
            raise InputError(f"--topology={name}: {str(error).splitlines()[0]}") from error
        first = first or len(chips)
        own = ConfigDict(config)
        own.train.batch_size = config.train.batch_size * len(chips) // first
        mesh = mesh_lib.make(config.mesh.data, config.mesh.model, devices=chips)
        mesh_lib.check_batch(mesh, "train.batch_size", own.train.batch_size)
        try:
            compiled = limits.trace(own, spec, mesh).lower().compile()
        except jax.errors.JaxRuntimeError as error:
            lines = str(error).splitlines()
            raise InputError(f"--topology={name}: {lines[0]}") from error
        result[name] = {"batch_size": own.train.batch_size, **implied(compiled, CHIPS[name.partition(":")[0]])}
    times: list[float] = [own["ms_per_step"] for own in result.values()]
    return result | ({"weak_scaling": times[0] / times[-1]} if len(times) > 1 else {})


def implied(compiled: jax.stages.Compiled, chip: Chip) -> dict[str, Any]:
    """Per chip: memory, operations, bytes of collectives; and milliseconds of a step at the chip's peak figures.

    Only arithmetic and memory overlap, and every link is used: ms_per_step is the larger of these two times plus
    the communication.
    """
    cost, memory, text = compiled.cost_analysis(), compiled.memory_analysis(), compiled.as_text()
    assert cost is not None
    assert text is not None
    sent: Counter[str] = Counter()
    moved = 0.0
    for kind, size, group in collectives(text):
        sent[kind] += size
        moved += traffic(kind, size, group)
    times = {
        "operations_ms": 1e3 * cost["flops"] / chip.operations,
        "memory_ms": 1e3 * cost["bytes accessed"] / chip.bandwidth,
        "collectives_ms": 1e3 * moved / chip.links,
    }
    return {
        "step_memory_bytes": limits.peak_bytes(memory),
        "share_of_memory": limits.peak_bytes(memory) / chip.memory,
        "operations_per_step": cost["flops"],
        "accessed_bytes": cost["bytes accessed"],
        **{f"{kind.replace('-', '_')}_bytes": size for kind, size in sorted(sent.items())},
        **times,
        "ms_per_step": max(times["operations_ms"], times["memory_ms"]) + times["collectives_ms"],
    }


def collectives(text: str) -> list[tuple[str, int, int]]:
    """(kind, bytes of the whole array on a chip, chips that take part) of each collective of a compiled program.

    The whole array is the larger of operand and result. A loop's body counts once.
    """
    found = []
    for line in text.splitlines():
        if match := OPERATION.search(line):
            kind, sizes = match["kind"], [_bytes(*array) for array in ARRAY.findall(match["shape"])]
            if match["start"] and kind == "collective-permute":
                sizes = sizes[1:2]  # of (operand, result, context...)
            elif match["start"] and kind != "all-reduce":
                sizes = sizes[len(sizes) // 2 :]  # of (operands, results)
            group = _group(match["rest"])
            found.append((kind, sum(sizes) * (group if kind == "reduce-scatter" else 1), group))
    return found


def traffic(kind: str, size: int, group: int) -> float:
    """Bytes that each of `group` chips must send for a collective on an array of `size` bytes.

    Patarasuk & Yuan (2009), "Bandwidth optimal all-reduce algorithms": an all-reduce is a reduce-scatter and an
    all-gather, each of which sends all but the chip's own part.
    """
    share = (group - 1) / group
    return size * {"all-reduce": 2 * share, "collective-permute": 1.0}.get(kind, share)


def _bytes(dtype: str, shape: str) -> int:
    width = 1 if dtype == "pred" else int(re.sub(r"\D", "", dtype)) / 8
    return round(width * prod(int(n) for n in shape.split(",") if n))


def _group(text: str) -> int:
    """The group size in any of the three forms of replica_groups: {{0,1},{2,3}}, [2,4]<=[8], or axes of a mesh."""
    if match := re.search(r"replica_groups=\{\{([\d,]+)\}", text):
        return match[1].count(",") + 1
    if match := re.search(r"replica_groups=\[\d+,(\d+)\]", text):
        return int(match[1])
    if match := re.search(r"replica_groups=mesh\[([^\]]*)\] *\{([^}]*)\}", text):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", match[1]))
        return prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", match[2]))
    return 2  # a permutation: from one to another
