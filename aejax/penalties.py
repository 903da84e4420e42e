"""Terms that the objective adds to the reconstruction: each `f(ctx, **fields)` returns [B], or a scalar."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from aejax.models import ACTIVATIONS, Code
from aejax.models.bottlenecks import largest
from aejax.models.layers import single
from aejax.pairs import Example

JACOBIANS = ("auto", "jacfwd", "jacrev", "closed_form")
LAYERS = ("code", "encoder")  # the code layer, or every hidden layer of the encoder and the code layer
RHO_RANGE = (1e-6, 1 - 1e-6)  # mean activations are clipped to it, so that the KL stays finite
MEMORY = 2**28  # bytes of Jacobians held at a time, unless `chunk` says how many examples


class Context(NamedTuple):
    """What a penalty may look at."""

    encode: Callable[[jax.Array], Code]  # at the current parameters, dropout off, in float32
    example: Example
    code: Code
    params: Any
    key: jax.Array
    step: jax.Array
    mask: jax.Array | None = None  # [B], 0 for examples that only fill the batch; None = all count
    activation: Callable[[jax.Array], jax.Array] | None = None  # of an encoder that is one dense layer
    error: jax.Array | None = None  # [B, ...] target − output
    decode: Callable[[jax.Array], jax.Array] | None = None  # codes -> outputs, at the current parameters


def kl(ctx: Context) -> jax.Array:
    """KL(q(z|x) ‖ p(z)), nats, [B]; p is N(0, I), or the prior network's p(z|condition). See `gaussian_kl`."""
    return jnp.sum(_kl_per_unit(ctx.code), axis=-1)


def free_bits(ctx: Context, *, nats: float) -> jax.Array:
    """Σ_j max(nats, mean_b KL_bj), a scalar: a unit whose mean KL is below `nats` is not pushed further down.

    Kingma et al. (2016), appendix C.8, with one group per unit; the mean runs over the batch.
    """
    weights = _weights(ctx)
    return jnp.sum(jnp.maximum(nats, weights @ _kl_per_unit(ctx.code)))


def gaussian_kl(
    mean: jax.Array, logvar: jax.Array, prior_mean: jax.Array | float = 0.0, prior_logvar: jax.Array | float = 0.0
) -> jax.Array:
    """KL(N(m, v) ‖ N(p, w)) = ½ (log w − log v + (v + (m − p)²) / w − 1) of each unit, nats, in the shape of `mean`.

    With p = 0, w = 1 Kingma & Welling (2014), appendix B.
    """
    # exp(logvar − prior_logvar) − 1 by expm1: near the prior the difference of the two would be rounding.
    ratio = logvar - prior_logvar
    return 0.5 * ((mean - prior_mean) ** 2 * jnp.exp(-prior_logvar) + jnp.expm1(ratio) - ratio)


def _kl_per_unit(code: Code) -> jax.Array:
    stats = code.stats
    return gaussian_kl(stats["mean"], stats["logvar"], stats.get("prior_mean", 0.0), stats.get("prior_logvar", 0.0))


def l1(ctx: Context, *, layers: str) -> jax.Array:
    """Σ_j |h_j| over the units of the layers, [B]."""
    return sum((jnp.sum(jnp.abs(h), -1) for h in _activations(ctx, layers)), jnp.zeros(()))


def kl_sparse(ctx: Context, *, rho: float, layers: str) -> jax.Array:
    """Σ_j KL(ρ ‖ ρ̂_j) = Σ_j [ρ log(ρ / ρ̂_j) + (1 − ρ) log((1 − ρ) / (1 − ρ̂_j))], nats, a scalar.

    ρ̂_j is the mean over the global batch of |h_j|, clipped to [1e-6, 1 − 1e-6]; units bounded by 1
    (sigmoid, tanh). Ng (2011), CS294A lecture notes, section 3.
    """
    total = jnp.zeros(())
    for h in _activations(ctx, layers):
        mean = jnp.clip(_weights(ctx) @ jnp.abs(h), *RHO_RANGE)  # [units]
        total += jnp.sum(rho * jnp.log(rho / mean) + (1 - rho) * jnp.log((1 - rho) / (1 - mean)))
    return total


