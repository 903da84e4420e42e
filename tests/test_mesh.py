import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from aejax import config as config_lib
from aejax.errors import InputError
from aejax.parallel import mesh
from common import ALIKE, CONFIGS, ROOT, change, images, one_line, small, trainer

MESHES = {  # data, model, fsdp
    "1": (1, 1, False),
    "2x2 fsdp": (2, 2, True),
}
VARIANTS = {
    "sparse": {
        "model__encoder__widths": (256,),
        "model__code_activation": "sigmoid",
        "objective__kl_sparse__weight": 1.0,
        "optim__clip": 1.0,
    },
    "vae": {
        "model__encoder__widths": (256, 64),
        "model__bottleneck__name": "gaussian",
        "objective__likelihood": "bernoulli",
        "data__binarize": "dynamic",
        "model__encoder__norm": "batch",
        "model__encoder__dropout": 0.2,
        "optim__accumulate": 2,
        "optim__ema": 0.9,
        "train__eval_batch_size": 7,
    },
    "conv": {
        "model__name": "conv",
        "model__conv__channels": (8, 256),
        "model__conv__upsample": "unpool",
        "model__encoder__widths": (),
        "model__encoder__norm": "batch",
    },
}
SCRIPT = """
import json, sys, tempfile
from pathlib import Path
sys.path[:0] = ["tests"]
import jax
from common import assert_equal, images, small
from aejax import experiment
from aejax.data import sources
from aejax.parallel import mesh
from aejax.storage.checkpoint import Checkpoints
from aejax.training import plan
from aejax.training.trainer import Trainer

fields, meshes = json.loads(sys.argv[1])
runs, found = {}, {}
for over, (data, model, fsdp) in meshes.items():
    config = small(**fields, mesh__data=data, mesh__model=model, mesh__fsdp=fsdp,
                   train__epochs=10, train__log_steps=1, optim__learning_rate=0.003)
    dataset = sources.from_array(images(), config)
    run = Trainer(experiment.build(plan.resolve(config), dataset.spec), dataset, mesh.make(data, model))
    state, losses = run.init(), []
    for step in range(20):
        state, values = run.run(state, step, step + 1)
        losses.append(values["loss"])
    assert len(state.step.sharding.device_set) == data * model
    moments = state.opt_state[-1][0].mu if fields.get("optim__clip") else state.opt_state[0].mu
    largest = [max(jax.tree.leaves(tree), key=lambda a: a.size) for tree in (state.params, moments)]
    found[over] = {
        "losses": losses, "test": run.evaluate(state, "test")["loss"],
        "compiled": [run._train_steps._cache_size(), run._eval_step._cache_size()],
        "parts": [a.size // a.addressable_shards[0].data.size for a in largest],
    }
    runs[over] = run, state
# A checkpoint of any mesh is that of every other, in its own shardings.
run, state = runs["2x2 fsdp"]
with tempfile.TemporaryDirectory() as folder, Checkpoints(Path(folder)) as checkpoints:
    checkpoints.save(20, state, {})
    checkpoints.wait()
    for run, other in runs.values():
        restored, _ = checkpoints.restore(20, run.abstract)
        assert_equal(restored, state)
        assert jax.tree.map(lambda a: a.sharding, restored) == jax.tree.map(lambda a: a.sharding, other)
        run.run(restored, 20, 21)
        assert run._train_steps._cache_size() == 1
print(json.dumps(found))
"""


