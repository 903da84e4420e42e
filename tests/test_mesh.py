import json
import os
import subprocess
import sys

import numpy as np
import pytest

from aejax import mesh
from aejax.errors import InputError
from common import ROOT, one_line

SCRIPT = """
import json, sys
sys.path[:0] = ["tests"]
import numpy as np
from common import VAE, change, images, metrics, results, small
from aejax import mesh, train
from aejax.data import sources

found = {}
for name, fields in json.loads(sys.argv[1]).items():
    found[name] = {}
    for devices in (1, 2, 4):
        config = small(**fields, mesh__data=devices, train__epochs=10, train__log_steps=1, optim__learning_rate=0.003)
        data = sources.from_array(images(), config)
        run = train.Trainer(config, data, mesh.make(devices))
        state, losses = run.init(), []
        for step in range(20):
            state, values = run.run(state, step, step + 1)
            losses.append(values["loss"])
        assert len(state.step.sharding.device_set) == devices
        found[name][devices] = {"losses": losses, "test": run.evaluate(state, "test")["loss"],
                                "compiled": [run._train_steps._cache_size(), run._eval_step._cache_size()]}
print(json.dumps(found))
"""
VARIANTS = {
    "plain": {},
    "vae": {
        "model__bottleneck__name": "gaussian",
        "objective__likelihood": "bernoulli",
        "data__binarize": "dynamic",
        "model__encoder__norm": "batch",
        "model__encoder__dropout": 0.2,
        "optim__accumulate": 2,
        "train__eval_batch_size": 7,
    },
}


@pytest.fixture(scope="module")
def runs():
    """The first 20 steps over 1, 2 and 4 of four virtual devices, in a process of their own."""
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "4", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(VARIANTS)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("devices", ["2", "4"])
def test_the_number_of_devices_does_not_change_the_numbers(runs, name, devices):
    one, several = runs[name]["1"], runs[name][devices]
    np.testing.assert_allclose(several["losses"], one["losses"], rtol=1e-5)
    assert several["test"] == pytest.approx(one["test"], rel=1e-2)
    assert several["compiled"] == [1, 1]
    assert one["losses"][-1] < one["losses"][0]


def test_bad_meshes():
    with pytest.raises(InputError) as error:
        mesh.make(64)
    one_line(error, "config.mesh.data = 64")


def test_a_batch_must_be_divisible():
    class Two:
        shape = {"data": 2}  # noqa: RUF012

    with pytest.raises(InputError) as error:
        mesh.check_batch(Two(), "train.batch_size", 33)
    one_line(error, "config.train.batch_size = 33", "2 devices")
    mesh.check_batch(Two(), "train.batch_size", 32)
    assert [mesh.round_up(Two(), n) for n in (1, 2, 3)] == [2, 2, 4]
