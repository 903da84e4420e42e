"""The notes at the end of a run, each from numbers made for it."""

import numpy as np
import pytest

from aejax import config as config_lib
from aejax.page.diagnosis import notes


def lines(losses, split="train", step=100):
    return [{"step": step * (i + 1), "epoch": i + 1, "split": split, "loss": v} for i, v in enumerate(losses)]


FALLING, FLAT = np.linspace(100, 20, 20), np.full(20, 20.0)
PCA = {"test/squared_error": 67.0, "test/pca_squared_error": 17.0}


@pytest.mark.parametrize(
    ("name", "results", "metrics", "words"),
    [
        ("deep", PCA, lines(FALLING), ("67 to 17", "2,000 steps", "still falls", "train.epochs")),
        ("deep", PCA, lines(FLAT, step=10), ("200 steps", "still falls")),
        ("deep", PCA, lines(FLAT), ("67 to 17", "no longer falls")),
        ("vae", {"test/kl": 0.02}, [], ("posterior collapse", "0.02 nats", "objective.kl.weight")),
        ("overcomplete", {"test/dead_units": 900}, [], ("900 of the 1000 units", "optim.learning_rate")),
        ("deep", PCA, lines(FALLING) + lines([5, 3, 2, 4, 5, 6], "test"), ("overfitting", "--checkpoint=best")),
        ("ae", {}, lines([5, 3, 2, 4, 5, 6], "test"), ("overfitting", "epoch 3 (2)", "data.validation_fraction")),
        ("ae", {}, lines([5, 3, 2, 4, 5, 6], "validation"), ("validation loss", "--checkpoint=best")),
    ],
)
def test_says_what_is_wrong(name, results, metrics, words):
    (note,) = notes(config_lib.shipped(name), results, metrics)
    assert all(word in note for word in words), note


@pytest.mark.parametrize(
    ("name", "results", "metrics"),
    [
        ("deep", {"test/squared_error": 16.0, "test/pca_squared_error": 17.0}, lines(FALLING)),
        ("sparse", PCA, lines(FLAT)),  # the penalty costs error, and that is meant
        ("vae", {"test/kl": 20.0, "test/dead_units": 1}, lines([5, 4, 3, 2.95, 3, 3], "test")),
        ("idec", PCA, lines([5, 3, 2, 4, 5, 6], "test")),  # a refresh raises the loss
        ("deep", {}, []),
    ],
)
def test_is_silent_where_nothing_is_wrong(name, results, metrics):
    assert notes(config_lib.shipped(name), results, metrics) == []
