"""A bottleneck with parameters and a metric: each unit has a scale, which is trained."""

from typing import Annotated

import flax.linen as nn
import jax
import jax.numpy as jnp

from aejax.fields import Field, above
from aejax.models import Neck


class Scaled(nn.Module):
    """z = s ∘ h; the scales s = exp(log_scale) are positive."""

    size: int
    initial: Annotated[float, Field("scale of each unit at step 0", above(0))] = 2.0
    dtype: str = "float32"

    @property
    def inputs(self) -> int:
        return self.size

    @nn.compact
    def __call__(self, h: jax.Array, *, condition: jax.Array | None = None, step: jax.Array | None = None) -> Neck:
        start = nn.initializers.constant(jnp.log(self.initial))
        scale = jnp.exp(self.param("log_scale", start, (self.size,)))
        return Neck(h, h * scale[None].astype(h.dtype), metrics={"scale_mean": scale.mean()})
