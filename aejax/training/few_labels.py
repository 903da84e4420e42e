"""Classifiers trained on few labels, from a pretrained encoder and from random parameters.

For each number of labels n and each draw of n labelled training examples, balanced over the classes, cross-validation
within the n examples selects a setting of `config.few_labels`. The classifier is then trained on all n and tested. Both
starts select from the same settings.
"""

import dataclasses
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from aejax import experiment as experiment_lib
from aejax.data.dataset import Dataset
from aejax.data.lazy import loaded
from aejax.data.spec import Spec
from aejax.errors import FieldError, Stopped
from aejax.experiment import State
from aejax.parallel import processes
from aejax.storage import run_dir
from aejax.storage.checkpoint import Checkpoints
from aejax.training import progress
from aejax.training.trainer import InitialParams, Trainer


def run(
    config: ConfigDict,
    path: Path,
    data: Dataset,
    mesh: jax.sharding.Mesh,
    stop: Callable[[], bool],
    initial_params: InitialParams | None,
) -> dict[str, float]:
    """Errors in percent, mean and standard deviation over the draws, by n and start.

    Finished draws are kept in few_labels.json, from which a stopped run resumes. The run directory's checkpoint holds
    the classifier of the largest n and the first draw.
    """
    starts: dict[str, InitialParams] = {"random": lambda params: params}
    if initial_params is not None:
        starts = {"pretrained": initial_params} | starts
    done: dict[str, Any] = processes.share(
        json.loads((path / run_dir.FEW_LABELS).read_text()) if (path / run_dir.FEW_LABELS).is_file() else {}
    )
    trainers = _Trainers(config, data, mesh)
    sizes, draws = config.data.labeled_examples, range(config.data.label_draws)
    todo = list(itertools.product(sizes, draws, starts))
    for n, k, name in _shown(todo, config.train.progress and processes.first()):
        key = f"{n}/{k}/{name}"
        if key in done:
            continue
        rows = draw(data.train["y"], n, config.data.split_seed, k)
        settings, clock = _settings(config), time.perf_counter()
        scores = [_cross_validate(trainers, setting, rows, starts[name], stop) for setting in settings]
        best = int(np.argmin(scores))
        trainer = trainers(settings[best], {"train": rows, "validation": rows[:0]})
        state = _train(trainer, starts[name], stop)
        error = trainer.evaluate(state, "test")["error"]
        if (n, k, name) == (max(sizes), 0, next(iter(starts))):
            with Checkpoints(path / run_dir.CHECKPOINTS / "last") as checkpoints:
                checkpoints.save(trainer.steps, state, {})
        seconds = time.perf_counter() - clock
        done[key] = {"error": error, "validation_error": scores[best], **settings[best], "seconds": seconds}
        run_dir.write(path / run_dir.FEW_LABELS, json.dumps(done, indent=1))
    results = {"seconds": sum(one["seconds"] for one in done.values())}
    for n, name in itertools.product(sizes, starts):
        errors = [done[f"{n}/{k}/{name}"]["error"] for k in draws]
        results |= {f"{name}_{n}/error": float(np.mean(errors)), f"{name}_{n}/error_deviation": float(np.std(errors))}
    return results


def _shown(todo: list[Any], shown: bool) -> Iterator[Any]:
    with progress.bar(len(todo), "draw", shown) as bar:
        for one in todo:
            yield one
            bar.update()


