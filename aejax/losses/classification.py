"""How often a classifier is wrong."""

import jax
import jax.numpy as jnp

from aejax.pairs.example import Example


def wrong(example: Example, mean: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The share in percent of an example's labels that are not the most probable class, [B]; and its weight [B].

    mean [B, ..., classes]: an example may have several labels, such as the tokens of a caption. The weighted mean is
    the error in percent of all labels; one that is missing (weight 0) does not count.
    """
    assert example.weight is not None
    mistaken = jnp.argmax(mean, axis=-1) != jnp.argmax(example.target, axis=-1)  # [B, ...]
    present = example.weight[..., 0]
    several = tuple(range(1, mistaken.ndim))
    labels = jnp.sum(present, several)
    return 100 * jnp.sum(mistaken * present, several) / jnp.maximum(labels, 1), mask * labels
