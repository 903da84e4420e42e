"""Whole splits as the model sees them: dense, and binarised if the config says so."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aejax.data import feed
from aejax.data.bags import dense
from aejax.data.dataset import Arrays, Dataset
from aejax.data.lazy import Lazy, chunks
from aejax.pairs.example import binarize, scale

EVALUATION = 0xE7A1  # folded into the root key: evaluation draws the same numbers at every step
SAMPLE = 2**22  # values of a streamed set that PCA is fitted to


def training(config: Any, key: jax.Array, data: Dataset) -> np.ndarray:
    """Training examples as float32; a sample of them if they are streamed."""
    x = data.train["x"]
    if isinstance(x, Lazy):
        most = max(SAMPLE // int(np.prod(data.spec.x.shape)), 1)
        x = np.concatenate(list(chunks(x[np.sort(feed.order(0, 0, len(x))[:most])])))
    train = {"x": dense(x)}
    if config.data.binarize != "none":
        train = drawn(train, key)
    return _float(train["x"], config)


def held_out(config: Any, key: jax.Array, data: Dataset) -> Arrays:
    """The validation split, then the test split."""
    both = {n: np.concatenate([dense(data.validation[n]), dense(data.test[n])]) for n in data.test}
    return drawn(both, key) if config.data.binarize != "none" else both


def test(config: Any, key: jax.Array, data: Dataset) -> Lazy:
    """Test examples as float32."""
    held, shape = held_out(config, key, data)["x"], data.spec.x.shape
    rows = np.arange(data.spec.validation, len(held))
    return Lazy(lambda rows: _float(held[rows], config).reshape(-1, *shape), rows, shape, np.float32)


def drawn(split: Arrays, key: jax.Array) -> Arrays:
    """A split binarised once: uint8 0 or 255, which the model scales to 0 or 1."""
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        return {**split, "x": np.asarray(_draw(split["x"], key))}


@jax.jit
def _draw(x: Any, key: jax.Array) -> jax.Array:
    drawn = binarize(jax.random.fold_in(key, EVALUATION), scale({"x": x}))["x"]
    return drawn.astype(jnp.uint8) * 255


def _float(x: np.ndarray, config: Any) -> np.ndarray:
    x = x / np.float32(255) if x.dtype == np.uint8 else x.astype(np.float32, copy=False)
    return np.nan_to_num(x) if config.data.missing == "mask" else x
