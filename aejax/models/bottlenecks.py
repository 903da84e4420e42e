"""Bottlenecks: the map from h to z between encoder and decoder.

A bottleneck is a Flax module with the attributes `size` and `dtype`, its own fields, and the property `inputs`: the
units of the encoder's code layer. `__call__(h, *, condition, step)` maps h [B, inputs] to a `Neck`. `step` is the
training step, None outside training; `condition` is the input of a prior network. Random numbers come from the stream
"sample"; without that stream (`has_rng`) a bottleneck is deterministic. An optional static method `check(config)`
yields errors of its fields against the rest of the config.

Each metric of a `Neck` is logged on every split under its own name, which must differ from the terms of the objective.
Parameters of a bottleneck are the component "bottleneck"; `init_from` and pretraining do not carry them over.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from aejax.errors import FieldError
from aejax.fields import WIDTHS, Field, at_least, within
from aejax.models.layers import single
from aejax.models.mlp import Encoder


class Neck(NamedTuple):
    """The output of a bottleneck."""

    h: jax.Array  # [B, size] before the bottleneck
    z: jax.Array  # [B, size] after it
    stats: dict[str, jax.Array] = {}  # noqa: RUF012  (never changed) for penalties
    metrics: dict[str, jax.Array] = {}  # noqa: RUF012  (never changed) to be logged: each [B], or a scalar


class Identity(nn.Module):
    """z = h."""

    size: int  # units of the code
    dtype: str = "float32"

    @property
    def inputs(self) -> int:
        """Units that the encoder's code layer must have."""
        return self.size

    def __call__(self, h: jax.Array, *, condition: jax.Array | None = None, step: jax.Array | None = None) -> Neck:
        return Neck(h, h)


