"""Parts that the model families share: activations, initialisers, and the dense layer."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from aejax.fields import WIDTHS, Field, one_of, within

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "identity": lambda x: x,
    "relu": nn.relu,
    "tanh": jnp.tanh,
    "sigmoid": nn.sigmoid,
    "softplus": nn.softplus,
    "gelu": nn.gelu,
    "silu": nn.silu,
    "elu": nn.elu,
    "selu": nn.selu,
    "leaky_relu": nn.leaky_relu,
}
INITS: dict[str, nn.initializers.Initializer] = {
    "lecun_normal": nn.initializers.lecun_normal(),
    "glorot_uniform": nn.initializers.glorot_uniform(),
    "glorot_normal": nn.initializers.glorot_normal(),
    "he_normal": nn.initializers.he_normal(),
    "he_uniform": nn.initializers.he_uniform(),
    "orthogonal": nn.initializers.orthogonal(),
}
NORMS = ("none", "layer", "batch")


@dataclasses.dataclass(frozen=True)
class Fields:
    """The fields of `model.encoder` and, without the widths, of `model.decoder`; a module takes those that it has."""

    widths: Annotated[tuple, Field("units of each hidden layer, starting at the input", WIDTHS)] = (256, 128, 64)
    activation: Annotated[
        str, Field("activation of the hidden layers: relu | tanh | sigmoid | gelu | ...", one_of(ACTIVATIONS))
    ] = "relu"
    norm: Annotated[str, Field("normalisation before each activation: none | layer | batch", one_of(NORMS))] = "none"
    dropout: Annotated[
        float, Field("probability that a hidden activation is dropped in training", within(0, 1, brackets="[)"))
    ] = 0.0
    kernel_init: Annotated[
        str, Field("initialisation of the kernels: lecun_normal | glorot_uniform | he_normal | ...", one_of(INITS))
    ] = "lecun_normal"


def single(x: jax.Array) -> jax.Array:
    """Cast to float32 at least; only the inside of the networks has half precision."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def has_bias(norm: str) -> bool:
    """Whether the layer before `Activate` has a bias of its own.

    Batch normalisation subtracts it with the mean (Ioffe & Szegedy 2015, section 3.2). Its gradient is rounding alone,
    which Adam scales up to whole steps, and the running mean lags behind them.
    """
    return norm != "batch"


class Dense(nn.Module):
    """y = x W + b, [..., n] -> [..., features]; W may be given instead of owned (tied weights)."""

    features: int
    kernel_init: str = "lecun_normal"
    dtype: str = "float32"
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, kernel: jax.Array | None = None) -> jax.Array:
        if kernel is None:
            kernel = self.param("kernel", INITS[self.kernel_init], (x.shape[-1], self.features))
        y = x.astype(self.dtype) @ kernel.astype(self.dtype)
        if not (self.use_bias or self.has_variable("params", "bias")):  # earlier versions stored one
            return y
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return y + bias.astype(self.dtype).reshape((1,) * (y.ndim - 1) + (-1,))


class Activate(nn.Module):
    """Norm, activation and dropout of a hidden layer, in this order."""

    activation: str = "relu"
    norm: str = "none"
    dropout: float = 0.0
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        if self.norm == "layer":
            x = nn.LayerNorm(dtype=self.dtype)(x)
        elif self.norm == "batch":
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9, dtype=self.dtype)(x)
        x = ACTIVATIONS[self.activation](x)
        return Dropout(self.dropout)(x, train=train)


class Layered(nn.Module, kw_only=True):
    """The fields of `Fields` in an encoder or a decoder."""

    widths: Sequence[int] = ()  # units of the dense hidden layers
    activation: str = "relu"
    norm: str = "none"
    dropout: float = 0.0
    kernel_init: str = "lecun_normal"
    dtype: str = "float32"

    @property
    def hidden(self) -> dict[str, Any]:
        """The fields of `Activate`, which follows each hidden layer."""
        return {"activation": self.activation, "norm": self.norm, "dropout": self.dropout, "dtype": self.dtype}


class Dropout(nn.Module):
    """In training each entry is 0 with probability `rate`, and divided by 1 − rate otherwise; Srivastava et al. (2014).

    Unlike that of `flax.linen`, the rate may be traced.
    """

    rate: float | jax.Array

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if not train or (isinstance(self.rate, float) and self.rate == 0):
            return x
        keep = 1.0 - self.rate
        mask = jax.random.bernoulli(self.make_rng("dropout"), keep, x.shape)
        return jax.lax.select(mask, x / jnp.asarray(keep, x.dtype), jnp.zeros_like(x))
