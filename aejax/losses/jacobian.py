"""Penalties on the encoder's Jacobian ∂h/∂x, all exact."""

import math
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from aejax.errors import FieldError
from aejax.fields import Field, above, at_least, one_of
from aejax.losses.forward import Forward
from aejax.losses.penalties import flat
from aejax.models import is_one_layer
from aejax.models.autoencoder import Code

METHODS = ("auto", "jacfwd", "jacrev", "closed_form")
MEMORY = 2**28  # bytes of Jacobians held at a time, unless `chunk` says how many examples
Method = Annotated[
    str, Field("computation of the Jacobian: auto | jacfwd | jacrev | closed_form (one dense layer)", one_of(METHODS))
]
Chunk = Annotated[int, Field("examples whose Jacobians are computed at a time; 0 = chosen by memory", at_least(0))]


def contractive(ctx: Forward, *, method: Method = "auto", chunk: Chunk = 0) -> jax.Array:
    """‖∂h/∂x‖²_F at the encoder's input, exact, [B]. Rifai et al. (2011), equation 3.

    h is the code layer after its activation and before the bottleneck (the mean of a gaussian one);
    the input is the encoder's, corrupted if the pair corrupts it. `method`:

    - jacfwd: one forward derivative for each of the D inputs; jacrev: one backward derivative for each
      of the H units; closed_form, for an encoder of one layer with an elementwise activation s:
      Σ_j s'(a_j)² Σ_i W_ij², O(D H) for the whole batch; auto: the cheapest that applies.
    - `chunk` examples at a time; 0 = as many as keep the Jacobians under 256 MiB.
    """
    return jacobian_norm2(ctx, ctx.example.input, None, method=method, chunk=chunk)


def contractive_hessian(
    ctx: Forward,
    *,
    sigma: Annotated[float, Field("standard deviation of ε, in units of the input", above(0))] = 0.1,
    samples: Annotated[int, Field("draws of ε per example", at_least(1))] = 1,
    method: Method = "auto",
    chunk: Chunk = 0,
) -> jax.Array:
    """E_ε ‖J(x) − J(x + ε)‖²_F, ε ~ N(0, σ² I), mean of `samples` draws, [B].

    A stochastic estimate of the Hessian's norm: CAE+H of Rifai et al. (2011b), equation 4.
    """
    x = ctx.example.input

    def draw(key: jax.Array) -> jax.Array:
        moved = x + sigma * jax.random.normal(key, x.shape)
        return jacobian_norm2(ctx, x, moved, method=method, chunk=chunk)

    return jnp.mean(jax.lax.map(draw, jax.random.split(ctx.key, samples)), axis=0)


def jacobian_norm2(
    ctx: Forward, x: jax.Array, other: jax.Array | None = None, *, method: str = "auto", chunk: int = 0
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


def _slope(ctx: Forward, x: jax.Array) -> jax.Array:
    """s'(a), [B, H], of the one layer of the encoder."""
    layer, units = ctx.params["encoder"]["layers_0"], math.prod(ctx.code.h.shape[1:])
    assert ctx.activation is not None
    a = flat(x) @ layer["kernel"][:, :units] + layer["bias"][None, :units]
    return jax.jvp(ctx.activation, (a,), (jnp.ones_like(a),))[1]


def check(name: str) -> Callable[[Any], Iterator[FieldError]]:
    """The check of the penalty `name` against the rest of the config."""

    def closed_form(config: Any) -> Iterator[FieldError]:
        if config.objective[name].method == "closed_form" and not is_one_layer(config.model):
            field = f"objective.{name}.method"
            yield FieldError(field, "closed_form", "needs an mlp with model.encoder.widths = ()")

    return closed_form
