"""One forward pass, as the terms of an objective see it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from aejax.models.autoencoder import Code
from aejax.pairs.example import Example


class Forward(NamedTuple):
    """Everything that a penalty may look at."""

    encode: Callable[[jax.Array], Code]  # at the current parameters, dropout off, in float32
    example: Example
    code: Code
    params: Any
    key: jax.Array
    step: jax.Array
    mask: jax.Array | None = None  # [B], 0 for examples that only fill the batch; None = all count
    activation: Callable[[jax.Array], jax.Array] | None = None  # of an encoder that is one dense layer
    error: jax.Array | None = None  # [B, ...] target − output
    variables: Any = None  # not trained by gradient; those of the method under "method"
    clean: Callable[[], jax.Array] | None = None  # the input without corruption
    decode: Callable[[jax.Array], jax.Array] | None = None  # codes -> outputs, at the current parameters
