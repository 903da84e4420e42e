"""Divergences between two sets of codes."""

import jax
import jax.numpy as jnp


def mmd(a: jax.Array, b: jax.Array) -> jax.Array:
    """Squared maximum mean discrepancy of points a [N, D] and b [M, D], unbiased, a scalar without unit.

    E k(a, a') + E k(b, b') − 2 E k(a, b) over pairs of different points, with the inverse multiquadratic kernel
    k(x, y) = Σ_s C_s / (C_s + ‖x − y‖²), C_s = 2 D s, s in {0.1, 0.2, 0.5, 1, 2, 5, 10}; 2 D is the expected squared
    distance of two points from N(0, I). Its expectation is 0 if both sets have the same distribution, so a
    value may be negative. Gretton et al. (2012), lemma 6; kernel of Tolstikhin et al. (2018), section 4.
    """
    n, m = len(a), len(b)
    within = (jnp.sum(_kernel(a, a)) - n * SCALES) / (n * (n - 1)) + (jnp.sum(_kernel(b, b)) - m * SCALES) / (
        m * (m - 1)
    )
    return within - 2 * jnp.mean(_kernel(a, b))


SIZES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
SCALES = len(SIZES)  # k(x, x)


def _kernel(a: jax.Array, b: jax.Array) -> jax.Array:
    """[N, M]."""
    distances = jnp.sum(a**2, -1)[:, None] + jnp.sum(b**2, -1)[None] - 2 * a @ b.T
    distances = jnp.maximum(distances, 0)
    total = jnp.zeros_like(distances)
    for size in SIZES:
        c = 2 * a.shape[1] * size
        total += c / (c + distances)
    return total