def draw(labels: np.ndarray, n: int, seed: int, k: int) -> np.ndarray:
    """Rows of n labelled examples, balanced (the first n mod classes classes have one more), grouped by class."""
    random = np.random.RandomState([seed, n, k])  # its streams are frozen
    classes = int(labels.max()) + 1
    counts = [n // classes + (c < n % classes) for c in range(classes)]
    chosen = [random.permutation(np.flatnonzero(labels == c))[:count] for c, count in enumerate(counts)]
    return np.concatenate(chosen)


def check(config: ConfigDict, spec: Spec, labels: np.ndarray | None) -> None:
    """Raise InputError if the labels do not suffice for a draw."""
    folds, batch = config.few_labels.folds, config.train.batch_size
    pretrained = config.init_from or config.pretrain.widths
    if config.data.labeled_examples and True in config.few_labels.freezes and not pretrained:
        allowed = "may hold True only with a pretrained encoder; name a trained run: config.init_from=DIR"
        raise FieldError("few_labels.freezes", tuple(config.few_labels.freezes), allowed)
    for n in config.data.labeled_examples:
        classes = len(spec.classes)
        least = np.bincount(labels[labels >= 0]).min() if labels is not None else 0
        if -(-n // classes) > least:
            allowed = f"must be at most {least * classes}, {least} for each of {classes} classes"
            raise FieldError("data.labeled_examples", n, allowed)
        if n < max(folds, classes) or n - -(-n // folds) < batch:
            raise FieldError(
                "data.labeled_examples",
                n,
                f"must be at least one per class, and leave a batch of {batch} outside each of {folds} folds",
            )


def _settings(config: ConfigDict) -> list[dict[str, Any]]:
    grid = config.few_labels
    return [
        {"learning_rate": rate, "dropout": dropout, "freeze": freeze}
        for rate, dropout, freeze in itertools.product(grid.learning_rates, grid.dropouts, grid.freezes)
    ]


class _Trainers:
    """One trainer for each setting and number of rows, so that one compilation serves all draws and folds."""

    def __init__(self, config: ConfigDict, data: Dataset, mesh: jax.sharding.Mesh):
        self.config, self.data, self.mesh = config, data, mesh
        self._made: dict[Any, Trainer] = {}

    def __call__(self, setting: Mapping[str, Any], rows: Mapping[str, np.ndarray]) -> Trainer:
        splits = {name: {k: loaded(v[chosen]) for k, v in self.data.train.items()} for name, chosen in rows.items()}
        train, validation = (len(rows[name]) for name in ("train", "validation"))
        spec = dataclasses.replace(self.data.spec, train=train, validation=validation)
        data = Dataset(splits["train"], splits["validation"], self.data.test, spec)
        key = (*setting.values(), train, validation)
        if key not in self._made:
            self._made[key] = Trainer(experiment_lib.build(self._config(setting), spec), data, self.mesh)
        else:
            self._made[key].put(data)
        return self._made[key]

    def _config(self, setting: Mapping[str, Any]) -> ConfigDict:
        config = self.config.copy_and_resolve_references()
        config.optim.learning_rate = setting["learning_rate"]
        config.model.encoder.dropout = setting["dropout"]
        config.finetune.freeze = setting["freeze"]
        return config


def _cross_validate(
    trainers: _Trainers,
    setting: Mapping[str, Any],
    rows: np.ndarray,
    initial_params: InitialParams,
    stop: Callable[[], bool],
) -> float:
    """Mean error on the held-out folds, percent."""
    folds = trainers.config.few_labels.folds
    errors = []
    for i in range(folds):
        held = np.arange(len(rows)) % folds == i  # rows are grouped by class, so each fold has all classes
        trainer = trainers(setting, {"train": rows[~held], "validation": rows[held]})
        errors.append(trainer.evaluate(_train(trainer, initial_params, stop), "validation")["error"])
    return float(np.mean(errors))


def _train(trainer: Trainer, initial_params: InitialParams, stop: Callable[[], bool]) -> State:
    if stop():
        raise Stopped("stopped; the same command resumes from the last draw")
    state = trainer.init(initial_params)
    for first, end in trainer.intervals(0):
        state, _ = trainer.run(state, first, end)
    return state


def curve(path: Path) -> tuple[list[int], dict[str, np.ndarray]] | None:
    """The numbers of labels, and the errors [sizes, draws] of each start, of a finished run; None if it has none."""
    if not (path / run_dir.FEW_LABELS).is_file():
        return None
    found = json.loads((path / run_dir.FEW_LABELS).read_text())
    keys = [key.split("/") for key in found]
    sizes = sorted({int(n) for n, _, _ in keys})
    draws = sorted({int(k) for _, k, _ in keys})
    starts = dict.fromkeys(name for _, _, name in keys)
    return sizes, {s: np.array([[found[f"{n}/{k}/{s}"]["error"] for k in draws] for n in sizes]) for s in starts}