def weight_l2(ctx: Context) -> jax.Array:
    """½ Σ_l ‖W_l‖²_F over every kernel (biases are left out; a tied kernel counts once), a scalar."""
    leaves = jax.tree_util.tree_leaves_with_path(ctx.params)
    return 0.5 * sum((jnp.sum(w**2) for path, w in leaves if path[-1].key == "kernel"), jnp.zeros(()))


def code_l2(ctx: Context) -> jax.Array:
    """‖z‖² = Σ_j z_j², [B]: pulls the codes towards 0, where a decoder can then be sampled."""
    return jnp.sum(_flat(ctx.code.z) ** 2, -1)


def auxk(ctx: Context, *, k: int) -> jax.Array:
    """‖e − ê‖², [B]: units that are left out learn to decode what the others leave, e = t − r (constant).

    ê = f(z̃) − f(0) with the decoder f; z̃ holds the `k` largest of those units that no example of the global
    batch keeps. Gao et al. (2024), appendix A.2, where a unit is left out by its last ten million examples.
    """
    assert ctx.decode is not None
    assert ctx.error is not None
    h = _flat(ctx.code.h)
    unused = (_weights(ctx) @ (_flat(ctx.code.z) != 0))[None] == 0  # [1, units]
    z = jnp.where(unused & largest(jnp.where(unused, h, -jnp.inf), jnp.asarray(k)), h, 0)
    found = ctx.decode(z) - ctx.decode(jnp.zeros_like(z))
    return jnp.sum(_flat(jax.lax.stop_gradient(ctx.error) - found) ** 2, axis=-1)


def contractive(ctx: Context, *, method: str, chunk: int) -> jax.Array:
    """‖∂h/∂x‖²_F at the encoder's input, exact, [B]. Rifai et al. (2011), equation 3.

    h is the code layer after its activation and before the bottleneck (the mean of a gaussian one);
    the input is as the encoder gets it, corrupted where the pair corrupts. `method`:

    - jacfwd: one forward derivative for each of the D inputs; jacrev: one backward derivative for each
      of the H units; closed_form, for an encoder of one layer with an elementwise activation s:
      Σ_j s'(a_j)² Σ_i W_ij², O(D H) for the whole batch; auto: the cheapest that applies.
    - `chunk` examples at a time; 0 = as many as keep the Jacobians under 256 MiB.
    """
    return jacobian_norm2(ctx, ctx.example.input, None, method=method, chunk=chunk)


def contractive_hessian(ctx: Context, *, sigma: float, samples: int, method: str, chunk: int) -> jax.Array:
    """E_ε ‖J(x) − J(x + ε)‖²_F, ε ~ N(0, σ² I), mean of `samples` draws, [B].

    A stochastic estimate of the Hessian's norm: CAE+H of Rifai et al. (2011b), equation 4.
    """
    x = ctx.example.input

    def draw(key: jax.Array) -> jax.Array:
        moved = x + sigma * jax.random.normal(key, x.shape)
        return jacobian_norm2(ctx, x, moved, method=method, chunk=chunk)

    return jnp.mean(jax.lax.map(draw, jax.random.split(ctx.key, samples)), axis=0)


