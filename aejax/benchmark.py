"""How fast a config trains, what bounds it, and how fast others train the same.

  python -m aejax.benchmark --config=configs/NAME.py[:SOURCE] [--json=FILE] [--config.section.field=value ...]

  --vs=torch             beside the same network, optimiser, batch and data in PyTorch, eager and compiled
  --vs=pythae            beside the same variational autoencoder trained by pythae, an epoch at a time
  --vs=streaming         resident examples beside the same read while training
  --devices=1,2,4,8      on so many devices in turn; of a CPU, so many virtual ones
  --topology=v5e:16x16   compiled for TPU chips that are not there: memory, operations and communication of each;
                         of several, v5e:2x4,v5e:16x16, the batch grows with the chips

Every number is a median after warm-up, with its quartiles. What is compared runs in processes of its own, in turn.
"""

import importlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from aejax import cli
from aejax.errors import InputError

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from aejax.data.dataset import Dataset

# What aejax is measured against: by name, and the flags that measure it.
PEERS = {
    "torch": {
        "torch_eager": ["--peer=torch_eager", "--config.data.resident=true"],
        "torch_compile": ["--peer=torch_compile", "--config.data.resident=true"],
    },
    "pythae": {"pythae": ["--peer=pythae", "--config.data.resident=true"]},
    "streaming": {"streaming": ["--peer=", "--config.data.resident=false"]},
}
PACKAGES = {"torch": "torch==2.13.0", "pythae": "torch==2.13.0 pythae==0.1.2"}
WARMUP, ROUNDS = 2, 3  # rounds that do not count, and the fewest that do
Result = dict[str, Any]
# Name of a number -> what it says, the factor from its unit to the one shown, and that one.
ROWS = {
    "compile_seconds": ("first dispatch, which compiles", 1, "s"),
    "ms_per_step": ("a step", 1, "ms"),
    "waiting_share": ("share of time waiting for data", 100, "%"),
    "operations_per_step": ("floating-point operations of a step", 1e-9, "G"),
    "operations_per_second": ("their rate", 1e-9, "G/s"),
    "best_product_operations_per_second": ("rate of the step's best matrix product, alone", 1e-9, "G/s"),
    "share_of_best_product": ("rate, as a share of that", 100, "%"),
    "optimizer_bytes": ("moved by the optimiser in a step", 1e-6, "MB"),
    "bytes_per_second": ("bandwidth for as many", 1e-9, "GB/s"),
    "share_of_limit": ("that, as a share of a step", 100, "%"),
    "step_memory_bytes": ("memory of a step", 1e-6, "MB"),
}


def measure(config: "ConfigDict", data: "Dataset", *, seconds: float, limits: bool = True) -> Result:
    """Train on the devices of `config.mesh` for about so many seconds; `limits`: on one, also what bounds a step."""
    import jax

    from aejax import limits as limits_lib
    from aejax import mesh as mesh_lib
    from aejax.trainer import Trainer

    mesh = mesh_lib.make(config.mesh.data, config.mesh.model)
    mesh_lib.check_batch(mesh, "train.batch_size", config.train.batch_size)
    trainer = Trainer(config, data, mesh)
    limits = limits and mesh.size == 1
    step = limits_lib.trace(config, data.spec, mesh_lib.make(1))
    state = trainer.init()
    moved = limits_lib.optimizer_bytes(state)

    waits: list[float] = []

    def run(begin: int, end: int) -> None:
        nonlocal state
        before = trainer.waited
        state, _ = trainer.run(state, begin, end)
        waits.append(trainer.waited - before)

    products = limits_lib.products(step.jaxpr) if limits else {}
    made = {product: limits_lib.product_time(product) for product in products}
    functions: dict[Any, Callable[[], Any]] = {"steps": _windows(run, trainer.length)}
    functions |= {product: function for product, (function, _) in made.items()}
    if limits:
        functions["stream"], streamed = limits_lib.stream(state)
    times = alternate(functions, seconds)
    compiled = step.lower().compile()
    result = _speed(config, trainer.length, times["steps"]) | {
        "devices": [str(device.device_kind) for device in trainer.mesh.devices.flat],
        "waiting_share": sum(waits[WARMUP:]) / sum(times["steps"][WARMUP:]),
        "operations_per_step": compiled.cost_analysis()["flops"],
        "step_memory_bytes": limits_lib.peak_bytes(compiled.memory_analysis()),
        "data_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves((trainer.train_data, trainer.eval_data))),
    }
    seconds_per_step = result["ms_per_step"] / 1e3
    result["operations_per_second"] = result["operations_per_step"] / seconds_per_step
    if limits:
        alone = {product: _typical(times[product]) / count for product, (_, count) in made.items()}
        best = max(product.operations / alone[product] for product in made)
        bandwidth = streamed / _typical(times["stream"])
        limit = sum(p.operations * n for p, n in products.items()) / best + moved / bandwidth
        result |= {
            "best_product_operations_per_second": best,
            "share_of_best_product": result["operations_per_second"] / best,
            "optimizer_bytes": moved,
            "bytes_per_second": bandwidth,
            "limit_ms_per_step": 1e3 * limit,
            "share_of_limit": limit / seconds_per_step,
            "products_ms_per_step": 1e3 * sum(alone[product] * n for product, n in products.items()),
        }
    return result