class Gaussian(nn.Module):
    """q(z|x) = N(mean, diag exp(logvar)); z = mean + exp(logvar / 2) ε, ε ~ N(0, I).

    The encoder gives [B, 2 size]: mean, then logvar. h is the mean; z is the mean too, unless a
    random stream "sample" is given. Kingma & Welling (2014), section 2.4.

    The prior is N(0, I), or with `prior_widths` a network of the condition, p(z|condition) = N(prior_mean,
    diag exp(prior_logvar)), with relu layers of these widths (Sohn et al., 2015).
    """

    size: int
    prior_widths: Annotated[
        Sequence[int],
        Field("conditional models: units of the hidden layers of the prior network; () = the prior is N(0, I)", WIDTHS),
    ] = ()
    dtype: str = "float32"

    @property
    def inputs(self) -> int:
        return 2 * self.size

    @staticmethod
    def check(config: Any) -> Iterator[FieldError]:
        model, likelihood = config.model, config.objective.likelihood
        if likelihood == "squared_error":
            allowed = "is not a density, so it has no ELBO; a gaussian bottleneck takes gaussian or bernoulli"
            yield FieldError("objective.likelihood", likelihood, allowed)
        if model.code_activation != "identity":
            allowed = "must be identity for a gaussian bottleneck"
            yield FieldError("model.code_activation", model.code_activation, allowed)
        if model.decoder.tied:
            yield FieldError("model.decoder.tied", True, "needs a bottleneck that is not gaussian")

    def setup(self) -> None:
        if self.prior_widths:
            self.prior_network = Encoder(code=2 * self.size, widths=self.prior_widths, dtype=self.dtype)

    def __call__(self, h: jax.Array, *, condition: jax.Array | None = None, step: jax.Array | None = None) -> Neck:
        # In float32: exp(logvar) of a bfloat16 logvar is off by percents.
        mean, logvar = jnp.split(single(h), 2, axis=-1)  # [B, size] each
        z = mean
        if self.has_rng("sample"):
            z = mean + jnp.exp(logvar / 2) * jax.random.normal(self.make_rng("sample"), mean.shape)
        stats = {"mean": mean, "logvar": logvar}
        if self.prior_widths and condition is not None:
            stats["prior_mean"], stats["prior_logvar"] = self.prior(condition)
        return Neck(mean, z, stats)

    def prior(self, condition: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean and logvar of p(z|condition), [B, size] each."""
        if not self.prior_widths:
            zeros = jnp.zeros((condition.shape[0], self.size))
            return zeros, zeros
        mean, logvar = jnp.split(single(self.prior_network(condition)[0]), 2, axis=-1)
        return mean, logvar


class TopK(nn.Module):
    """z = h where h is among the k largest of its example, 0 elsewhere (k-sparse; Makhzani & Frey, 2014).

    In training k falls linearly from `begin` to `k` over the first `steps` steps, so that no unit is
    excluded from the start (their section 4.2.1). Outside training it is `test`.
    """

    size: int
    k: Annotated[int, Field("units kept at the end of training", at_least(1))] = 25
    begin: Annotated[int, Field("units kept at step 0", at_least(1))] = 100
    steps: Annotated[int, Field("steps over which the number of units falls linearly from begin to k", at_least(0))] = 0
    test: Annotated[int, Field("units kept outside training", at_least(1))] = 25
    dtype: str = "float32"

    @staticmethod
    def check(config: Any) -> Iterator[FieldError]:
        bottleneck = config.model.bottleneck
        for field in ("k", "begin", "test"):
            if bottleneck.topk[field] > bottleneck.size:
                allowed = f"must be at most the {bottleneck.size} units of the code"
                yield FieldError(f"model.bottleneck.topk.{field}", bottleneck.topk[field], allowed)

    @property
    def inputs(self) -> int:
        return self.size

    def __call__(self, h: jax.Array, *, condition: jax.Array | None = None, step: jax.Array | None = None) -> Neck:
        k = jnp.asarray(self.test)
        if step is not None:
            left = jnp.clip(1 - step / max(self.steps, 1), 0.0, 1.0)
            k = self.k + jnp.round((self.begin - self.k) * left).astype(jnp.int32)
        return Neck(h, jnp.where(largest(h, k), h, 0))


class Nested(nn.Module):
    """z = h of the first b units, 0 in the others, so that the units are ordered by how much they tell (nested dropout;
    Rippel et al., 2014).

    In training b is drawn for each example: P(b = k) = p (1 − p)^(k − 1), and all units are kept where b exceeds
    their number. Outside training all units are kept; a prefix of the code can be decoded with zeros for the rest.
    """

    size: int
    p: Annotated[
        float,
        Field("probability that a unit is the last one that is kept in training, given that those before it are not",
              within(0, 1, brackets="()")),
    ] = 0.1  # fmt: skip
    dtype: str = "float32"

    @property
    def inputs(self) -> int:
        return self.size

    def __call__(self, h: jax.Array, *, condition: jax.Array | None = None, step: jax.Array | None = None) -> Neck:
        if step is None or not self.has_rng("sample"):
            return Neck(h, h)
        # u in (0, 1]: log(u) / log(1 - p) exceeds k with probability (1 - p)^k.
        u = 1 - jax.random.uniform(self.make_rng("sample"), (h.shape[0], 1))
        kept = jnp.log(u) / jnp.log1p(-self.p) >= jnp.arange(self.size)[None]
        return Neck(h, jnp.where(kept, h, 0))


def largest(h: jax.Array, k: jax.Array) -> jax.Array:
    """Mask [B, n] of the k largest entries of each row of h; entries equal to the k-th are included.

    The k-th largest value is found bit by bit, by 32 counts, so that k may be traced.
    """
    h = jnp.where(h == 0, 0.0, h.astype(jnp.float32))  # one zero: -0 equals 0
    bits = jax.lax.bitcast_convert_type(h, jnp.uint32)
    # Unsigned integers in the order of the floats: negative ones reversed, below the positive ones.
    ordered = jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(1 << 31))  # [B, n]

    def body(i: jax.Array, threshold: jax.Array) -> jax.Array:
        candidate = threshold | (jnp.uint32(1 << 31) >> i.astype(jnp.uint32))  # [B, 1]
        enough = jnp.sum(ordered >= candidate, axis=-1, keepdims=True) >= k
        return jnp.where(enough, candidate, threshold)

    return ordered >= jax.lax.fori_loop(0, 32, body, jnp.zeros((h.shape[0], 1), jnp.uint32))
