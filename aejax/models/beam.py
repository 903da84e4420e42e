"""Beam search over the tokens of a sequence; with a beam of 1 it is greedy."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from aejax.data import tokens

Step = Callable[[jax.Array, Any, Any], tuple[jax.Array, Any]]  # (token [B], states, cache) -> logits [B, V], states


def search(
    step: Step, states: Any, cache: Any, *, batch: int, length: int, beam: int, alpha: float
) -> tuple[jax.Array, jax.Array]:
    """The best of `beam` sequences of each example: numbers of tokens [B, length], PAD after END, and log p [B], nats.

    The sequences are ranked by log p / n^alpha, where n counts the tokens with the end (Wu et al. 2016, section 7,
    without its constant). PAD and BEGIN are never written. The loop is compiled once, whatever the lengths.
    """
    k = beam
    states, cache = jax.tree.map(lambda leaf: jnp.repeat(leaf, k, axis=0), (states, cache))

    def one(carry: Any, i: jax.Array) -> tuple[Any, None]:
        written, total, done, states = carry
        last = jnp.where(i > 0, written[:, :, i - 1], tokens.BEGIN)
        logits, states = step(last.reshape(-1), states, cache)
        log_p = jax.nn.log_softmax(logits.astype(jnp.float32)).reshape(batch, k, -1)
        number = jnp.arange(log_p.shape[-1])[None, None]
        log_p = jnp.where((number == tokens.PAD) | (number == tokens.BEGIN), -jnp.inf, log_p)
        log_p = jnp.where(done[..., None], jnp.where(number == tokens.PAD, 0.0, -jnp.inf), log_p)
        totals = (total[..., None] + log_p).reshape(batch, -1)  # [B, k V]
        n = jnp.where(done, tokens.lengths(written), i + 1)
        scores = totals / jnp.repeat(n.astype(jnp.float32) ** alpha, log_p.shape[-1], axis=1)
        _, best = jax.lax.top_k(scores, k)
        parent, token = best // log_p.shape[-1], best % log_p.shape[-1]

        def follow(leaf: jax.Array) -> jax.Array:
            own = leaf.reshape(batch, k, *leaf.shape[1:])
            place = parent.reshape(batch, k, *[1] * (own.ndim - 2))
            return jnp.take_along_axis(own, place, axis=1).reshape(leaf.shape)

        written = jnp.take_along_axis(written, parent[..., None], axis=1).at[:, :, i].set(token)
        ended = jnp.take_along_axis(done, parent, axis=1) | (token == tokens.END)
        total = jnp.take_along_axis(totals, best, axis=1)
        return (written, total, ended, jax.tree.map(follow, states)), None

    written = jnp.full((batch, k, length), tokens.PAD)
    total = jnp.where(jnp.arange(k)[None] == 0, 0.0, -jnp.inf) * jnp.ones((batch, 1))  # at first they are all alike
    carry: Any = (written, total, jnp.zeros((batch, k), bool), states)
    (written, total, _, _), _ = jax.lax.scan(one, carry, jnp.arange(length))
    best = jnp.argmax(total / tokens.lengths(written).astype(jnp.float32) ** alpha, axis=1)[:, None]
    rows = jnp.take_along_axis(written, best[..., None], axis=1)[:, 0]
    return rows, jnp.take_along_axis(total, best, axis=1)[:, 0]