def measure_peer(config: "ConfigDict", data: "Dataset", *, seconds: float, peer: str) -> Result:
    """The same in PyTorch or pythae."""
    from aejax.data import feed

    training: Any
    length = data.spec.train // config.train.batch_size
    if peer == "pythae":
        from aejax import benchmark_pythae

        training = benchmark_pythae.Training(config, data)
    else:
        from aejax import benchmark_torch

        training = benchmark_torch.Training(config, data, compiled=peer == "torch_compile")
        length = feed.interval_length(length, config.train.log_steps)
    times = alternate({"steps": _windows(training.run, length)}, seconds)
    return _speed(config, length, times["steps"]) | {"devices": [training.device]}


def alternate(functions: Mapping[Any, Callable[[], Any]], seconds: float) -> dict[Any, list[float]]:
    """Seconds of every call of each, all called in turn: `WARMUP` rounds, and then for so many seconds."""
    import jax

    times: dict[Any, list[float]] = {name: [] for name in functions}
    begin, rounds = time.perf_counter(), 0
    while rounds < WARMUP + ROUNDS or time.perf_counter() - begin < seconds:
        if rounds == WARMUP:
            begin = time.perf_counter()
        for name, function in functions.items():
            before = time.perf_counter()
            jax.block_until_ready(function())
            times[name].append(time.perf_counter() - before)
        rounds += 1
    return times


def versus(peers: Mapping[str, Sequence[str]], alternations: int) -> Result:
    """aejax and each peer in turn; ratios of their steps' times, above 1 where aejax is faster."""
    processes = {"aejax": ["--peer=", "--config.data.resident=true"], **peers}
    runs: dict[str, list[Result]] = {name: [] for name in processes}
    for _ in range(alternations):
        for name, done in runs.items():
            done.append(_process(["--nolimits", *processes[name]]))
    result: Result = {}
    for name, done in runs.items():
        result |= _spread(f"{name}_ms_per_step", [run["ms_per_step"] for run in done])
    for name in peers:
        pairs = zip(runs[name], runs["aejax"], strict=True)
        result |= _spread(f"ratio_vs_{name}", [peer["ms_per_step"] / own["ms_per_step"] for peer, own in pairs])
    return result


def scaling(counts: Sequence[int], alternations: int) -> Result:
    """The same global batch on each number of devices, in turn."""
    runs: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(alternations):
        for count, done in runs.items():
            arguments = ["--nolimits", f"--config.mesh.data={count}"]
            done.append(_process(arguments, JAX_NUM_CPU_DEVICES=str(count))["examples_per_second"])
    result: Result = {}
    for count, done in runs.items():
        result |= _spread(f"examples_per_second_on_{count}", done)
        pairs = zip(done, runs[counts[0]], strict=True)
        result |= _spread(f"speedup_on_{count}", [rate / first for rate, first in pairs])
    return result


def _windows(run: Callable[[int, int], Any], length: int) -> Callable[[], Any]:
    """A function that takes the next `length` steps at every call."""
    begin = -length

    def window() -> None:
        nonlocal begin
        begin += length
        run(begin, begin + length)

    return window


def _speed(config: "ConfigDict", length: int, times: Sequence[float]) -> Result:
    from aejax import run_dir

    counted = times[WARMUP:]
    return (
        {"config": config.name, "source": config.data.source, "batch_size": config.train.batch_size}
        | {"cores": run_dir.cores(), "compile_seconds": times[0] - _typical(times)}
        | _spread("ms_per_step", [1e3 * value / length for value in counted])
        | _spread("examples_per_second", [length * config.train.batch_size / value for value in counted])
    )


def _typical(times: Sequence[float]) -> float:
    return statistics.median(times[WARMUP:])


def _spread(name: str, values: Sequence[float]) -> Result:
    """The median, and beside it the quartiles."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else list(values) * 3
    return {name: middle, f"{name}_quartiles": [low, high]}


def _process(arguments: Sequence[str], **environment: str) -> Result:
    """This command once more, with further flags, in a process of its own; raises InputError with its line."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "result.json"
        own = ["--vs=", "--devices=", f"--json={file}", *arguments]
        command = [sys.executable, "-m", "aejax.benchmark", *sys.argv[1:], *own]
        done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise InputError(f"{' '.join(arguments)}: {lines[-1].removeprefix('aejax: ')}")
        result: Result = json.loads(file.read_text())
        return result


