"""Reconstruction terms: −log p(t | r), summed over the event, per example.

Each takes target t and output r [B, ...] and returns [B]; `weight` multiplies each entry's term.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


def squared_error(
    target: jax.Array, r: jax.Array, weight: jax.Array | None = None, *, sigma: jax.Array | float = 1.0
) -> jax.Array:
    """‖t − r‖² = Σ_j (t_j − r_j)², factor 1 and no constant; an image's sum runs over its pixels.

    Not a density. The measure of Hinton & Salakhutdinov (2006), figure 2. `sigma` is ignored.
    """
    t, r = _flat(target, r)
    return _sum((t - r) ** 2, target, weight)


def gaussian(
    target: jax.Array, r: jax.Array, weight: jax.Array | None = None, *, sigma: jax.Array | float = 1.0
) -> jax.Array:
    """−log N(t; r, σ² I) = Σ_j [(t_j − r_j)² / (2 σ²) + log σ + ½ log 2π], in nats."""
    t, r = _flat(target, r)
    return _sum(((t - r) / sigma) ** 2 / 2 + jnp.log(sigma) + math.log(2 * math.pi) / 2, target, weight)


def bernoulli(
    target: jax.Array, r: jax.Array, weight: jax.Array | None = None, *, sigma: jax.Array | float = 1.0
) -> jax.Array:
    """−Σ_j [t_j log s(r_j) + (1 − t_j) log(1 − s(r_j))], in nats; r are logits, s the logistic function.

    Computed as max(r, 0) − t r + log(1 + e^(−|r|)), which neither over- nor underflows. For t
    strictly between 0 and 1 this is the cross-entropy, no likelihood. `sigma` is ignored.
    """
    t, r = _flat(target, r)
    # max and |·| from one comparison: on their own their gradients at r = 0 do not add up to s(0) - t.
    positive = r >= 0
    terms = jnp.where(positive, r, 0) - t * r + jnp.log1p(jnp.exp(jnp.where(positive, -r, r)))
    return _sum(terms, target, weight)


def categorical(
    target: jax.Array, r: jax.Array, weight: jax.Array | None = None, *, sigma: jax.Array | float = 1.0
) -> jax.Array:
    """−Σ_j t_j log p_j with p = softmax(r), in nats; t is one-hot, or t_j counts word j in a document.

    With N = Σ_j t_j words this is N times the cross-entropy of the proportions t / N and p: the multi-class
    cross-entropy of Hinton & Salakhutdinov (2006), where a document of N words counts N times. It is the
    negative log-probability of the words in their order, so without the multinomial coefficient. `sigma` is
    ignored.
    """
    t, r = _flat(target, r)
    return _sum(-t * jax.nn.log_softmax(r, axis=-1), target, weight)


def proportions(t: jax.Array) -> jax.Array:
    """t / Σ_j t_j of each row [B, D]; a row of zeros stays."""
    return t / jnp.maximum(jnp.sum(t, axis=-1, keepdims=True), 1e-12)


class Likelihood(NamedTuple):
    """A reconstruction term, the mean of t that r stands for, whether it is a density, and t on the mean's scale."""

    term: Callable[..., jax.Array]
    mean: Callable[[jax.Array], jax.Array]
    density: bool
    target: Callable[[jax.Array], jax.Array] = lambda t: t


LIKELIHOODS = {
    "squared_error": Likelihood(squared_error, lambda r: r, False),
    "gaussian": Likelihood(gaussian, lambda r: r, True),
    "bernoulli": Likelihood(bernoulli, jax.nn.sigmoid, True),
    "categorical": Likelihood(categorical, jax.nn.softmax, True, proportions),
}


def _flat(*arrays: jax.Array) -> list[jax.Array]:
    # Loops over one long axis are several times faster on the CPU than over height, width, 1 channel.
    return [array.reshape(array.shape[0], -1) for array in arrays]


def _sum(terms: jax.Array, target: jax.Array, weight: jax.Array | None) -> jax.Array:
    if weight is not None:
        terms = terms * jnp.broadcast_to(weight, target.shape).reshape(terms.shape)
    return jnp.sum(terms, axis=-1)
