"""What the contractive penalty, a stage, random numbers and a start cost: ratios, medians in turn; -s shows them.

The bounds on times leave room for a busy machine: on a quiet one the ratios are near 116, 10.5 and 1.12.
"""

import os
import statistics
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aejax import config as config_lib
from aejax import experiment
from aejax.data import sources
from aejax.methods import objective
from aejax.parallel import mesh, prng
from aejax.training import plan, stages
from aejax.training.trainer import Trainer
from common import ROOT

pytestmark = pytest.mark.timed


def contractive_config(widths, code, activation, batch_size):
    config = config_lib.default()
    config.model.encoder.widths = widths
    config.model.bottleneck.size = code
    config.model.code_activation = activation
    config.objective.contractive.weight = 0.1
    config.train.batch_size = batch_size
    return config


def dataset(n=1024):
    x = np.random.default_rng(0).integers(0, 256, (n, 28, 28), dtype=np.uint8)
    return lambda config: sources.from_array(x, config)


def make_trainer(config, data):
    return Trainer(experiment.build(config, data.spec), data, mesh.make(1))


def median_seconds(functions, repeats=5):
    """Median of each function's time, measured in turn."""
    times = {name: [] for name in functions}
    for function in functions.values():
        jax.block_until_ready(function())
    for _ in range(repeats):
        for name, function in functions.items():
            begin = time.perf_counter()
            jax.block_until_ready(function())
            times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in times.items()}


