"""What the lectures say of under- and overcomplete autoencoders, on the digits."""

import numpy as np
import pytest

import aejax
from aejax import config as config_lib


def fit(tmp_path, *, size, widths=(), epochs=60, train=None, **changes):
    """An autoencoder trained on the digits, and its test images."""
    from aejax.data import sources

    config = config_lib.default()
    config.model.encoder.widths = widths
    config.model.bottleneck.size = size
    config.objective.likelihood = "squared_error"
    config.optim.learning_rate = 3e-3
    config.optim.schedule = "cosine"
    config.train.epochs = epochs
    config.figures.enabled = False
    for path, value in changes.items():
        config_lib.set_field(config, path.replace("__", "."), value)
    data = sources.load(config)
    images = data.train["x"][:train] if train else data.train["x"]
    config.train.batch_size = min(128, len(images) // 2)
    return aejax.fit(images, config, workdir=tmp_path), data.test["x"]


def squared_error(model, x):
    return float(((model.reconstruct(x) - x) ** 2).sum((1, 2, 3)).mean())


def unexplained(model, x):
    """Share of the variance that the reconstruction leaves out."""
    return squared_error(model, x) / float(((x - x.mean(0)) ** 2).sum((1, 2, 3)).mean())


def effective_rank(model, x):
    """Exponential of the entropy of the normalised singular values of the codes' covariance."""
    codes = model.encode(x).reshape(len(x), -1)
    values = np.linalg.svd(codes - codes.mean(0), compute_uv=False) ** 2
    share = values / values.sum()
    return float(np.exp(-(share * np.log(share + 1e-12)).sum()))


def model_data(n):
    from aejax.data import sources

    return sources.load(config_lib.default()).train["x"][:n]


def white_noise(n=200, directions=40):
    """Images that are no digits: of one variance along each of the leading principal directions of the digits."""
    x = model_data(1437).reshape(1437, -1)
    _, _, components = np.linalg.svd(x - x.mean(0), full_matrices=False)
    noise = 0.3 * np.random.default_rng(0).standard_normal((n, directions)) @ components[:directions]
    return np.clip(x.mean(0) + noise, 0, 1).reshape(-1, 8, 8, 1).astype(np.float32)


NOISE = white_noise()


@pytest.mark.slow
def test_overcomplete_copies_without_a_penalty_and_not_with_one(tmp_path):
    """A code wider than the input passes on even noise, which it never saw; a sparse one only digits."""
    copying, test = fit(tmp_path / "copying", size=128)
    learning, _ = fit(tmp_path / "learning", size=128, objective__l1__weight=0.2, model__code_activation="relu")

    assert unexplained(copying, NOISE) < 0.1
    assert unexplained(learning, NOISE) > 0.5
    assert unexplained(learning, test) < 0.3


@pytest.mark.slow
def test_undercomplete_keeps_the_directions_of_the_data(tmp_path):
    model, test = fit(tmp_path, size=8, epochs=400)
    assert effective_rank(model, test) <= 8
    assert unexplained(model, NOISE) > 0.6
    assert unexplained(model, test) < 0.4


@pytest.mark.slow
@pytest.mark.parametrize("widths", [(), pytest.param((256, 256), marks=pytest.mark.slow)])
def test_undercomplete_with_too_much_capacity_copies_what_it_saw(tmp_path, widths):
    """A 2-d code cannot hold 30 digits linearly; deep networks store them by heart and generalise no better."""
    model, test = fit(tmp_path, size=2, widths=widths, train=60, epochs=1500, data__test_fraction=0.02)
    seen = model_data(60)
    if widths:
        assert squared_error(model, seen) < 0.2 * squared_error(model, test)
    else:
        assert squared_error(model, seen) > 0.4 * squared_error(model, test)
