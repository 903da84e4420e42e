"""Measure how fast a config trains, what limits it, and how fast other libraries train the same.

  python -m aejax.benchmark --config=NAME[:SOURCE] [--json=FILE] [--config.section.field=value ...]

  --vs=torch             compare with the same network, optimiser, batch and data in PyTorch, eager and compiled
  --vs=pythae            compare with the same variational autoencoder trained by pythae, an epoch at a time
  --vs=streaming         compare resident examples with the same examples streamed
  --devices=1,2,4,8      measure on each number of devices in turn; on a CPU they are virtual
  --topology=v5e:16x16   compile for TPU chips without having them: memory, operations and communication of each;
                         with several, v5e:2x4,v5e:16x16, the batch grows with the chips

Every number is a median after warm-up, with its quartiles. Compared programs run in processes of their own, in turn.
"""

import importlib
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from aejax import cli
from aejax.benchmark.table import table
from aejax.benchmark.versus import PEERS, scaling, versus
from aejax.errors import InputError

PACKAGES = {"torch": "torch==2.13.0", "pythae": "torch==2.13.0 pythae==0.1.2"}  # packages that a peer needs


def command() -> None:
    config_flag = cli.define_config()
    names = [name for peers in PEERS.values() for name in peers if name != "streaming"]
    vs = flags.DEFINE_enum("vs", "", ["", *PEERS], "what to compare aejax with")
    peer = flags.DEFINE_enum("peer", "", ["", *names], "measure this instead of aejax")
    devices = flags.DEFINE_list("devices", [], "numbers of devices to measure on, in turn")
    topology = flags.DEFINE_list("topology", [], "TPU chips to compile for, such as v5e:2x4,v5e:16x16")
    alternations = flags.DEFINE_integer("alternations", 5, "processes of each compared program", lower_bound=1)
    seconds = flags.DEFINE_float("seconds", 10, "shortest time of a measurement, seconds", lower_bound=0)
    limits = flags.DEFINE_bool("limits", True, "also measure what limits a step")
    file = flags.DEFINE_string("json", None, "file to write the numbers to")

    def main() -> None:
        import jax  # here, with all files that import it, so that --help need not wait for it

        from aejax import experiment
        from aejax.data import sources
        from aejax.errors import raise_all
        from aejax.storage import run_dir
        from aejax.training import plan

        jax.config.update("jax_enable_compilation_cache", False)  # compilation is measured
        # This process leaves the accelerator to the compared processes, or to the peer.
        if vs.value or devices.value or peer.value:
            jax.config.update("jax_platforms", "cpu")
        if file.value and not Path(file.value).absolute().parent.is_dir():
            raise InputError(f"--json={file.value}: no such folder")
        asked = [f"--{flag.name}" for flag in (vs, devices, topology) if flag.value]
        if len(asked) > 1:
            raise InputError(f"{' and '.join(asked)}: give only one of them")
        config = plan.resolve(config_flag.value)
        if vs.value == "streaming" and not sources.SOURCES[sources.parse(config.data.source)[0]].streamed:
            allowed = sources.streamable()
            raise InputError(f"--vs=streaming: needs one of the sources {allowed}, not {config.data.source}")
        data = sources.load(config)
        raise_all(experiment.check(config, data.spec))
        counts = _counts(devices.value, config.train.batch_size)
        package = vs.value or peer.value.partition("_")[0]
        if package in PACKAGES:
            _require(package, f"--{'vs' if vs.value else 'peer'}={vs.value or peer.value}", PACKAGES[package])
            importlib.import_module(f"aejax.benchmark.{package}_peer").check(config, data.spec.x.shape)
        if topology.value:
            _require("libtpu", f"--topology={','.join(topology.value)}", "'jax[tpu]'")
            from aejax.benchmark.topology import describe

            result = describe(config, data.spec, topology.value)
        elif counts:
            result = scaling(counts, alternations.value)
        elif vs.value:
            result = versus(PEERS[vs.value], alternations.value)
        else:
            from aejax.benchmark import speed

            if peer.value:
                result = speed.measure_peer(config, data, seconds=seconds.value, peer=peer.value)
            else:
                result = speed.measure(config, data, seconds=seconds.value, limits=limits.value)
        if file.value:
            run_dir.write_output(Path(file.value), json.dumps(result, indent=2))
        print(table(result))

    cli.run(main)


def _counts(given: Sequence[str], batch_size: int) -> list[int]:
    """The numbers of --devices; raises InputError."""
    flag = f"--devices={','.join(given)}"
    if not all(count.isdigit() and int(count) for count in given):
        raise InputError(f"{flag}: must be integers of at least 1, separated by commas")
    if any(batch_size % int(count) for count in given):
        raise InputError(f"{flag}: must divide config.train.batch_size = {batch_size}")
    return [int(count) for count in given]


def _require(package: str, flag: str, install: str) -> None:
    """Raise InputError if a package is not installed."""
    if importlib.util.find_spec(package) is None:
        raise InputError(f"{flag}: needs {package}, which is not installed: pip install {install}")


if __name__ == "__main__":
    command()
