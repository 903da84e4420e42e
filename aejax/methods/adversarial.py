"""Adversarial autoencoder: a discriminator makes the codes follow N(0, I)."""

import dataclasses
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from aejax.errors import FieldError
from aejax.fields import WIDTHS, Field, above
from aejax.methods.objective import Objective
from aejax.methods.phase import Method, Phase
from aejax.models import mlp
from aejax.pairs.example import Batch

DISCRIMINATOR, PRIOR = "discriminator", 0x9A1  # its component; folded into the step's key to draw from the prior


@dataclasses.dataclass(frozen=True)
class Adversarial(Method):
    """Makhzani et al. (2016). A step has three phases, each starting from the parameters after the one before it:

    - reconstruct: the objective, over the autoencoder;
    - discriminate: E_{z ~ N(0, I)}[−log s(d(z))] + E_{z ~ q}[−log(1 − s(d(z)))], over the discriminator d;
    - deceive: w E_{z ~ q}[−log s(d(z))], over the encoder.

    s is the logistic function; the losses are in nats, means over the batch. The encoder is deterministic: z = h.
    Deceiving by −log s(d) in place of log(1 − s(d)) is Goodfellow et al. (2014), section 3.
    """

    widths: Annotated[tuple, Field("units of each hidden layer of the discriminator, with relu", WIDTHS)] = (256, 256)
    weight: Annotated[float, Field("factor of the loss of the phase deceive", above(0))] = 1.0

    prior: ClassVar[bool] = True

    def init(self, key: jax.Array, objective: Objective) -> dict[str, Any]:
        codes = jnp.zeros((1, objective.model.bottleneck.size))
        return {DISCRIMINATOR: self._discriminator().init(jax.random.fold_in(key, PRIOR), codes)["params"]}

    def phases(self, objective: Objective, optimizer: optax.GradientTransformation) -> tuple[Phase, ...]:
        def codes(params: Any, variables: Any, batch: Batch, key: jax.Array, step: jax.Array) -> tuple[jax.Array, Any]:
            _, made = objective.terms(params, variables, batch, key=key, step=step, train=True)
            z = made["code"].z
            return z.reshape(len(z), -1), made["variables"]

        def logits(params: Any, z: jax.Array) -> jax.Array:
            made: jax.Array = self._discriminator().apply({"params": params[DISCRIMINATOR]}, z)[0]
            return made  # [B, 1]

        def discriminate(
            params: Any, variables: Any, batch: Batch, *, key: jax.Array, step: jax.Array
        ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
            z, _ = codes(params, variables, batch, key, step)
            drawn = jax.random.normal(jax.random.fold_in(key, PRIOR), z.shape)
            loss = jnp.mean(jax.nn.softplus(-logits(params, drawn))) + jnp.mean(jax.nn.softplus(logits(params, z)))
            return loss, (variables, {"loss": loss})

        def deceive(
            params: Any, variables: Any, batch: Batch, *, key: jax.Array, step: jax.Array
        ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
            z, _ = codes(params, variables, batch, key, step)
            loss = jnp.mean(jax.nn.softplus(-logits(params, z)))
            return self.weight * loss, (variables, {"loss": loss})

        autoencoder = ("encoder", "decoder", *(("head",) if objective.model.head is not None else ()))
        return (
            Phase("reconstruct", objective.average, optimizer, autoencoder),
            Phase("discriminate", discriminate, optimizer, (DISCRIMINATOR,)),
            Phase("deceive", deceive, optimizer, ("encoder",)),
        )

    def check(self, config: Any) -> Iterator[FieldError]:
        if config.model.bottleneck.name != "identity" or config.model.bottleneck.size == 0:
            allowed = "needs model.bottleneck.name = 'identity' and model.bottleneck.size of at least 1"
            yield FieldError("method.name", "adversarial", allowed)
        if config.finetune.name == "classifier" or config.pretrain.widths or config.pair.name == "label":
            allowed = "trains an autoencoder: it takes no classifier and no stages"
            yield FieldError("method.name", "adversarial", allowed)

    def _discriminator(self) -> mlp.Encoder:
        return mlp.Encoder(code=1, widths=tuple(self.widths))
