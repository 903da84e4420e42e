"""Contrastive divergence: an autoencoder of one tied layer is trained as a restricted Boltzmann machine."""

import dataclasses
from collections.abc import Iterator
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from aejax.data.spec import Spec
from aejax.errors import FieldError
from aejax.fields import Field, at_least
from aejax.losses import Forward
from aejax.losses.penalties import flat
from aejax.methods.objective import Objective, Term
from aejax.methods.phase import Method
from aejax.models import ACTIVATIONS, is_one_layer


@dataclasses.dataclass(frozen=True)
class Contrastive(Method):
    """loss = F(v) − F(v_k) + Σ_k λ_k Ω_k: the reconstruction is only logged."""

    gibbs: Annotated[int, Field("number k of Gibbs steps from v to v_k", at_least(1))] = 1

    def objective(self, objective: Objective) -> Objective:
        own = Term(lambda forward: divergence(forward, gibbs=self.gibbs), lambda step: jnp.ones(()))
        terms = {**objective.penalties, "contrastive_divergence": own}
        return dataclasses.replace(objective, weight=lambda step: jnp.zeros(()), penalties=terms)

    def check(self, config: Any) -> Iterator[FieldError]:
        model = config.model
        if not (is_one_layer(model) and model.decoder.tied and model.code_activation in ("sigmoid", "identity")):
            yield FieldError("method.name", "contrastive", "needs one tied layer of sigmoid or identity units")
        if config.pair.name != "reconstruct" or model.bottleneck.name != "identity":
            allowed = "must be reconstruct, with model.bottleneck.name = 'identity', for method.name = 'contrastive'"
            yield FieldError("pair.name", config.pair.name, allowed)

    def check_data(self, config: Any, spec: Spec) -> Iterator[FieldError]:
        low, high = spec.x.low, spec.x.high
        if not 0 <= low <= high <= 1:
            yield FieldError("method.name", "contrastive", f"needs examples in [0, 1], found {low:g} to {high:g}")


def divergence(ctx: Forward, *, gibbs: int) -> jax.Array:
    """F(v) − F(v_k), [B], v_k constant: its gradient is contrastive divergence after k = `gibbs` steps.

    The restricted Boltzmann machine has the weights W, c of a one-layer encoder and the bias b of its tied decoder;
    v is in [0, 1], a = v W + c. Sigmoid units are binary: F(v) = −b·v − Σ_j log(1 + exp(a_j)). Linear units are
    gaussian with variance 1: F(v) = −b·v − ½ Σ_j a_j². A Gibbs step samples h given v, then sets v to its mean
    given h. Hinton (2002); Hinton & Salakhutdinov (2006), supporting material.
    """
    layer, visible = ctx.params["encoder"]["layers_0"], ctx.params["decoder"]["layers_0"]["bias"]
    kernel, v = layer["kernel"], flat(ctx.example.input)
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
