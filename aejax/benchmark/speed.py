"""The speed of training: of aejax, with the limits of a step, and of a peer."""

import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from aejax.benchmark import limits as limits_lib
from aejax.benchmark.limits import Product
from aejax.benchmark.table import Result, spread
from aejax.data import feed
from aejax.data.dataset import Dataset
from aejax.parallel import mesh as mesh_lib
from aejax.run import prepare
from aejax.storage import run_dir
from aejax.training.trainer import Trainer

WARMUP, ROUNDS = 2, 3  # rounds that do not count, and the smallest number that do


def measure(config: ConfigDict, data: Dataset, *, seconds: float, limits: bool = True) -> Result:
    """Train on the devices of `config.mesh` for about `seconds`; `limits`: on one device, also measure the limits."""
    experiment, mesh = prepare(config, data)
    trainer = Trainer(experiment, data, mesh)
    step = limits_lib.trace(config, data.spec, mesh_lib.make(1))
    products = limits_lib.products(step.jaxpr)
    state = trainer.init()
    moved = limits_lib.optimizer_bytes(state)

    waits: list[float] = []

    def run(begin: int, end: int) -> None:
        nonlocal state
        before = trainer.waited
        state, _ = trainer.run(state, begin, end)
        waits.append(trainer.waited - before)

    functions: dict[Any, Callable[[], Any]] = {"steps": _windows(run, trainer.length)}
    counts: dict[Product, int] = {}  # how often a call makes the product
    streamed = 0  # bytes of a call
    if limits and mesh.size == 1:
        for product in products:
            functions[product], counts[product] = limits_lib.product_time(product)
        functions["stream"], streamed = limits_lib.stream(state)
    times = alternate(functions, seconds)
    compiled = step.lower().compile()
    result = _speed(config, trainer.length, times["steps"]) | {
        "devices": [str(device.device_kind) for device in trainer.mesh.devices.flat],
        "waiting_share": sum(waits[WARMUP:]) / sum(times["steps"][WARMUP:]),
        # On a GPU XLA leaves out the products that a library makes (jax-ml/jax#22249).
        "operations_per_step": max(compiled.cost_analysis()["flops"], float(_operations(products))),
        "step_memory_bytes": limits_lib.peak_bytes(compiled.memory_analysis()),
        "data_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves((trainer.train_data, trainer.eval_data))),
    }
    result["operations_per_second"] = result["operations_per_step"] / (result["ms_per_step"] / 1e3)
    result |= _of_peak(result, products, config.model.dtype)
    if counts:
        alone = {product: _typical(times[product]) / count for product, count in counts.items()}
        result |= _of_limit(result, products, alone, moved, streamed / _typical(times["stream"]))
    return result


def measure_peer(config: ConfigDict, data: Dataset, *, seconds: float, peer: str) -> Result:
    """The same in PyTorch or pythae."""
    training: Any
    length = data.spec.train // config.train.batch_size
    if peer == "pythae":
        from aejax.benchmark import pythae_peer

        training = pythae_peer.Training(config, data)
    else:
        from aejax.benchmark import torch_peer

        training = torch_peer.Training(config, data, compiled=peer == "torch_compile")
        length = feed.interval_length(length, config.train.log_steps)
    times = alternate({"steps": _windows(training.run, length)}, seconds)
    return _speed(config, length, times["steps"]) | {"devices": [training.device]}


def alternate(functions: Mapping[Any, Callable[[], Any]], seconds: float) -> dict[Any, list[float]]:
    """Call all functions in turn, for `WARMUP` rounds and then for `seconds`; returns the seconds of every call."""
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


def _windows(run: Callable[[int, int], Any], length: int) -> Callable[[], Any]:
    """A function that takes the next `length` steps at every call."""
    begin = -length

    def window() -> None:
        nonlocal begin
        begin += length
        run(begin, begin + length)

    return window


def _speed(config: ConfigDict, length: int, times: Sequence[float]) -> Result:
    counted = times[WARMUP:]
    return (
        {"config": config.name, "source": config.data.source, "batch_size": config.train.batch_size}
        | {"cores": run_dir.cores(), "compile_seconds": times[0] - _typical(times)}
        | spread("ms_per_step", [1e3 * value / length for value in counted])
        | spread("examples_per_second", [length * config.train.batch_size / value for value in counted])
    )


def _of_peak(result: Result, products: Counter[Product], dtype: str) -> Result:
    """The published peak of the devices, and the share of a step that its products would take at this peak."""
    devices = result["devices"]
    highest, least = limits_lib.peak(devices[0], dtype), limits_lib.peak_seconds(products, devices[0])
    if not highest or not least:
        return {}
    return {
        "peak_operations_per_second": len(devices) * highest[0],
        "peak_arithmetic": highest[1],
        "share_of_peak": least / len(devices) / (result["ms_per_step"] / 1e3),
    }


def _of_limit(
    result: Result, products: Counter[Product], alone: Mapping[Product, float], moved: int, bandwidth: float
) -> Result:
    """The time of a step at the rate of its best product and at this bandwidth; `alone`: seconds of each product."""
    best = max(product.operations / seconds for product, seconds in alone.items())
    limit = _operations(products) / best + moved / bandwidth
    return {
        "best_product_operations_per_second": best,
        "share_of_best_product": result["operations_per_second"] / best,
        "optimizer_bytes": moved,
        "bytes_per_second": bandwidth,
        "limit_ms_per_step": 1e3 * limit,
        "share_of_limit": limit / (result["ms_per_step"] / 1e3),
        "products_ms_per_step": 1e3 * sum(alone[product] * n for product, n in products.items()),
    }


def _operations(products: Counter[Product]) -> int:
    return sum(product.operations * n for product, n in products.items())


def _typical(times: Sequence[float]) -> float:
    return statistics.median(times[WARMUP:])
