"""The classifier whose code a use takes as features of images."""

import shutil
from pathlib import Path

import jax
from ml_collections import ConfigDict

from aejax import config as config_lib
from aejax import experiment as experiment_lib
from aejax.data.dataset import Dataset
from aejax.errors import InputError, raise_all
from aejax.parallel import mesh as mesh_lib
from aejax.storage import run_dir, saved
from aejax.trained import Trained, of_state
from aejax.training import plan, resumption
from aejax.training.loop import optimize
from aejax.training.trainer import Trainer

NAME = "classifier"  # of the config


def load_or_train(data: Dataset, config: ConfigDict, folder: Path, workdir: str) -> Trained:
    """The classifier of the run directory `workdir`; for "" the config `classifier` trained on `data` in `folder`, or
    the one that lies there already. `config`: that of the run whose data these are. Raises InputError."""
    if workdir:
        return saved.load(workdir)
    own = plan.resolve(_config(config, data))
    if jax.process_count() > 1:
        raise InputError("trains a classifier, in one process: run it by python -m aejax.evaluate")
    if folder.exists() and not _same(folder, own, data):
        shutil.rmtree(folder)
    if (folder / run_dir.RESULTS).is_file():
        return saved.load(folder)
    raise_all(experiment_lib.check(own, data.spec))
    experiment = experiment_lib.build(own, data.spec)
    folder.parent.mkdir(parents=True, exist_ok=True)
    print(f"trains a classifier of the labels, whose code is the features, once: {folder}", flush=True)
    with resumption.opened(folder, own, data.spec):
        trainer = Trainer(experiment, data, mesh_lib.make(1))
        state = optimize(trainer, folder, lambda: False).state
        run_dir.write_results(folder, {f"test/{name}": v for name, v in trainer.evaluate(state, "test").items()})
    return of_state(experiment, state)


def _config(config: ConfigDict, data: Dataset) -> ConfigDict:
    """The config `classifier` on the data of a run, not binarised."""
    own = config_lib.shipped(NAME, config.data.source)
    own.data.update(config.data.to_dict())
    own.data.binarize, own.data.labeled_examples = "none", ()
    own.train.batch_size = min(own.train.batch_size, data.spec.train)
    own.train.progress = own.figures.enabled = False
    return own


def _same(folder: Path, config: ConfigDict, data: Dataset) -> bool:
    """Whether a folder holds a run of this config on these data."""
    try:
        stored, spec = run_dir.read(folder)
    except InputError:
        return False
    return config_lib.identity(stored) == config_lib.identity(config) and spec.digest == data.spec.digest
