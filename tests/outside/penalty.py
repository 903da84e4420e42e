"""A penalty: the elastic net of the code."""

from __future__ import annotations

from typing import Annotated

import jax
import jax.numpy as jnp

from aejax.fields import Field, at_least
from aejax.losses import Forward


def elastic(
    forward: Forward,
    *,
    ratio: Annotated[float, Field("weight of the squares beside the absolute values", at_least(0))] = 0.5,
) -> jax.Array:
    """Σ_j |z_j| + λ Σ_j z_j², [B], with λ = `ratio` (Zou & Hastie, 2005)."""
    z = forward.code.z.reshape(forward.code.z.shape[0], -1)
    return jnp.sum(jnp.abs(z) + ratio * z**2, axis=-1)
