"""Convolutional encoder and decoder."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import flax.linen as nn
import jax

from aejax.data.spec import Spec
from aejax.errors import FieldError, InputError
from aejax.fields import WIDTHS, Field, at_least, one_of, within
from aejax.models.autoencoder import Context
from aejax.models.convolution import average_pool, conv, conv_transpose, max_pool, repeat, sizes, unpool
from aejax.models.layers import ACTIVATIONS, INITS, Activate, Layered, has_bias
from aejax.models.mlp import Decoder as DenseDecoder
from aejax.models.mlp import Encoder as DenseEncoder

DOWNSAMPLES = ("max", "average", "stride")
UPSAMPLES = ("unpool", "repeat", "transpose")


class _Part(Layered, kw_only=True):
    """The fields that encoder and decoder share."""

    channels: Annotated[
        Sequence[int], Field("channels of the output of each encoder block; the decoder mirrors them", WIDTHS)
    ] = (32, 32)
    kernel_size: Annotated[int, Field("side of a kernel in pixels", at_least(1))] = 3
    # A switch is one byte.
    factor: Annotated[int, Field("factor by which a block divides height and width, rounded up", within(1, 16))] = 2
    downsample: Annotated[
        str,
        Field(
            "downsampling: max | average (pooling after the convolution) | stride (of the convolution)",
            one_of(DOWNSAMPLES),
        ),
    ] = "max"
    upsample: Annotated[
        str,
        Field(
            "upsampling: unpool (at the encoder's switches) | repeat | transpose (strided convolution)",
            one_of(UPSAMPLES),
        ),
    ] = "transpose"
    output_layer: Annotated[
        bool, Field("the decoder ends in one more convolution, from channels[0] to the channels of the image")
    ] = False


class Encoder(_Part, kw_only=True):
    """Blocks of convolution, activation and pooling (or of strided convolution), then dense layers.

    x [B, H, W, C] -> code layer, every hidden activation, and the switches of each max-pooling. With
    code = 0 the last block is the code layer, and its map [B, h, w, channels[-1]] the code.
    """

    code: int = 0  # units of the code layer
    code_activation: str = "identity"

    def setup(self) -> None:
        stride = self.factor if self.downsample == "stride" else 1
        hidden = len(self.channels) if self.code else len(self.channels) - 1
        biases = [has_bias(self.norm)] * hidden + [True]
        self.blocks = [
            Conv(n, self.kernel_size, stride, self.kernel_init, self.dtype, own)
            for n, own in zip(self.channels, biases, strict=False)
        ]
        self.activations = [Activate(**self.hidden) for _ in range(hidden)]
        self.dense = DenseEncoder(
            code=self.code,
            widths=self.widths,
            code_activation=self.code_activation,
            kernel_init=self.kernel_init,
            **self.hidden,
        )

    def __call__(self, x: jax.Array, *, train: bool = False) -> tuple[jax.Array, tuple[jax.Array, ...], Context]:
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
        return x, tuple(hidden), Context(tuple(switches))

    def kernels(self) -> list[jax.Array]:
        """The kernels from the input to the code, for a decoder that shares them."""
        own: list[jax.Array] = [block.get_variable("params", "kernel") for block in self.blocks]
        return own + (self.dense.kernels() if self.code else [])


class Decoder(_Part, kw_only=True):
    """The encoder's mirror: dense layers, then blocks of upsampling and transposed convolution, the last linear.

    z [B, code], or [B, h, w, channels[-1]] -> r [B, *shape], parameters of the likelihood. A block's output has
    the channels of the input of the encoder's block. With an output layer the last block's has channels[0], and
    one more convolution gives the image's channels.
    """

    shape: Sequence[int]  # of one output

    @property
    def needs_context(self) -> bool:
        """Whether a code alone cannot be decoded: unpooling puts values at the encoder's switches."""
        return self.upsample == "unpool"

    @property
    def last(self) -> str:
        """The layer whose bias is added to the output, one for each channel."""
        return f"blocks_{len(self.channels) - 1 + self.output_layer}"

    def setup(self) -> None:
        stride = self.factor if self.upsample == "transpose" else 1
        features = [*self.channels[-2::-1], *self.channels[: int(self.output_layer)], self.shape[-1]]
        strides = [stride] * len(self.channels) + [1] * self.output_layer
        biases = [has_bias(self.norm)] * (len(features) - 1) + [True]
        self.blocks = [
            ConvTranspose(n, self.kernel_size, s, self.kernel_init, self.dtype, own)
            for n, s, own in zip(features, strides, biases, strict=True)
        ]
        self.activations = [Activate(**self.hidden) for _ in features[:-1]]
        smallest = (*sizes(self.shape, len(self.channels), self.factor)[-1], self.channels[-1])
        self.dense = DenseDecoder(shape=smallest, widths=self.widths, kernel_init=self.kernel_init, **self.hidden)
        self.activate = Activate(**self.hidden)

    def __call__(
        self,
        z: jax.Array,
        context: Context = Context(),  # noqa: B008  (never changed)
        *,
        kernels: Sequence[jax.Array] | None = None,
        train: bool = False,
    ) -> jax.Array:
        if self.needs_context and not context.switches:
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
            if self.upsample == "unpool":
                x = unpool(x, context.switches[n], maps[n], self.factor)
            elif self.upsample == "repeat":
                x = repeat(x, maps[n], self.factor)
            place = blocks - 1 - n
            x = self.blocks[place](x, maps[n], kernels[n] if kernels else None)
            if place < len(self.activations):
                x = self.activations[place](x, train=train)
        return self.blocks[-1](x, maps[0]) if self.output_layer else x


