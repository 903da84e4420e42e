"""Classifiers trained on few labels, from a pretrained encoder and from random parameters.

For each number of labels n and each draw of n labelled training examples, balanced over the classes, cross-validation
within the n examples selects a setting of `config.few_labels`. The classifier is then trained on all n and tested. Both
starts select from the same settings. The settings and folds of a draw are the members of a population.
"""

import dataclasses
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from aejax import experiment as experiment_lib
from aejax.data.dataset import Dataset
from aejax.data.lazy import loaded
from aejax.data.spec import Spec
from aejax.errors import FieldError, NonFiniteError, Stopped
from aejax.experiment import State
from aejax.parallel import processes
from aejax.storage import run_dir
from aejax.storage.checkpoint import Checkpoints
from aejax.training import members, memory, population, progress
from aejax.training.population import Group
from aejax.training.trainer import InitialParams


def run(
    config: ConfigDict,
    path: Path,
    data: Dataset,
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
    groups = _Groups(config, data, stop)
    sizes, draws = config.data.labeled_examples, range(config.data.label_draws)
    todo = list(itertools.product(sizes, draws, starts))
    for n, k, name in _shown(todo, config.train.progress and processes.first()):
        key = f"{n}/{k}/{name}"
        if key in done:
            continue
        clock, rows = time.perf_counter(), draw(data.train["y"], n, config.data.split_seed, k)
        scores = groups.cross_validate(rows, starts[name])
        best = int(np.argmin(scores))
        error, state = groups.final(best, rows, starts[name])
        if (n, k, name) == (max(sizes), 0, next(iter(starts))):
            with Checkpoints(path / run_dir.CHECKPOINTS / "last") as checkpoints:
                checkpoints.save(int(state.step), state, {})
        seconds = time.perf_counter() - clock
        done[key] = {"error": error, "validation_error": scores[best], **groups.settings[best], "seconds": seconds}
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


class _Part(NamedTuple):
    """A classifier to train: the number of its setting, and the drawn rows that it sees and is judged by."""

    setting: int
    rows: np.ndarray
    held: np.ndarray


class _Groups:
    """Trains classifiers on a draw, those of one program together; one compilation serves all draws and starts."""

    def __init__(self, config: ConfigDict, data: Dataset, stop: Callable[[], bool]):
        self.settings, self._data, self._stop = _settings(config), data, stop
        self._folds = config.few_labels.folds
        self._configs = [_config(config, setting) for setting in self.settings]
        self._made: dict[Any, Group] = {}

    def cross_validate(self, rows: np.ndarray, start: InitialParams) -> list[float]:
        """Mean error of each setting on the held-out folds, percent; inf if a loss is not finite."""
        fold = np.arange(len(rows)) % self._folds  # rows are grouped by class, so each fold has all classes
        parts = [
            _Part(k, np.flatnonzero(fold != i), np.flatnonzero(fold == i))
            for k in range(len(self.settings))
            for i in range(self._folds)
        ]
        errors = [measured.get("error", np.inf) for measured, _ in self._train(parts, rows, start, "validation")]
        return [float(np.mean(own)) for own in np.reshape(errors, (-1, self._folds))]

    def final(self, setting: int, rows: np.ndarray, start: InitialParams) -> tuple[float, State]:
        """The test error of a setting trained on all rows, percent, and its state; raises NonFiniteError."""
        part = _Part(setting, np.arange(len(rows)), np.arange(0))
        ((measured, state),) = self._train([part], rows, start, "test")
        if not measured:
            raise NonFiniteError(f"not finite: loss of {self.settings[setting]} on {len(rows)} labels")
        return measured["error"], state

    def _train(
        self, parts: Sequence[_Part], rows: np.ndarray, start: InitialParams, split: str
    ) -> list[tuple[dict[str, float], State]]:
        """The numbers of a split, {} if the loss is not finite, and the state of each part."""
        drawn = {name: loaded(values[rows]) for name, values in self._data.train.items()}
        spec = dataclasses.replace(self._data.spec, train=len(rows), validation=len(rows))
        data = Dataset(drawn, drawn, self._data.test, spec)
        experiments = [
            experiment_lib.build(self._configs[part.setting], dataclasses.replace(spec, train=len(part.rows)))
            for part in parts
        ]
        found: dict[int, tuple[dict[str, float], State]] = {}
        most = memory.members(experiments[0], [data])
        for group in members.groups([population.program(one) for one in experiments], most):
            own, shown = [parts[i] for i in group], [data] * len(group)
            seen, held = [part.rows for part in own], [part.held for part in own]
            key = tuple((part.setting, len(part.rows), len(part.held)) for part in own)
            if key in self._made:
                self._made[key].put(shown, seen, held)
            else:
                self._made[key] = Group([experiments[i] for i in group], shown, seen, held)
            found |= dict(zip(group, self._trained(self._made[key], start, split), strict=True))
        return [found[i] for i in range(len(parts))]

    def _trained(self, group: Group, start: InitialParams, split: str) -> list[tuple[dict[str, float], State]]:
        if self._stop():
            raise Stopped("stopped; the same command resumes from the last draw")
        group.failed = {}
        states = group.init([start] * len(group.experiments))
        for first, end in group.intervals(0):
            states, _ = group.run(states, first, end)
        return list(zip(group.evaluate(states, split), group.members(states), strict=True))


def _config(config: ConfigDict, setting: Mapping[str, Any]) -> ConfigDict:
    config = config.copy_and_resolve_references()
    config.optim.learning_rate = setting["learning_rate"]
    config.model.encoder.dropout = setting["dropout"]
    config.finetune.freeze = setting["freeze"]
    return config


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
