"""Terms that the objective adds to the reconstruction: each `f(ctx, **fields)` returns [B], or a scalar."""

from collections.abc import Iterator
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from aejax.errors import FieldError
from aejax.fields import Field, at_least, one_of, within
from aejax.losses.forward import Forward
from aejax.models.autoencoder import Code
from aejax.models.bottlenecks import largest
from aejax.models.layers import single

LAYERS = ("code", "encoder")  # the code layer, or every hidden layer of the encoder and the code layer
RHO_RANGE = (1e-6, 1 - 1e-6)  # mean activations are clipped to it, so that the KL stays finite
Layers = Annotated[str, Field("penalised layers: code | encoder (all hidden layers and the code)", one_of(LAYERS))]


def kl(
    ctx: Forward,
    *,
    free_bits: Annotated[
        float, Field("mean KL of a unit, in nats, below which it is not reduced further; 0 = off", at_least(0))
    ] = 0.0,
) -> jax.Array:
    """KL(q(z|x) ‖ p(z)), nats, [B]; p is N(0, I), or the prior network's p(z|condition).

    See `gaussian_kl`. With `free_bits` above 0 the function of that name is minimised; this one is only logged.
    """
    return jnp.sum(kl_per_unit(ctx.code), axis=-1)


def free_bits(ctx: Forward, *, free_bits: float) -> jax.Array:
    """Σ_j max(λ, mean_b KL_bj), a scalar: a unit whose mean KL is below λ = `free_bits` nats is not penalised.

    Kingma et al. (2016), appendix C.8, with one group per unit; the mean runs over the batch.
    """
    return jnp.sum(jnp.maximum(free_bits, weights(ctx) @ kl_per_unit(ctx.code)))


def gaussian_kl(
    mean: jax.Array, logvar: jax.Array, prior_mean: jax.Array | float = 0.0, prior_logvar: jax.Array | float = 0.0
) -> jax.Array:
    """KL(N(m, v) ‖ N(p, w)) = ½ (log w − log v + (v + (m − p)²) / w − 1) of each unit, nats, in the shape of `mean`.

    With p = 0, w = 1 Kingma & Welling (2014), appendix B.
    """
    # exp(logvar − prior_logvar) − 1 by expm1: near the prior the plain difference would be rounding error.
    ratio = logvar - prior_logvar
    return 0.5 * ((mean - prior_mean) ** 2 * jnp.exp(-prior_logvar) + jnp.expm1(ratio) - ratio)


def kl_per_unit(code: Code) -> jax.Array:
    """KL of each unit of a gaussian code, nats, [B, units]."""
    stats = code.stats
    return gaussian_kl(stats["mean"], stats["logvar"], stats.get("prior_mean", 0.0), stats.get("prior_logvar", 0.0))


def l1(ctx: Forward, *, layers: Layers = "code") -> jax.Array:
    """Σ_j |h_j| over the units of the layers, [B]."""
    return sum((jnp.sum(jnp.abs(h), -1) for h in _activations(ctx, layers)), jnp.zeros(()))


def kl_sparse(
    ctx: Forward,
    *,
    rho: Annotated[float, Field("target of each unit's mean activation", within(0, 1, brackets="()"))] = 0.05,
    layers: Layers = "code",
) -> jax.Array:
    """Σ_j KL(ρ ‖ ρ̂_j) = Σ_j [ρ log(ρ / ρ̂_j) + (1 − ρ) log((1 − ρ) / (1 − ρ̂_j))], nats, a scalar.

    ρ̂_j is the mean over the global batch of |h_j|, clipped to [1e-6, 1 − 1e-6]. Units must be
    bounded by 1 (sigmoid, tanh). Ng (2011), CS294A lecture notes, section 3.
    """
    total = jnp.zeros(())
    for h in _activations(ctx, layers):
        mean = jnp.clip(weights(ctx) @ jnp.abs(h), *RHO_RANGE)  # [units]
        total += jnp.sum(rho * jnp.log(rho / mean) + (1 - rho) * jnp.log((1 - rho) / (1 - mean)))
    return total


def weight_l2(ctx: Forward) -> jax.Array:
    """½ Σ_l ‖W_l‖²_F over every kernel (biases are left out; a tied kernel counts once), a scalar."""
    leaves = jax.tree_util.tree_leaves_with_path(ctx.params)
    return 0.5 * sum((jnp.sum(w**2) for path, w in leaves if path[-1].key == "kernel"), jnp.zeros(()))


def code_l2(ctx: Forward) -> jax.Array:
    """‖z‖² = Σ_j z_j², [B]: pulls the codes towards 0, so that samples can be drawn there."""
    return jnp.sum(flat(ctx.code.z) ** 2, -1)


def auxk(
    ctx: Forward,
    *,
    k: Annotated[int, Field("largest number of unused units that decode the residual", at_least(1))] = 256,
) -> jax.Array:
    """‖e − ê‖², [B]: unused units learn to decode the residual e = t − r of the others (constant).

    ê = f(z̃) − f(0) with the decoder f; z̃ holds the `k` largest of the units that no example of the global batch
    uses. Gao et al. (2024), appendix A.2; there a unit is unused if its last ten million examples do not use it.
    """
    assert ctx.decode is not None
    assert ctx.error is not None
    h = flat(ctx.code.h)
    unused = (weights(ctx) @ (flat(ctx.code.z) != 0))[None] == 0  # [1, units]
    z = jnp.where(unused & largest(jnp.where(unused, h, -jnp.inf), jnp.asarray(k)), h, 0)
    found = ctx.decode(z) - ctx.decode(jnp.zeros_like(z))
    return jnp.sum(flat(jax.lax.stop_gradient(ctx.error) - found) ** 2, axis=-1)


# --- checks against the rest of the config ------------------------------------------------------------


def check_kl_sparse(config: Any) -> Iterator[FieldError]:
    model = config.model
    used = {"model.code_activation": model.code_activation}
    if config.objective.kl_sparse.layers == "encoder" and model.encoder.widths:
        used["model.encoder.activation"] = model.encoder.activation
    for field, name in used.items():
        if name not in ("sigmoid", "tanh"):
            yield FieldError(field, name, "must be sigmoid or tanh, bounded by 1, for objective.kl_sparse")


def check_auxk(config: Any) -> Iterator[FieldError]:
    if config.model.bottleneck.name != "topk" or config.objective.likelihood not in ("squared_error", "gaussian"):
        allowed = "needs model.bottleneck.name = 'topk' and the likelihood squared_error or gaussian"
        yield FieldError("objective.auxk.weight", config.objective.auxk.weight, allowed)


# --- shared -------------------------------------------------------------------------------------------


def weights(ctx: Forward) -> jax.Array:
    """Weights [B] of a mean over the batch, 0 for padding."""
    h = ctx.code.h
    weights = jnp.ones(h.shape[:1], h.dtype) if ctx.mask is None else ctx.mask
    return weights / jnp.sum(weights)


def _activations(ctx: Forward, layers: str) -> list[jax.Array]:
    chosen = [ctx.code.h] if layers == "code" else [*ctx.code.hidden, ctx.code.h]
    return [single(flat(h)) for h in chosen]


def flat(x: jax.Array) -> jax.Array:
    return x.reshape(x.shape[0], -1)