def execute(script, devices, *arguments, quick=False):
    """The last line that a script prints, as JSON, in a process with so many virtual devices."""
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "PYTHONPATH": str(ROOT)}
    if quick:
        environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    done = subprocess.run(
        [sys.executable, "-c", script, *map(json.dumps, arguments)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module", params=[pytest.param(v, marks=pytest.mark.slow) for v in VARIANTS])
def runs(request):
    """The first 20 steps over several meshes of four virtual devices, in a process of their own."""
    return execute(SCRIPT, 4, [VARIANTS[request.param], MESHES], quick=True)


@pytest.mark.parametrize("over", list(MESHES)[1:])
def test_the_mesh_does_not_change_the_numbers(request, runs, over):
    one, several = runs["1"], runs[over]
    np.testing.assert_allclose(several["losses"], one["losses"], rtol=1e-5)
    # The vae draws noise for each batch of evaluation, whose 7 examples are rounded up to the mesh.
    rel = 1e-2 if request.node.callspec.params["runs"] == "vae" else 1e-5
    assert several["test"] == pytest.approx(one["test"], rel=rel)
    assert several["compiled"] == [1, 1]
    assert one["losses"][-1] < one["losses"][0]


def test_a_device_holds_its_part_of_parameters_and_moments(runs):
    # Of the largest, a kernel [30, 256], [256, 64] or [3, 3, 8, 256], two sides are divided by 2.
    expected = {"1": 1, "2x2 fsdp": 4}
    assert {over: found["parts"] for over, found in runs.items()} == {k: [v, v] for k, v in expected.items()}


@pytest.mark.parametrize(
    ("shape", "axes", "fsdp", "expected"),
    [
        ((784, 1000), (4, 2), False, (None, "model")),  # a layer that widens, by its outputs
        ((1000, 500), (4, 2), False, ("model", None)),  # the next, by its inputs
        ((784, 1000), (4, 2), True, ("data", "model")),
        ((784, 1000), (4, 1), True, (None, "data")),
        ((785, 1000), (4, 2), True, (None, "model")),  # 4 does not divide 785
        ((785, 1001), (4, 2), True, (None, None)),
        ((64, 128), (4, 2), False, (None, None)),  # not wide
        ((3, 3, 64, 512), (4, 2), True, (None, None, "data", "model")),
        ((1000,), (4, 2), True, ()),
        ((), (4, 2), True, ()),
        ((784, 1000), (1, 1), True, (None, None)),
    ],
)
def test_rules(shape, axes, fsdp, expected):
    sizes = dict(zip(mesh.AXES, axes, strict=True))
    assert mesh.spec(shape, sizes, fsdp=fsdp) == PartitionSpec(*expected)


def test_a_state_is_put_and_gathered():
    over = mesh.make(1)
    tree = {"a": np.arange(6.0, dtype=np.float32).reshape(2, 3), "b": np.int32(3)}
    placed = mesh.put(tree, mesh.state(over, tree, fsdp=True))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(placed))
    for ours, theirs in zip(jax.tree.leaves(mesh.gather(over, placed)), jax.tree.leaves(tree), strict=True):
        assert type(ours) is np.ndarray
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_training_begins_from_given_parameters():
    run = trainer(small(optim__ema=0.9), images())
    drawn = run.init()
    begun = run.init(lambda params: jax.tree.map(lambda leaf: leaf + 1, params))
    for tree in (begun.params, begun.ema):
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b + np.float32(1)), tree, drawn.params)
    state, _ = run.run(begun, 0, 1)  # which overwrites what it is given
    assert int(state.step) == 1


BAD = {
    (64, 1): ("config.mesh.data = 64", "needs 64 devices"),
    (-1, -1): ("config.mesh.model = -1", "must be at least 1"),
    (-1, 3): ("config.mesh.model = 3", "must divide the 4 devices"),
    (3, -1): ("config.mesh.data = 3", "must divide the 4 devices"),
    (2, 4): ("config.mesh.data = 2", "needs 8 devices with mesh.model = 4; there are 4"),
    (-1, 0): ("config.mesh.model = 0", "must divide"),
}


@pytest.mark.parametrize("shape", BAD)
def test_bad_meshes(monkeypatch, shape):
    monkeypatch.setattr(jax, "devices", lambda: [None] * 4)
    with pytest.raises(InputError) as error:
        mesh.make(*shape)
    one_line(error, *BAD[shape])


def test_a_batch_must_be_divisible():
    class Two:
        shape = {"data": 2}  # noqa: RUF012

    with pytest.raises(InputError) as error:
        mesh.check_batch(Two(), "train.batch_size", 33)
    one_line(error, "config.train.batch_size = 33", "2 devices")
    mesh.check_batch(Two(), "train.batch_size", 32)
    assert [mesh.round_up(Two(), n) for n in (1, 2, 3)] == [2, 2, 4]


