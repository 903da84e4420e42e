"""Fully connected encoder and decoder."""

from collections.abc import Sequence
from math import prod

import jax

from aejax.models.autoencoder import Context
from aejax.models.layers import ACTIVATIONS, Activate, Dense, Layered, has_bias


class Encoder(Layered, kw_only=True):
    """x [B, ...] -> code layer [B, code], every hidden activation, and an empty context."""

    code: int  # units of the code layer
    code_activation: str = "identity"

    def setup(self) -> None:
        hidden = [Dense(n, self.kernel_init, self.dtype, has_bias(self.norm)) for n in self.widths]
        self.layers = [*hidden, Dense(self.code, self.kernel_init, self.dtype)]
        self.activations = [Activate(**self.hidden) for _ in self.widths]

    def __call__(self, x: jax.Array, *, train: bool = False) -> tuple[jax.Array, tuple[jax.Array, ...], Context]:
        x = x.reshape(x.shape[0], -1)  # [B, D]
        hidden = []
        for layer, activate in zip(self.layers, self.activations, strict=False):
            x = activate(layer(x), train=train)
            hidden.append(x)
        return ACTIVATIONS[self.code_activation](self.layers[-1](x)), tuple(hidden), Context()

    def kernels(self) -> list[jax.Array]:
        """The kernels from the input to the code, for a decoder that shares them."""
        return [layer.get_variable("params", "kernel") for layer in self.layers]


class Decoder(Layered, kw_only=True):
    """z [B, code] -> r [B, *shape], parameters of the likelihood; the last layer is linear."""

    shape: Sequence[int]  # of one output
    needs_context = False

    @property
    def last(self) -> str:
        """The layer whose bias is added to the output."""
        return f"layers_{len(self.widths)}"

    def setup(self) -> None:
        hidden = [Dense(n, self.kernel_init, self.dtype, has_bias(self.norm)) for n in self.widths]
        self.layers = [*hidden, Dense(prod(self.shape), self.kernel_init, self.dtype)]
        self.activations = [Activate(**self.hidden) for _ in self.widths]

    def __call__(
        self,
        z: jax.Array,
        context: Context = Context(),  # noqa: B008  (never changed)
        *,
        kernels: Sequence[jax.Array] | None = None,
        train: bool = False,
    ) -> jax.Array:
        x = z.reshape(z.shape[0], -1)
        # Tied weights: the encoder's kernels from the code back to the input, transposed.
        tied = [kernel.T for kernel in reversed(kernels)] if kernels is not None else [None] * len(self.layers)
        for layer, activate, kernel in zip(self.layers, self.activations, tied, strict=False):
            x = activate(layer(x, kernel), train=train)
        return self.layers[-1](x, tied[-1]).reshape(z.shape[0], *self.shape)
