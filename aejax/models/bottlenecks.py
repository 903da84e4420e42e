"""What happens to the code between encoder and decoder.

Each maps the encoder's [B, inputs] to (h, z, stats). `step` is the training step, None at use; `condition`
is what a prior network may see.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from aejax.models import mlp
from aejax.models.layers import single

Out = tuple[jax.Array, jax.Array, dict[str, jax.Array]]  # h, z, stats


class Identity(nn.Module):
    """z = h."""

    size: int  # units of the code
    dtype: str = "float32"

    @property
    def inputs(self) -> int:
        """Units that the encoder's code layer must have."""
        return self.size

    def __call__(self, h: jax.Array, *, condition: jax.Array | None = None, step: jax.Array | None = None) -> Out:
        return h, h, {}


class Gaussian(nn.Module):
    """q(z|x) = N(mean, diag exp(logvar)); z = mean + exp(logvar / 2) ε, ε ~ N(0, I).

    The encoder gives [B, 2 size]: mean, then logvar. h is the mean; z is the mean too, unless a
    random stream "sample" is given. Kingma & Welling (2014), section 2.4.

    The prior is N(0, I), or with `prior_widths` a network of the condition, p(z|condition) = N(prior_mean,
    diag exp(prior_logvar)), with relu layers of these widths (Sohn et al., 2015).
    """

    size: int
    prior_widths: Sequence[int] = ()
    dtype: str = "float32"

    @property
    def inputs(self) -> int:
        return 2 * self.size

    def setup(self) -> None:
        if self.prior_widths:
            self.prior_network = mlp.Encoder(code=2 * self.size, widths=self.prior_widths, dtype=self.dtype)

    def __call__(self, h: jax.Array, *, condition: jax.Array | None = None, step: jax.Array | None = None) -> Out:
        # In float32: exp(logvar) of a bfloat16 logvar is off by percents.
        mean, logvar = jnp.split(single(h), 2, axis=-1)  # [B, size] each
        z = mean
        if self.has_rng("sample"):
            z = mean + jnp.exp(logvar / 2) * jax.random.normal(self.make_rng("sample"), mean.shape)
        stats = {"mean": mean, "logvar": logvar}
        if self.prior_widths and condition is not None:
            stats["prior_mean"], stats["prior_logvar"] = self.prior(condition)
        return mean, z, stats

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
    left out from the start (their section 4.2.1); at use it is `test`.
    """

    size: int
    k: int  # units kept at the end of training
    begin: int  # units kept at step 0
    steps: int  # steps from `begin` to `k`
    test: int  # units kept at use
    dtype: str = "float32"

    @property
    def inputs(self) -> int:
        return self.size

    def __call__(self, h: jax.Array, *, condition: jax.Array | None = None, step: jax.Array | None = None) -> Out:
        k = jnp.asarray(self.test)
        if step is not None:
            left = jnp.clip(1 - step / max(self.steps, 1), 0.0, 1.0)
            k = self.k + jnp.round((self.begin - self.k) * left).astype(jnp.int32)
        return h, jnp.where(largest(h, k), h, 0), {}


def largest(h: jax.Array, k: jax.Array) -> jax.Array:
    """Where h [B, n] is among the k largest entries of its row; entries equal to the k-th count too.

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
