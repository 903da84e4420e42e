"""A method with two phases: decoder and encoder take turns."""

import dataclasses
from collections.abc import Iterator
from typing import Annotated, Any

import optax

from aejax.errors import FieldError
from aejax.fields import Field, above
from aejax.methods import Method, Phase
from aejax.methods.objective import Objective


@dataclasses.dataclass(frozen=True)
class Alternate(Method):
    """Each step moves the decoder, then the encoder at the decoder's new parameters; both minimise the objective."""

    rate: Annotated[float, Field("learning rate of the encoder, as a fraction of the decoder's", above(0))] = 1.0

    def phases(self, objective: Objective, optimizer: optax.GradientTransformation) -> tuple[Phase, ...]:
        slower = optax.chain(optimizer, optax.scale(self.rate))
        head = ("head",) if objective.model.head is not None else ()
        return (
            Phase("decode", objective.average, optimizer, ("decoder", *head)),
            Phase("encode", objective.average, slower, ("encoder",)),
        )

    def check(self, config: Any) -> Iterator[FieldError]:
        if config.model.bottleneck.name not in (
            "identity",
            "topk",
        ):  # others may have parameters, which no phase trains
            yield FieldError("model.bottleneck.name", config.model.bottleneck.name, "must be identity or topk")
