"""The autoencoder: encoder, bottleneck, decoder."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from aejax.models.layers import single


class Code(NamedTuple):
    """What the encoder and the bottleneck make of a batch."""

    h: jax.Array  # [B, ...] the code layer's activation, before the bottleneck
    z: jax.Array  # [B, ...] after the bottleneck
    stats: dict[str, jax.Array]  # of the bottleneck: mean, logvar
    hidden: tuple[jax.Array, ...]  # activation of every hidden layer
    context: Any  # what the decoder may need besides z: pooling switches, `Given`


class Given(NamedTuple):
    """The context of a decoder that sees a condition: z with the condition is its code."""

    condition: jax.Array  # [B, ...]
    context: Any = None  # what it needs besides


class Autoencoder(nn.Module):
    """x ── encoder ──▶ h ── bottleneck ──▶ z ── decoder ──▶ r.

    Random streams: "dropout" where `train`, "sample" where the bottleneck shall sample. r are the
    parameters of the likelihood (logits, or means), in float32.
    """

    encoder: nn.Module
    bottleneck: nn.Module
    decoder: nn.Module
    head: nn.Module | None = None  # parameters of the likelihood that are not a function of z
    tied: bool = False  # the decoder's kernels are the encoder's, transposed

    @property
    def needs_context(self) -> bool:
        """Whether a code alone cannot be decoded."""
        return bool(self.decoder.needs_context)

    def encode(
        self,
        x: jax.Array,
        *,
        condition: jax.Array | None = None,
        train: bool = False,
        step: jax.Array | None = None,
    ) -> Code:
        h, hidden, context = self.encoder(x, train=train)
        h, z, stats = self.bottleneck(h, condition=condition, step=step if train else None)
        if condition is not None:
            context = Given(condition, context)
        return Code(single(h), single(z), stats, hidden, context)

    def decode(self, z: jax.Array, context: Any = None, *, train: bool = False) -> jax.Array:
        """z [B, ...] -> r [B, ...]; a vector code may carry a leading axis of samples, [S, B, code]."""
        kernels = self.encoder.kernels() if self.tied else None
        if z.ndim == 3:
            flat = z.reshape(-1, z.shape[-1])
            repeated = jax.tree.map(lambda leaf: jnp.concatenate([leaf] * len(z)), context)
            r = self.decode(flat, repeated, train=train)
            return r.reshape(*z.shape[:2], *r.shape[1:])
        if isinstance(context, Given):
            condition, context = context
            z = jnp.concatenate([z.reshape(z.shape[0], -1), condition.reshape(z.shape[0], -1)], axis=-1)
        return single(self.decoder(z, context, kernels=kernels, train=train))

    def prior(self, condition: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean and logvar of p(z|condition), [B, code] each."""
        return self.bottleneck.prior(condition)

    def __call__(
        self,
        x: jax.Array,
        *,
        condition: jax.Array | None = None,
        train: bool = False,
        step: jax.Array | None = None,
    ) -> tuple[jax.Array, Code]:
        code = self.encode(x, condition=condition, train=train, step=step)
        if self.head is not None:
            self.head()
        return self.decode(code.z, code.context, train=train), code


class LogSigma(nn.Module):
    """log σ of a gaussian likelihood, one trained number for all outputs."""

    initial: float = 0.0

    @nn.compact
    def __call__(self) -> jax.Array:
        return self.param("log_sigma", nn.initializers.constant(self.initial), ())
