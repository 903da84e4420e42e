"""The autoencoder: encoder, bottleneck, decoder."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from aejax.models.layers import single


class Context(NamedTuple):
    """Inputs of the decoder besides the code."""

    switches: tuple[jax.Array, ...] = ()  # of each max-pooling of the encoder
    condition: jax.Array | None = None  # [B, ...] of a conditional model
    length: jax.Array | None = None  # [B] steps of each series
    memory: tuple[jax.Array, jax.Array] | None = None  # [B, S, n] for attention, and whether a step is there, [B, S]


class Code(NamedTuple):
    """The output of encoder and bottleneck for a batch."""

    h: jax.Array  # [B, ...] the code layer's activation, before the bottleneck
    z: jax.Array  # [B, ...] after the bottleneck
    stats: dict[str, jax.Array]  # of the bottleneck, for penalties: mean, logvar
    hidden: tuple[jax.Array, ...]  # activation of every hidden layer
    context: Context
    metrics: dict[str, jax.Array]  # of the bottleneck, to be logged: each [B], or a scalar


class Autoencoder(nn.Module):
    """x ── encoder ──▶ h ── bottleneck ──▶ z ── decoder ──▶ r.

    Random streams: "dropout" if `train`, "sample" for a bottleneck that samples. The outputs r are the parameters of
    the likelihood (logits, or means) of each head, in float32.
    """

    encoder: nn.Module
    bottleneck: nn.Module
    decoder: nn.Module
    head: nn.Module | None = None  # parameters of the likelihood that are not a function of z
    tied: bool = False  # the decoder's kernels are the encoder's, transposed
    output: str = "x"  # name of the decoder's head

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
        h, z, stats, metrics = self.bottleneck(h, condition=condition, step=step if train else None)
        return Code(single(h), single(z), stats, hidden, context._replace(condition=condition), metrics)

    def decode(self, z: jax.Array, context: Context | None = None, *, train: bool = False) -> dict[str, jax.Array]:
        """Codes z [B, ...] -> outputs by head, [B, ...] each."""
        kernels = self.encoder.kernels() if self.tied else None
        context = Context() if context is None else context
        if context.condition is not None and not hasattr(self.decoder, "write"):  # it sees z beside the condition
            flat = (z.reshape(z.shape[0], -1), context.condition.reshape(z.shape[0], -1))
            z = jnp.concatenate(flat, axis=-1)
        return {self.output: single(self.decoder(z, context, kernels=kernels, train=train))}

    def decode_samples(self, z: jax.Array, context: Context | None = None) -> dict[str, jax.Array]:
        """Several codes of each example, z [S, B, ...] -> outputs by head, [S, B, ...] each."""
        flat = z.reshape(-1, *z.shape[2:])
        repeated = jax.tree.map(lambda leaf: jnp.concatenate([leaf] * len(z)), context)
        outputs = self.decode(flat, repeated)
        return {name: r.reshape(*z.shape[:2], *r.shape[1:]) for name, r in outputs.items()}

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
    ) -> tuple[dict[str, jax.Array], Code]:
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
