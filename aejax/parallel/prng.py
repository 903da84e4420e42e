"""JAX's default random numbers, bit for bit, with all rounds of the cipher in one kernel.

On the CPU JAX runs the rounds in a loop that writes and reads every number five times, which takes seven times as long
for a batch of images. `tests/test_prng.py` compares the bits. Source: Salmon et al., Parallel random numbers: as easy
as 1, 2, 3 (2011), Threefry-2x32 with 20 rounds.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.random import define_prng_impl, threefry_prng_impl

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = 0x1BD11BDA


def key(seed: int | jax.Array) -> jax.Array:
    """A typed key, for all of jax.random; its numbers are those of jax.random.key(seed)."""
    return jax.random.key(seed, impl=THREEFRY)


def _threefry(key: jax.Array, high: jax.Array, low: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Encrypt the counters (high, low) with a key uint32 [2]: two numbers uint32 for each."""
    keys = (key[0], key[1], key[0] ^ key[1] ^ np.uint32(PARITY))
    a, b = high + keys[0], low + keys[1]
    for i in range(5):
        for r in ROTATIONS[i % 2]:
            # lax functions, since jnp's operators take twice the time to trace and to lower.
            a = lax.add(a, b)
            left, right = lax.shift_left(b, np.uint32(r)), lax.shift_right_logical(b, np.uint32(32 - r))
            b = lax.bitwise_xor(a, lax.bitwise_or(left, right))
        a, b = lax.add(a, keys[(i + 1) % 3]), lax.add(b, lax.add(keys[(i + 2) % 3], np.uint32(i + 1)))
    return a, b


def _count(key: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    low = jax.lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
    return _threefry(key, jnp.zeros_like(low), low)


def _bits(key: jax.Array, width: int, shape: tuple[int, ...]) -> jax.Array:
    if width != 32 or math.prod(shape) >= 2**32:
        bits: jax.Array = threefry_prng_impl.random_bits(key, width, shape)
        return bits
    a, b = _count(key, shape)
    return a ^ b


def _split(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jnp.stack(_count(key, shape), axis=-1)


def _fold_in(key: jax.Array, data: Any) -> jax.Array:
    return jnp.stack(_threefry(key, jnp.uint32(0), jnp.asarray(data, jnp.uint32)))


THREEFRY = define_prng_impl(
    key_shape=(2,), seed=threefry_prng_impl.seed, split=_split, random_bits=_bits, fold_in=_fold_in, name="threefry"
)