SHIPPED = """
import json, sys, tempfile
sys.path[:0] = ["tests"]
from common import get_config, metrics, results
from aejax import run as run_lib
from test_mesh import shrink

found = {}
for name in json.loads(sys.argv[1]):
    config = shrink(get_config(name))
    with tempfile.TemporaryDirectory() as folder:
        run_lib.run(config, folder + "/run")
        losses = [line["loss"] for line in metrics(folder + "/run") if line["split"] == "train"]
        found[name] = {"losses": losses[:20], "test": results(folder + "/run")["test/loss"]}
print(json.dumps(found))
"""


def shrink(config):
    """At least 20 steps, of batches that 8 devices divide; each step on a line; numbers alone."""
    fields = config_lib.flatten(config.to_dict())
    epochs = {path: 4 for path in fields if path.split(".")[-1] == "epochs"}
    batches = {path: n // 8 * 8 for path, n in fields.items() if path.split(".")[-1] == "batch_size"}
    if config.model.encoder.norm == "batch" or config.name == "manifold":
        # Of 700,000 normalised values in a step of wide layers, one lies within rounding of the ReLU's kink every few
        # steps, and its gradient is there or not: losses of restoration then differ by 7e-3 at step 20, of manifold by
        # 2.6e-5. A smooth activation shows the same sums without that: 3e-7.
        smooth = dict.fromkeys(("model__encoder__activation", "model__decoder__activation"), "tanh")
        if config.model.code_activation == "relu":
            smooth["model__code_activation"] = "tanh"
        config = change(config, **smooth)
    if config.data.kind == "series":
        # Rounding grows from step to step: with the learning rates of the configs from 1e-7 to 1e-4 (recurrent) and
        # 1e-2 (conv1d) in 20 steps.
        config = change(config, optim__learning_rate=1e-4)
    if config.pair.name in ("caption", "forecast"):
        epochs["train__steps"] = 20
    return change(
        config,
        **epochs,
        **batches,
        method__clustering__start_epochs=0,
        data__labeled_examples=(),  # a classifier has a loss, its draws have errors
        uses__run=("reconstruction",),
        figures__enabled=False,
        train__eval_epochs=4,
        train__log_steps=1,
        train__progress=False,
    )


# Adam divides a gradient that is rounding alone by its own size, which moves one weight by 7 % of a step, and two steps
# later a ReLU is on with one order of a sum and off with the other: 1.6e-5 and 1.7e-5 at step 20, on one kind of CPU.
# Where the optimiser is sgd, text.py's 20 losses on 1 and 8 devices are equal to 2e-7.
RTOL = {"inpainting_cvae": 2e-5, "text": 2e-5}


@pytest.mark.slow
@pytest.mark.parametrize("part", range(3))
def test_every_step_on_1_2_4_8_devices(part):
    """A third of the configs, on one device and, in turn, on 2, 4 or 8; a process for each number of devices."""
    assert {path.stem for path in CONFIGS} > ALIKE
    names = [path.stem for path in CONFIGS if path.stem not in ALIKE][part::3]
    given = {1: names, 2: names[::3], 4: names[1::3], 8: names[2::3]}
    with ThreadPoolExecutor(2) as pool:  # each of them compiles most of its time, on one core
        found = dict(zip(given, pool.map(lambda n: execute(SHIPPED, n, given[n], quick=True), given), strict=True))
    for name in names:
        one, rtol = found[1][name], RTOL.get(name, 1e-5)
        assert len(one["losses"]) == 20
        for devices in [n for n in given if n > 1 and name in given[n]]:
            several = found[devices][name]
            np.testing.assert_allclose(several["losses"], one["losses"], rtol=rtol, err_msg=f"{name} on {devices}")
            assert several["test"] == pytest.approx(one["test"], rel=1e-2), (name, devices)
