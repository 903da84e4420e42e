"""What the tests share: small configs, small data, the command line."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from aejax import config as config_lib
from aejax import experiment
from aejax.data import sources
from aejax.errors import raise_all
from aejax.parallel.mesh import make
from aejax.trained import of_state
from aejax.training import plan
from aejax.training.trainer import Trainer

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs").glob("*.py"))

# Configs whose step has the parts of another one: they differ in widths, weights, data or uses.
ALIKE = {
    *(
        "linear",
        "deep",
        "overcomplete",
        "code_l2",
        "anomaly",
        "anomaly_images",
        "series_anomaly",
        "clustering",
        "retrieval",
        "idec",
    ),
    *("lossless", "lossy", "hashing", "stacked_denoising", "finetune", "inpainting"),
}

# Flags of predict that are not given.
UNSET = dict.fromkeys(
    (
        *("database", "text", "metric", "maps", "mask", "method", "sampler", "label", "beam"),
        *("coordinator", "processes", "process_id"),
    )
) | {
    "bits": 0,
    "k": None,
    "seed": None,
    "distributed": False,
}


def quick(*names, without=()):
    """A parameter for each shipped config but `without`, the slow tests' but for these names."""
    marks = {path: [] if path.stem in names else pytest.mark.slow for path in CONFIGS if path.stem not in without}
    return [pytest.param(path, marks=own, id=path.stem) for path, own in marks.items()]


def get_config(name, *source, **fields):
    """The config of configs/NAME.py[:source] with `fields` changed, a double underscore for each dot."""
    config = runpy.run_path(str(ROOT / "configs" / f"{name}.py"))["get_config"](*source)
    if config.data.source == "moving_digits":
        config.data.moving_digits_train, config.data.moving_digits_test = 400, 60
    return change(config, **fields)


def untransformed(path):
    """The config of a shipped file, on examples that are stored as `encode` and an exported file take them alike: an
    exported file takes the counts of words, whatever their weights."""
    source = {"colorization": ["tinted_digits"]}.get(path.stem, [])
    config = get_config(path.stem, *source)
    return change(config, data__text="counts") if config.data.text == "tfidf" else config


def small(source="digits", **fields):
    """A model that compiles and trains in a second: deterministic, one hidden layer of 8, code 3."""
    config = config_lib.default(source)
    changes = {
        "model__encoder__widths": (8,),
        "model__bottleneck__size": 3,
        "objective__likelihood": "squared_error",
        "train__epochs": 2,
        "train__batch_size": 32,
        "train__progress": False,
        "figures__enabled": False,
    }
    return change(config, **(changes | fields))


VAE = {"model__bottleneck__name": "gaussian", "objective__likelihood": "bernoulli"}


def change(config, **fields):
    for name, value in fields.items():
        config_lib.set_field(config, name.replace("__", "."), value)
    return config.lock()


def images(n=100, shape=(6, 5, 1), seed=0):
    """uint8 images, not square, with a structure that a small model can learn."""
    rng = np.random.default_rng(seed)
    codes = rng.standard_normal((n, 2))
    values = codes @ rng.standard_normal((2, int(np.prod(shape))))
    return (255 / (1 + np.exp(-values))).astype(np.uint8).reshape(n, *shape)


def table(n=100, columns=7, seed=0):
    """Correlated columns in units of their own, the last one constant."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 3)) @ rng.standard_normal((3, columns)) * 10.0 + 100.0
    x[:, -1] = 5.0
    return x


def trainer(config, x=None, y=None):
    """A Trainer on one device, on x in memory or the config's source."""
    config = plan.resolve(config)
    data = sources.load(config) if x is None else sources.from_array(x, config, y)
    raise_all(experiment.check(config, data.spec))
    return Trainer(experiment.build(config, data.spec), data, make(1))


def check(config, spec=None):
    """Check a config alone, or on data of `spec`, as a run does; raises InputError."""
    if spec is None:
        plan.resolve(config)
    else:
        raise_all(experiment.check(plan.implied(config), spec))


def trained(run, state=None):
    """The model of a trainer's state, or of its initial one."""
    return of_state(run.experiment, run.init() if state is None else state)


def one_line(error, *parts):
    """Assert that the error's message is one line that holds every part."""
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


def command(*arguments, module="aejax.main", **kwargs):
    """Start `python -m MODULE` in the repository."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **kwargs,
    )


def finish(process, code=0):
    """Wait for a command; its output, once its exit code is as expected."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, f"exit code {process.returncode}, not {code}\n{out}\n{err}"
    return out, err


def metrics(workdir):
    """The lines of metrics.jsonl without the wall-clock fields."""
    lines = [json.loads(line) for line in (Path(workdir) / "metrics.jsonl").read_text().splitlines()]
    return [without_clock(line) for line in lines]


def results(workdir):
    """results.json without the wall-clock fields."""
    return without_clock(json.loads((Path(workdir) / "results.json").read_text()))


def without_clock(values):
    return {name: value for name, value in values.items() if name not in ("seconds", "examples_per_second")}


def assert_equal(a, b):
    """Two pytrees are the same bit for bit."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y), err_msg=jax.tree_util.keystr(path))