def contrastive_divergence(ctx: Context, *, gibbs: int) -> jax.Array:
    """F(v) − F(v_k), [B], v_k constant: its gradient is contrastive divergence after k = `gibbs` steps.

    A restricted Boltzmann machine whose weights W, c are those of an encoder of one layer and b the bias of
    its tied decoder; v in [0, 1]. Sigmoid units are binary, F(v) = −b·v − Σ_j log(1 + exp(a_j)), a = v W + c;
    linear ones gaussian of variance 1, F(v) = −b·v − ½ Σ_j a_j². A step samples h given v, and takes for v its
    mean given h. Hinton (2002); Hinton & Salakhutdinov (2006), supporting material.
    """
    layer, visible = ctx.params["encoder"]["layers_0"], ctx.params["decoder"]["layers_0"]["bias"]
    kernel, v = layer["kernel"], _flat(ctx.example.input)
    binary = ctx.activation is ACTIVATIONS["sigmoid"]

    def inputs(v: jax.Array) -> jax.Array:
        return v @ kernel + layer["bias"][None]

    def energy(v: jax.Array) -> jax.Array:
        a = inputs(v)
        return -v @ visible - jnp.sum(jax.nn.softplus(a) if binary else a**2 / 2, axis=-1)

    def sample(v: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
        a = inputs(v)
        h = jax.random.bernoulli(key, jax.nn.sigmoid(a)) if binary else a + jax.random.normal(key, a.shape)
        return jax.nn.sigmoid(h.astype(v.dtype) @ kernel.T + visible[None]), None

    last, _ = jax.lax.scan(sample, v, jax.random.split(ctx.key, gibbs))
    return energy(v) - energy(jax.lax.stop_gradient(last))


def jacobian_norm2(
    ctx: Context, x: jax.Array, other: jax.Array | None = None, *, method: str = "auto", chunk: int = 0
) -> jax.Array:
    """‖J(x)‖²_F, or ‖J(x) − J(other)‖²_F, per example, [B]."""
    inputs, units = math.prod(x.shape[1:]), math.prod(ctx.code.h.shape[1:])
    if method == "auto":
        method = "closed_form" if ctx.activation else "jacrev" if units <= inputs else "jacfwd"
    if method == "closed_form":
        slope = _slope(ctx, x) if other is None else _slope(ctx, x) - _slope(ctx, other)  # [B, H]
        kernel = ctx.params["encoder"]["layers_0"]["kernel"][:, :units]  # a gaussian's mean comes first
        return slope**2 @ jnp.sum(kernel**2, axis=0)

    def norm2(pair: tuple[jax.Array, ...]) -> jax.Array:
        jacobians = [jacobian(ctx.encode, point, method=method) for point in pair]
        return jnp.sum((jacobians[0] - jacobians[1] if other is not None else jacobians[0]) ** 2)

    points = (x,) if other is None else (x, other)
    width = sum(math.prod(a.shape[1:]) for a in ctx.code.hidden) + units + inputs
    chunk = chunk or max(1, MEMORY // (4 * width * min(inputs, units)))
    if chunk >= x.shape[0]:
        return jax.vmap(norm2)(points)
    # Recomputed in the backward pass: else the Jacobians of every chunk would be kept.
    return jax.lax.map(jax.checkpoint(norm2), points, batch_size=chunk)


def jacobian(encode: Callable[[jax.Array], Code], x: jax.Array, *, method: str = "auto") -> jax.Array:
    """∂h/∂x at one example x [...] as a matrix [H, D]."""

    def h(flat: jax.Array) -> jax.Array:
        return encode(flat.reshape(1, *x.shape)).h.reshape(-1)

    flat = x.reshape(-1)
    if method == "auto":
        method = "jacrev" if jax.eval_shape(h, flat).size <= flat.size else "jacfwd"
    return {"jacfwd": jax.jacfwd, "jacrev": jax.jacrev}[method](h)(flat)


def _slope(ctx: Context, x: jax.Array) -> jax.Array:
    """s'(a), [B, H], of the one layer of the encoder."""
    layer, units = ctx.params["encoder"]["layers_0"], math.prod(ctx.code.h.shape[1:])
    assert ctx.activation is not None
    a = _flat(x) @ layer["kernel"][:, :units] + layer["bias"][None, :units]
    return jax.jvp(ctx.activation, (a,), (jnp.ones_like(a),))[1]


def _weights(ctx: Context) -> jax.Array:
    """Weights [B] of a mean over the examples of the batch that count."""
    h = ctx.code.h
    weights = jnp.ones(h.shape[:1], h.dtype) if ctx.mask is None else ctx.mask
    return weights / jnp.sum(weights)


def _activations(ctx: Context, layers: str) -> list[jax.Array]:
    chosen = [ctx.code.h] if layers == "code" else [*ctx.code.hidden, ctx.code.h]
    return [single(_flat(h)) for h in chosen]


def _flat(x: jax.Array) -> jax.Array:
    return x.reshape(x.shape[0], -1)
