"""How often a classifier is wrong."""

import jax
import jax.numpy as jnp

from aejax.pairs.example import Example


def wrong(example: Example, mean: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """100 where the most probable class [B, classes] is not the label, else 0, [B]; and the weight [B] of each.

    Their weighted mean is the error in percent; an example without a label has weight 0.
    """
    assert example.weight is not None
    mistaken = jnp.argmax(mean, axis=-1) != jnp.argmax(example.target, axis=-1)
    return 100 * mistaken.astype(jnp.float32), mask * example.weight[:, 0]
