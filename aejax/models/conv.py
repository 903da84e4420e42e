"""Convolutional encoder and decoder."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax

from aejax.errors import InputError
from aejax.models import mlp
from aejax.models.convolution import average_pool, conv, conv_transpose, max_pool, repeat, sizes, unpool
from aejax.models.layers import ACTIVATIONS, INITS, Activate

DOWNSAMPLES = ("max", "average", "stride")
UPSAMPLES = ("unpool", "repeat", "transpose")


class _Part(nn.Module, kw_only=True):
    """The fields that encoder and decoder share."""

    channels: Sequence[int]  # of the map that each block of the encoder makes
    kernel_size: int = 3
    factor: int = 2  # by which a block divides height and width
    downsample: str = "max"
    upsample: str = "transpose"
    output_layer: bool = False
    widths: Sequence[int] = ()  # units of the dense hidden layers
    activation: str = "relu"
    norm: str = "none"
    dropout: float = 0.0
    kernel_init: str = "lecun_normal"
    dtype: str = "float32"

    @property
    def hidden(self) -> dict[str, Any]:
        """What happens after each hidden layer, dense or not."""
        return {"activation": self.activation, "norm": self.norm, "dropout": self.dropout, "dtype": self.dtype}


class Encoder(_Part, kw_only=True):
    """Blocks of convolution, activation and pooling (or of strided convolution), then dense layers.

    x [B, H, W, C] -> code layer, every hidden activation, and the switches of each max-pooling. With
    code = 0 the last block is the code layer, and its map [B, h, w, channels[-1]] the code.
    """

    code: int = 0  # units of the code layer
    code_activation: str = "identity"

    def setup(self) -> None:
        stride = self.factor if self.downsample == "stride" else 1
        self.blocks = [Conv(n, self.kernel_size, stride, self.kernel_init, self.dtype) for n in self.channels]
        self.activations = [Activate(**self.hidden) for _ in self.channels[: None if self.code else -1]]
        self.dense = mlp.Encoder(
            code=self.code,
            widths=self.widths,
            code_activation=self.code_activation,
            kernel_init=self.kernel_init,
            **self.hidden,
        )

    def __call__(
        self, x: jax.Array, *, train: bool = False
    ) -> tuple[jax.Array, tuple[jax.Array, ...], tuple[jax.Array, ...]]:
        hidden: list[jax.Array] = []
        switches: list[jax.Array] = []
        for n, block in enumerate(self.blocks):
            x = block(x)
            is_code = n == len(self.activations)
            x = ACTIVATIONS[self.code_activation](x) if is_code else self.activations[n](x, train=train)
            if self.downsample == "max":
                x, switch = max_pool(x, self.factor)
                switches.append(switch)
            elif self.downsample == "average":
                x = average_pool(x, self.factor)
            if not is_code:
                hidden.append(x)
        if self.code:
            x, more, _ = self.dense(x, train=train)
            hidden.extend(more)
        return x, tuple(hidden), tuple(switches)

    def kernels(self) -> list[jax.Array]:
        """The kernels from the input to the code, for a decoder that shares them."""
        own: list[jax.Array] = [block.get_variable("params", "kernel") for block in self.blocks]
        return own + (self.dense.kernels() if self.code else [])


class Decoder(_Part, kw_only=True):
    """The encoder's mirror: dense layers, then blocks of upsampling and transposed convolution, the last linear.

    z [B, code], or [B, h, w, channels[-1]] -> r [B, *shape], parameters of the likelihood. A block
    gives the channels of the encoder's block before it. With an output layer the last block keeps
    channels[0], and one more convolution gives the image's channels.
    """

    shape: Sequence[int]  # of one output

    @property
    def needs_context(self) -> bool:
        """Whether a code alone cannot be decoded: unpooling puts values at the encoder's switches."""
        return self.upsample == "unpool"

    def setup(self) -> None:
        stride = self.factor if self.upsample == "transpose" else 1
        features = [*self.channels[-2::-1], *self.channels[: int(self.output_layer)], self.shape[-1]]
        strides = [stride] * len(self.channels) + [1] * self.output_layer
        self.blocks = [
            ConvTranspose(n, self.kernel_size, s, self.kernel_init, self.dtype)
            for n, s in zip(features, strides, strict=True)
        ]
        self.activations = [Activate(**self.hidden) for _ in features[:-1]]
        smallest = (*sizes(self.shape, len(self.channels), self.factor)[-1], self.channels[-1])
        self.dense = mlp.Decoder(shape=smallest, widths=self.widths, kernel_init=self.kernel_init, **self.hidden)
        self.activate = Activate(**self.hidden)

    def __call__(
        self,
        z: jax.Array,
        context: Sequence[jax.Array] | None = None,
        *,
        kernels: Sequence[jax.Array] | None = None,
        train: bool = False,
    ) -> jax.Array:
        if self.needs_context and context is None:
            raise InputError(
                "model.conv.upsample = 'unpool': a code alone cannot be decoded, unpooling needs the encoder's "
                "switches; reconstruct examples, or train with upsample = 'repeat' or 'transpose'"
            )
        blocks = len(self.channels)
        maps = sizes(self.shape, blocks, self.factor)
        x = z
        if z.ndim == 2:
            x = self.activate(self.dense(z, kernels=kernels[blocks:] if kernels else None, train=train), train=train)
        for n in reversed(range(blocks)):
            if context is not None and self.upsample == "unpool":
                x = unpool(x, context[n], maps[n], self.factor)
            elif self.upsample == "repeat":
                x = repeat(x, maps[n], self.factor)
            place = blocks - 1 - n
            x = self.blocks[place](x, maps[n], kernels[n] if kernels else None)
            if place < len(self.activations):
                x = self.activations[place](x, train=train)
        return self.blocks[-1](x, maps[0]) if self.output_layer else x


class _Layer(nn.Module):
    """The fields of a convolution, and its bias."""

    features: int
    kernel_size: int
    stride: int = 1
    kernel_init: str = "lecun_normal"
    dtype: str = "float32"

    def add_bias(self, x: jax.Array) -> jax.Array:
        bias = self.param("bias", nn.initializers.zeros, (self.features,)).astype(x.dtype)
        if x.shape[-1] == 1:  # a loop over one long axis is faster on the CPU than over height, width, 1 channel
            return (x.reshape(x.shape[0], -1) + bias[None]).reshape(x.shape)
        return x + bias[None, None, None]


class Conv(_Layer):
    """`conv` with a kernel and a bias of its own."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", INITS[self.kernel_init], shape)
        return self.add_bias(conv(x.astype(self.dtype), kernel.astype(self.dtype), self.stride))


class ConvTranspose(_Layer):
    """`conv_transpose` with a bias of its own; the kernel [k, k, features, in] may be given (tied weights)."""

    @nn.compact
    def __call__(self, y: jax.Array, size: Sequence[int], kernel: jax.Array | None = None) -> jax.Array:
        if kernel is None:
            shape = (self.kernel_size, self.kernel_size, self.features, y.shape[-1])
            kernel = self.param("kernel", self._init, shape)
        return self.add_bias(conv_transpose(y.astype(self.dtype), kernel.astype(self.dtype), size, self.stride))

    def _init(self, key: jax.Array, shape: Sequence[int]) -> jax.Array:
        # An initialiser takes the last axis but one for the inputs.
        return INITS[self.kernel_init](key, (*shape[:2], shape[3], shape[2])).swapaxes(2, 3)