def table(result: Mapping[str, Any]) -> str:
    """A line for each number, with its unit and its quartiles."""
    lines = []
    for name, value in result.items():
        if name.endswith("_quartiles"):
            continue
        if isinstance(value, dict):
            lines += [f"{name}:", table(value), ""]
            continue
        label, factor, unit = _row(name)
        text = str(value) if isinstance(value, str | list) else f"{_number(value * factor)} {unit}".rstrip()
        if f"{name}_quartiles" in result:
            low, high = (_number(factor * v) for v in result[f"{name}_quartiles"])
            text += f"  ({low} to {high})"
        lines.append(f"{label:<46}  {text}")
    return "\n".join(lines)


def _row(name: str) -> tuple[str, float, str]:
    said = name.removesuffix("_bytes").replace("_", " ")
    return ROWS.get(name) or ((said, 1e-6, "MB") if name.endswith("_bytes") else (said, 1, ""))


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"


def command() -> None:
    config_flag = cli.define_config()
    names = [name for peers in PEERS.values() for name in peers if name != "streaming"]
    vs = flags.DEFINE_enum("vs", "", ["", *PEERS], "what aejax is measured against")
    peer = flags.DEFINE_enum("peer", "", ["", *names], "measure this instead of aejax")
    devices = flags.DEFINE_list("devices", [], "numbers of devices to measure on, in turn")
    topology = flags.DEFINE_list("topology", [], "TPU chips to compile for, such as v5e:2x4,v5e:16x16")
    alternations = flags.DEFINE_integer("alternations", 5, "processes of each kind that is compared", lower_bound=1)
    seconds = flags.DEFINE_float("seconds", 10, "what is measured in a process takes at least", lower_bound=0)
    limits = flags.DEFINE_bool("limits", True, "measure what bounds a step, too")
    file = flags.DEFINE_string("json", None, "file to write the numbers to")

    def main() -> None:
        import jax

        from aejax import plan, run_dir, validation
        from aejax.data import sources

        jax.config.update("jax_enable_compilation_cache", False)  # compilation is measured
        if vs.value or devices.value:  # the processes that are compared need the accelerator, this one does not
            jax.config.update("jax_platforms", "cpu")
        if file.value and not Path(file.value).absolute().parent.is_dir():
            raise InputError(f"--json={file.value}: no such folder")
        asked = [f"--{flag.name}" for flag in (vs, devices, topology) if flag.value]
        if len(asked) > 1:
            raise InputError(f"{' and '.join(asked)}: one of them at a time")
        config = config_flag.value
        validation.validate(config)
        config = plan.resolve(config)
        validation.validate(config)
        if vs.value == "streaming" and sources.parse(config.data.source)[0] not in sources.STREAMED:
            allowed = ", ".join(sources.USAGE[name] for name in sources.STREAMED)
            raise InputError(f"--vs=streaming: needs one of the sources {allowed}, not {config.data.source}")
        data = sources.load(config)
        validation.validate_shapes(config, data.spec)
        counts = _counts(devices.value)
        for count in counts:
            if config.train.batch_size % count:
                allowed = f"must divide config.train.batch_size = {config.train.batch_size}"
                raise InputError(f"--devices={','.join(devices.value)}: {allowed}")
        package = vs.value or peer.value.partition("_")[0]
        if package in PACKAGES:
            _require(package, f"--{'vs' if vs.value else 'peer'}={vs.value or peer.value}", PACKAGES[package])
            importlib.import_module(f"aejax.benchmark_{package}").check(config, data.spec.shape)
        if topology.value:
            _require("libtpu", f"--topology={','.join(topology.value)}", "'jax[tpu]'")
            from aejax import topology as topology_lib

            result = topology_lib.describe(config, data.spec, topology.value)
        elif counts:
            result = scaling(counts, alternations.value)
        elif vs.value:
            result = versus(PEERS[vs.value], alternations.value)
        elif peer.value:
            result = measure_peer(config, data, seconds=seconds.value, peer=peer.value)
        else:
            result = measure(config, data, seconds=seconds.value, limits=limits.value)
        if file.value:
            run_dir.write_output(Path(file.value), json.dumps(result, indent=2))
        print(table(result))

    cli.run(main)


def _require(package: str, flag: str, install: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise InputError(f"{flag}: needs {package}, which is not installed: pip install {install}")


def _counts(given: Sequence[str]) -> list[int]:
    if not all(count.isdigit() and int(count) for count in given):
        raise InputError(f"--devices={','.join(given)}: must be numbers of at least 1, with a comma between")
    return [int(count) for count in given]


if __name__ == "__main__":
    command()