def check(config: Any) -> Iterator[FieldError]:
    """Errors of a convolutional model's fields together."""
    model, conv = config.model, config.model.conv
    if not conv.channels:
        yield FieldError("model.conv.channels", (), "must name at least one block")
    if conv.upsample == "unpool" and conv.downsample != "max":
        allowed = "needs the switches of model.conv.downsample = 'max'; "
        allowed += f"with {conv.downsample!r} take 'repeat' or 'transpose'"
        yield FieldError("model.conv.upsample", "unpool", allowed)
    strided = conv.downsample == "stride" or conv.upsample == "transpose"
    if strided and conv.kernel_size < conv.factor:
        allowed = f"must be at least model.conv.factor = {conv.factor}: a stride beyond the kernel leaves pixels out"
        yield FieldError("model.conv.kernel_size", conv.kernel_size, allowed)
    if model.bottleneck.size == 0:
        if model.bottleneck.name != "identity":
            allowed = f"must be at least 1 for model.bottleneck.name = {model.bottleneck.name}"
            yield FieldError("model.bottleneck.size", 0, allowed)
        for part in ("encoder", "decoder"):
            if widths := model[part].widths:
                allowed = "must be () if the last map is the code (model.bottleneck.size = 0)"
                yield FieldError(f"model.{part}.widths", widths, allowed)
    if model.decoder.tied:
        if (conv.downsample == "stride") != (conv.upsample == "transpose"):
            allowed = (
                f"cannot share kernels between downsample = {conv.downsample!r} and upsample = {conv.upsample!r}; "
                "take stride and transpose, max and unpool or repeat, average and repeat"
            )
            yield FieldError("model.decoder.tied", True, allowed)
        if conv.output_layer:
            yield FieldError("model.conv.output_layer", True, "has no counterpart in the encoder to be tied to")


def check_data(config: Any, spec: Spec) -> Iterator[FieldError]:
    """Errors of a convolutional model on data of `spec`."""
    conv, shape = config.model.conv, spec.x.shape
    if spec.x.kind != "image":
        allowed = f"needs images; the examples are a {spec.x.kind} of shape {shape}"
        yield FieldError("model.name", "conv", allowed)
        return
    maps = sizes(shape, len(conv.channels), conv.factor)
    if conv.factor > 1 and (1, 1) in maps[:-1]:
        allowed = f"must have at most {maps.index((1, 1))} blocks: after them a {shape[0]} x {shape[1]} image is 1 x 1"
        yield FieldError("model.conv.channels", conv.channels, allowed)


class _Layer(nn.Module):
    """The fields of a convolution, and its bias unless batch normalisation follows."""

    features: int
    kernel_size: int
    stride: int = 1
    kernel_init: str = "lecun_normal"
    dtype: str = "float32"
    use_bias: bool = True

    def add_bias(self, x: jax.Array) -> jax.Array:
        if not (self.use_bias or self.has_variable("params", "bias")):  # earlier versions stored one
            return x
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
        # Initialisers take the second to last axis as the inputs.
        return INITS[self.kernel_init](key, (*shape[:2], shape[3], shape[2])).swapaxes(2, 3)
