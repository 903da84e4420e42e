"""Advice after a finished run: one or two lines."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from aejax.methods import METHODS

COLLAPSED = 0.1  # nats of KL below which a code carries nothing
DEAD = 0.1  # share of the units
FALLEN = 0.05  # relative change of the loss that counts as falling, or as rising again
FEW_STEPS = 1000


def notes(config: ConfigDict, results: Mapping[str, float], metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    """Advice from the results and the lines of metrics of a run, the most pressing first."""
    lines = [line for line in metrics if "stage" not in line]
    found = [*_collapsed(config, results)]
    # A test split may hold classes that the model is not meant to know; a refresh changes the loss itself.
    if not config.data.train_labels and not METHODS[config.method.name].refreshes:
        found += [*_overfitted(lines)] or [*_behind_pca(config, results, lines)]
    return [*found, *_dead(config, results)]


def _collapsed(config: ConfigDict, results: Mapping[str, float]) -> Iterator[str]:
    kl = results.get("test/kl")
    if config.model.bottleneck.name == "gaussian" and kl is not None and kl < COLLAPSED:
        yield (
            f"posterior collapse: the code carries {kl:.2g} nats per example. Ways out: a smaller "
            "objective.kl.weight, objective.kl.schedule=linear, objective.kl.free_bits=0.5, or longer training"
        )


def _behind_pca(config: ConfigDict, results: Mapping[str, float], lines: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Worse than PCA while the loss still falls. Worse alone says nothing: a penalty may cost more than PCA's error."""
    pca, own = results.get("test/pca_squared_error"), _squared_error(config, results)
    steps, losses = _curve(lines, "train")
    if pca is None or own is None or own <= pca or not len(losses):
        return
    tenth = max(len(losses) // 10, 1)
    before, end = losses[len(losses) // 2 - tenth // 2 :][:tenth].mean(), losses[-tenth:].mean()
    behind = f"worse than PCA with as many components ({own:.4g} to {pca:.4g})"
    if before - end > FALLEN * abs(before) or steps[-1] < FEW_STEPS:
        yield f"{behind} after {steps[-1]:,.0f} steps, while the loss still falls: increase train.epochs"
    elif config.pair.name == "reconstruct" and config.model.bottleneck.name == "identity" and not _penalties(config):
        yield f"{behind}, and the loss no longer falls: try other model.encoder.widths, optim.weight_decay, or PCA"


def _penalties(config: ConfigDict) -> list[str]:
    """The penalties that are switched on: they may explain a squared error above PCA's."""
    terms = {name: term for name, term in config.objective.items() if isinstance(term, ConfigDict)}
    return [name for name, term in terms.items() if name not in ("reconstruction", "kl") and term.weight]


def _squared_error(config: ConfigDict, results: Mapping[str, float]) -> float | None:
    names = ["squared_error"] + ["reconstruction"] * (config.objective.likelihood == "squared_error")
    return next((results[f"test/{name}"] for name in names if f"test/{name}" in results), None)


def _overfitted(lines: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    split = "validation" if any(line["split"] == "validation" for line in lines) else "test"
    _, losses = _curve(lines, split)
    if len(losses) < 5:
        return
    least = int(losses.argmin())
    if losses[-1] - losses[least] > FALLEN * abs(losses[least]):
        epoch = [line["epoch"] for line in lines if line["split"] == split and "loss" in line][least]
        best = "--checkpoint=best uses that state"
        kept = best if split == "validation" else f"with data.validation_fraction=0.1 {best}"
        yield (
            f"overfitting: the {split} loss was least at epoch {epoch:.0f} ({losses[least]:.4g}) and ended at "
            f"{losses[-1]:.4g}: {kept}; or a smaller model, pair.name=denoise, optim.weight_decay"
        )


def _dead(config: ConfigDict, results: Mapping[str, float]) -> Iterator[str]:
    dead, size = results.get("test/dead_units", 0), config.model.bottleneck.size
    collapsed = any(_collapsed(config, results))
    if size and dead > DEAD * size and not collapsed:
        way = {
            "gaussian": "a smaller objective.kl.weight or objective.kl.free_bits",
            "topk": "objective.auxk.weight or a slower annealing of k",
        }.get(config.model.bottleneck.name, "a smaller optim.learning_rate, or model.code_activation=leaky_relu")
        yield f"{dead:.0f} of the {size} units of the code are never used: {way}"


def _curve(lines: Sequence[Mapping[str, Any]], split: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and losses of a split."""
    found = [(line["step"], line["loss"]) for line in lines if line["split"] == split and "loss" in line]
    steps, losses = np.array(found, np.float64).reshape(-1, 2).T
    return steps, losses
