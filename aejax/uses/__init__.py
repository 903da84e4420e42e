"""Uses of a trained model by name."""

import dataclasses
from typing import Annotated

from aejax.fields import Field, some_of
from aejax.uses import (
    anomaly,
    clustering,
    compression,
    generation,
    jacobian,
    manifold,
    prior,
    probe,
    reconstruction,
    restoration,
    retrieval,
)
from aejax.uses.base import Metric, Result, Skip, Use

USES: dict[str, Use] = {
    "reconstruction": Use(reconstruction.measure, reconstruction.METRICS),
    "probe": Use(probe.measure, probe.METRICS),
    "retrieval": Use(retrieval.measure, retrieval.METRICS),
    "anomaly": Use(anomaly.measure, anomaly.METRICS, anomaly.check, ensemble=True),
    "clustering": Use(clustering.measure, clustering.METRICS, clustering.check),
    "restoration": Use(restoration.measure, restoration.METRICS, restoration.check),
    "compression": Use(compression.measure, compression.METRICS, compression.check),
    "generation": Use(generation.measure, generation.METRICS, generation.check),
    "jacobian": Use(jacobian.measure, jacobian.METRICS),
    "manifold": Use(manifold.measure, manifold.METRICS),
    "prior": Use(prior.measure, prior.METRICS),
}


@dataclasses.dataclass(frozen=True)
class Fields:
    run: Annotated[tuple, Field("uses that run at the end of training", some_of(USES))] = ("reconstruction",)


__all__ = ["USES", "Metric", "Result", "Skip", "Use"]
