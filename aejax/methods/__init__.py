"""Methods of training by name."""

import dataclasses
from collections.abc import Iterator
from typing import Annotated, Any

from aejax import fields
from aejax.errors import FieldError
from aejax.fields import Field, one_of
from aejax.methods.adversarial import Adversarial
from aejax.methods.clustering import Clustering
from aejax.methods.contrastive import Contrastive
from aejax.methods.phase import Method, Phase

METHODS: dict[str, type[Method]] = {
    "autoencoder": Method,
    "contrastive": Contrastive,
    "adversarial": Adversarial,
    "clustering": Clustering,
}


@dataclasses.dataclass(frozen=True)
class Fields:
    name: Annotated[
        str,
        Field(
            "training method: autoencoder (one loss) | contrastive (a restricted Boltzmann machine) | adversarial | "
            "clustering (DEC, IDEC)",
            one_of(METHODS),
        ),
    ] = "autoencoder"


def build(config: Any) -> Method:
    """The method of the config's section `method`."""
    part = METHODS[config.name]
    return part(**fields.chosen(part, config[config.name]))


def check(config: Any) -> Iterator[FieldError]:
    """Errors of the section `method` with the rest of the config."""
    yield from build(config.method).check(config)


__all__ = ["METHODS", "Method", "Phase", "build", "check"]
