"""The random numbers are JAX's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aejax.parallel import prng

DRAWS = {
    "bits": lambda key: jax.random.bits(key, (7, 3)),
    "scalar": lambda key: jax.random.bits(key),
    "nothing": lambda key: jax.random.bits(key, (0, 3)),
    "bytes": lambda key: jax.random.bits(key, (9,), jnp.uint8),
    "normal": lambda key: jax.random.normal(key, (5, 4, 2)),
    "bernoulli": lambda key: jax.random.bernoulli(key, 0.3, (50,)),
    "permutation": lambda key: jax.random.permutation(key, 20),
    "split": lambda key: jax.random.key_data(jax.random.split(key, (2, 3))),
    "fold_in": lambda key: jax.random.key_data(jax.random.fold_in(key, 2**31 + 5)),
    "vmap": lambda key: jax.vmap(lambda k: jax.random.normal(k, (3,)))(jax.random.split(key, 4)),
}


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("seed", [0, 12345, 2**31 - 1])
def test_they_are_those_of_jax(draw, seed):
    expected, found = (jax.jit(DRAWS[draw])(make(seed)) for make in (jax.random.key, prng.key))
    np.testing.assert_array_equal(found, expected)