def penalty_gradients(config, batch):
    """The compiled gradient of the penalty's mean, by `auto` and by plain vmap(jacfwd)."""
    data = dataset()(config)
    built = experiment.build(config, data.spec)
    state = built.init()
    x = jnp.asarray(data.train["x"][:batch]) / np.float32(255)

    def auto(params):
        terms, _ = built.objective.terms(params, {}, {"x": x}, key=built.key, step=state.step, train=True)
        return objective.mean(terms)["contractive"]

    def plain(params):
        encode = built.objective.encoder(params, {})
        jacobians = jax.vmap(jax.jacfwd(lambda v: encode(v[None]).h[0]))(x)
        return jnp.mean(jnp.sum(jacobians.reshape(batch, -1) ** 2, axis=1))

    compiled = {f.__name__: jax.jit(jax.grad(f)).lower(state.params).compile() for f in (auto, plain)}
    for a, b in zip(*(jax.tree.leaves(f(state.params)) for f in compiled.values()), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    seconds = median_seconds({name: lambda f=f: f(state.params) for name, f in compiled.items()}, repeats=3)
    memory = {name: f.memory_analysis().temp_size_in_bytes for name, f in compiled.items()}
    return seconds["plain"] / seconds["auto"], memory["auto"] / memory["plain"]


def test_closed_form_is_far_faster():
    faster, memory = penalty_gradients(contractive_config((), 1000, "sigmoid", 128), 128)
    print(f"\ncontractive 784-1000, batch 128: closed form {faster:.0f} times faster, memory {memory:.4f}")
    assert faster >= 20


def test_deep_penalty_is_faster_in_a_tenth_of_the_memory():
    faster, memory = penalty_gradients(contractive_config((1000, 500), 30, "identity", 64), 64)
    print(f"\ncontractive 784-1000-500-30, batch 64: auto {faster:.1f} times faster, memory {memory:.4f}")
    assert faster >= 4
    assert memory <= 0.1


def test_contractive_step_costs_little_more():
    trainers = {}
    for name, weight in (("contractive", 0.1), ("plain", 0.0)):
        config = contractive_config((), 1000, "sigmoid", 128)
        config.objective.contractive.weight = weight
        trainers[name] = make_trainer(plan.resolve(config), dataset(4096)(config))
    states = {name: trainer.init() for name, trainer in trainers.items()}

    def step(name):
        trainer = trainers[name]
        states[name], _ = trainer.run(states[name], 0, trainer.length)
        return states[name].step

    seconds = median_seconds({name: lambda name=name: step(name) for name in trainers})
    ratio = seconds["contractive"] / seconds["plain"]
    print(f"\ncontractive 784-1000, batch 128: step {ratio:.2f} times the plain autoencoder's")
    assert ratio <= 2


def test_the_time_of_a_stage_does_not_depend_on_the_depth_below_it():
    """A stage of 500 units on codes of 500, with one layer below it and with five."""
    config = config_lib.default()
    depths, width = (1, 5), 500
    config.pretrain.widths = (width,) * (max(depths) + 1)
    config_lib.stages(config, max(depths) + 1)
    data = dataset(4096)(config)
    rng = np.random.default_rng(0)

    def layer(inputs):
        kernel = rng.standard_normal((inputs, width)).astype(np.float32) / np.sqrt(inputs)
        return {"encoder": {"layers_0": {"kernel": kernel, "bias": np.zeros(width, np.float32)}}}

    trainers = {}
    for depth in range(1, max(depths) + 1):
        data = stages.encode(layer(784 if depth == 1 else width), "sigmoid", data)
        if depth in depths:
            trainers[depth] = make_trainer(plan.stage(config, depth), data)
    states = {depth: trainer.init() for depth, trainer in trainers.items()}

    def steps_of(depth):
        trainer = trainers[depth]
        states[depth], _ = trainer.run(states[depth], 0, trainer.length)
        return states[depth].step

    seconds = median_seconds({depth: lambda depth=depth: steps_of(depth) for depth in depths}, repeats=15)
    ratio = seconds[depths[1]] / seconds[depths[0]]
    print(f"\nstage 500-500: {ratio:.3f} times as long with {depths[1]} layers below it as with {depths[0]}")
    assert 0.8 <= ratio <= 1.25  # within 0.1 on a quiet machine


def test_threshold_by_bisection_against_top_k():
    h = jax.random.normal(jax.random.key(0), (128, 1000))
    from aejax.models.bottlenecks import largest

    bisection = jax.jit(largest)
    top_k = jax.jit(lambda h: h >= jax.lax.top_k(h, 25)[0][:, -1:])
    functions = {"bisection": lambda: bisection(h, 25), "top_k": lambda: top_k(h)}
    np.testing.assert_array_equal(functions["bisection"](), functions["top_k"]())
    seconds = median_seconds(functions, repeats=50)
    print("\ntop 25 of 1000, batch 128:", {name: f"{1e3 * value:.2f} ms" for name, value in seconds.items()})


def test_random_numbers_cost_a_fraction_of_jaxs():
    """A uniform number for every pixel of 256 digits, a hundred times in a loop, as in training."""
    if jax.default_backend() != "cpu":
        pytest.skip("elsewhere JAX's rounds are unrolled, too")

    def draws(key):
        def add(i, x):
            return x + jax.random.uniform(jax.random.fold_in(key, i), x.shape)

        return jax.lax.fori_loop(0, 100, add, jnp.zeros((256, 784)))

    draws = jax.jit(draws)
    keys = {"aejax": prng.key(0), "jax": jax.random.key(0)}
    np.testing.assert_array_equal(draws(keys["aejax"]), draws(keys["jax"]))
    seconds = median_seconds({name: lambda key=key: draws(key) for name, key in keys.items()}, repeats=9)
    print("\n256 x 784 uniform numbers:", {name: f"{10 * value:.2f} ms" for name, value in seconds.items()})
    assert seconds["aejax"] < 0.5 * seconds["jax"]  # near 0.15 on a quiet machine


@pytest.mark.parametrize("name", ["vae", "conv"])
def test_a_second_start_finds_its_programs_compiled(name, tmp_path):
    """Seconds from the command to the first line of metrics, with an empty cache and with the one that it left.

    Three pairs in turn, and the least of each, since another process on the machine only adds.
    """

    def start(cache, workdir):
        environment = {n: v for n, v in os.environ.items() if not n.startswith("JAX_")} | {"XDG_CACHE_HOME": str(cache)}
        metrics = workdir / "metrics.jsonl"
        arguments = [f"--config={ROOT}/configs/{name}.py", f"--workdir={workdir}"]
        begin = time.perf_counter()
        with subprocess.Popen([sys.executable, "-m", "aejax.main", *arguments], env=environment, cwd=ROOT) as process:
            while not (metrics.exists() and metrics.stat().st_size):
                assert process.poll() is None
                time.sleep(0.02)
            seconds = time.perf_counter() - begin
            process.kill()
        return seconds

    pairs = [[start(tmp_path / f"{i}", tmp_path / f"{i}_{turn}") for turn in ("first", "second")] for i in range(3)]
    assert list((tmp_path / "0" / "aejax" / "jax").iterdir())
    first, second = map(min, zip(*pairs, strict=True))
    print(f"\n{name}: first start {first:.1f} s, second {second:.1f} s: {second / first:.2f}")
    assert second < 0.7 * first  # near 0.52 and 0.45 on a quiet machine: 1.2 s are imports
