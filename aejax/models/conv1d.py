"""Encoder and decoder of dilated convolutions over series [B, T, C]; Bai et al. (2018) with windows on both sides."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from aejax.data.spec import Spec
from aejax.errors import FieldError
from aejax.fields import WIDTHS, Field, at_least
from aejax.models.autoencoder import Context
from aejax.models.layers import INITS, Activate, Layered, has_bias
from aejax.models.mlp import Decoder as DenseDecoder
from aejax.models.mlp import Encoder as DenseEncoder


class _Part(Layered, kw_only=True):
    """The fields that encoder and decoder share."""

    channels: Annotated[
        Sequence[int], Field("channels of the output of each encoder block; the decoder mirrors them", WIDTHS)
    ] = (32, 32, 32)
    kernel_size: Annotated[int, Field("steps of a kernel", at_least(1))] = 5
    dilation: Annotated[int, Field("block i reads every (dilation^i)-th step", at_least(1))] = 2
    factor: Annotated[int, Field("a block averages so many steps into one, rounded up; 1 = none", at_least(1))] = 1

    def block(self, features: int, i: int, *, use_bias: bool) -> "Conv":
        return Conv(features, self.kernel_size, self.dilation**i, self.kernel_init, self.dtype, use_bias)


class Encoder(_Part, kw_only=True):
    """Blocks of convolution, activation and averaging, then dense layers: x [B, T, C] -> code layer [B, code], every
    hidden activation, and an empty context."""

    code: int = 0
    code_activation: str = "identity"

    def setup(self) -> None:
        bias = has_bias(self.norm)
        self.blocks = [self.block(n, i, use_bias=bias) for i, n in enumerate(self.channels)]
        self.activations = [Activate(**self.hidden) for _ in self.channels]
        self.dense = DenseEncoder(
            code=self.code,
            widths=self.widths,
            code_activation=self.code_activation,
            kernel_init=self.kernel_init,
            **self.hidden,
        )

    def __call__(self, x: jax.Array, *, train: bool = False) -> tuple[jax.Array, tuple[jax.Array, ...], Context]:
        hidden = []
        for block, activate in zip(self.blocks, self.activations, strict=True):
            x = average(activate(block(x), train=train), self.factor)
            hidden.append(x)
        code, dense, context = self.dense(x, train=train)
        return code, (*hidden, *dense), context


class Decoder(_Part, kw_only=True):
    """The mirror of the encoder: dense layers, then for each block repetition of the steps, convolution, activation;
    z [B, code] -> r [B, T, C], parameters of the likelihood. The last convolution is linear."""

    shape: Sequence[int] = ()  # (T, C)
    needs_context = False

    @property
    def last(self) -> str:
        """The layer whose bias is added to the output."""
        return "blocks_0"

    def setup(self) -> None:
        self.steps = sizes(self.shape[0], len(self.channels), self.factor)
        self.dense = DenseDecoder(
            shape=(self.steps[-1], self.channels[-1]), widths=self.widths, kernel_init=self.kernel_init, **self.hidden
        )
        self.first = Activate(**self.hidden)
        features, bias = (self.shape[1], *self.channels[:-1]), has_bias(self.norm)
        self.blocks = [self.block(n, i, use_bias=bias or not i) for i, n in enumerate(features)]
        self.activations = [Activate(**self.hidden) for _ in self.channels[:-1]]

    def __call__(
        self,
        z: jax.Array,
        context: Context = Context(),  # noqa: B008  (never changed)
        *,
        kernels: Sequence[jax.Array] | None = None,
        train: bool = False,
    ) -> jax.Array:
        x = self.first(self.dense(z, train=train), train=train)
        for i in reversed(range(len(self.channels))):
            x = self.blocks[i](jnp.repeat(x, self.factor, axis=1)[:, : self.steps[i]])
            if i:
                x = self.activations[i - 1](x, train=train)
        return x


class Conv(nn.Module):
    """y[t] = b + Σ_j x[t + dilation (j − ⌊(k − 1) / 2⌋)] W_j, [B, T, in] -> [B, T, features]; x is 0 outside."""

    features: int
    kernel_size: int
    dilation: int = 1
    kernel_init: str = "lecun_normal"
    dtype: str = "float32"
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        steps, inputs, k = x.shape[1], x.shape[2], self.kernel_size
        kernel = self.param("kernel", INITS[self.kernel_init], (k, inputs, self.features)).astype(self.dtype)
        before = self.dilation * ((k - 1) // 2)
        padded = jnp.pad(x.astype(self.dtype), ((0, 0), (before, self.dilation * (k - 1) - before), (0, 0)))
        # One product for all places of the kernel: on the CPU several times faster than XLA's convolution.
        seen = [padded[:, j * self.dilation : j * self.dilation + steps] for j in range(k)]
        y = jnp.concatenate(seen, axis=-1) @ kernel.reshape(k * inputs, self.features)
        if not self.use_bias:
            return y
        return y + self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)[None, None]


def average(x: jax.Array, factor: int) -> jax.Array:
    """The mean of every `factor` steps, [B, T, C] -> [B, ⌈T / factor⌉, C]; the last one may be of fewer."""
    if factor == 1:
        return x
    steps = x.shape[1]
    short = -steps % factor
    parts = jnp.pad(x, ((0, 0), (0, short), (0, 0))).reshape(x.shape[0], -1, factor, x.shape[2]).sum(2)
    counts = jnp.minimum(factor, steps - factor * jnp.arange(parts.shape[1])).astype(x.dtype)
    return parts / counts[None, :, None]


def sizes(steps: int, blocks: int, factor: int) -> list[int]:
    """The steps of a series and of the output of each block."""
    found = [steps]
    for _ in range(blocks):
        found.append(-(-found[-1] // factor))
    return found


def check(config: Any) -> Iterator[FieldError]:
    """Errors of the section `model` for a convolutional model of series."""
    if not config.model.conv1d.channels:
        yield FieldError("model.conv1d.channels", (), "must name at least one block")


def check_data(config: Any, spec: Spec) -> Iterator[FieldError]:
    """Errors of a convolutional model of series on data of `spec`."""
    if spec.x.kind != "series":
        allowed = f"needs series; the data are a {spec.x.kind}: data.kind = 'series' if they are arrays [N, time]"
        yield FieldError("model.name", config.model.name, allowed)
        return
    own = config.model.conv1d
    if own.factor > 1 and 1 in sizes(spec.x.shape[0], len(own.channels), own.factor)[:-1]:
        yield FieldError(
            "model.conv1d.factor", own.factor, f"leaves one step of {spec.x.shape[0]} before the last block"
        )
