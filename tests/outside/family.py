"""A model family: dense layers with residual blocks. It has neither norm nor dropout, and no tied weights."""

from collections.abc import Iterator, Sequence
from math import prod
from typing import Annotated, Any

import flax.linen as nn
import jax

from aejax.errors import FieldError
from aejax.fields import Field, at_least
from aejax.models import ACTIVATIONS, Context
from aejax.models.layers import Dense

Blocks = Annotated[int, Field("residual blocks after each hidden layer", at_least(0))]


class Layer(nn.Module):
    """x -> y = f(x W + b), then y + f(y V + c) for each block."""

    width: int
    blocks: int
    activation: str
    kernel_init: str
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        f = ACTIVATIONS[self.activation]
        y = f(Dense(self.width, self.kernel_init, self.dtype)(x))
        for _ in range(self.blocks):
            y = y + f(Dense(self.width, self.kernel_init, self.dtype)(y))
        return y


class Encoder(nn.Module):
    code: int
    widths: Sequence[int] = (64,)
    activation: str = "relu"
    kernel_init: str = "lecun_normal"
    blocks: Blocks = 1
    code_activation: str = "identity"
    dtype: str = "float32"

    def setup(self) -> None:
        hidden = [Layer(n, self.blocks, self.activation, self.kernel_init, self.dtype) for n in self.widths]
        self.layers = [*hidden, Dense(self.code, self.kernel_init, self.dtype)]

    def __call__(self, x: jax.Array, *, train: bool = False) -> tuple[jax.Array, tuple[jax.Array, ...], Context]:
        x, hidden = x.reshape(x.shape[0], -1), []
        for layer in self.layers[:-1]:
            x = layer(x)
            hidden.append(x)
        return ACTIVATIONS[self.code_activation](self.layers[-1](x)), tuple(hidden), Context()


class Decoder(nn.Module):
    shape: Sequence[int]
    widths: Sequence[int] = (64,)
    activation: str = "relu"
    kernel_init: str = "lecun_normal"
    blocks: Blocks = 1
    dtype: str = "float32"
    needs_context = False

    def setup(self) -> None:
        hidden = [Layer(n, self.blocks, self.activation, self.kernel_init, self.dtype) for n in self.widths]
        self.layers = [*hidden, Dense(prod(self.shape), self.kernel_init, self.dtype)]

    def __call__(
        self, z: jax.Array, context: Context | None = None, *, kernels: None = None, train: bool = False
    ) -> jax.Array:
        x = z.reshape(z.shape[0], -1)
        for layer in self.layers:
            x = layer(x)
        return x.reshape(z.shape[0], *self.shape)


def check(config: Any) -> Iterator[FieldError]:
    if not config.model.encoder.widths:
        yield FieldError("model.encoder.widths", (), "must name at least one layer for model.name = 'residual'")
