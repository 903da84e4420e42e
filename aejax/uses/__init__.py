"""Uses of a trained model by name."""

import dataclasses
from typing import Annotated

from aejax.fields import Field, some_of
from aejax.uses import prior, reconstruction

# Each under a name that is not its folder's, which is an attribute of this package.
from aejax.uses.anomaly import measure as anomaly_use
from aejax.uses.base import Metric, Result, Skip, Use
from aejax.uses.clustering import measure as clustering_use
from aejax.uses.compression import measure as compression_use
from aejax.uses.forecast import measure as forecast_use
from aejax.uses.generation import measure as generation_use
from aejax.uses.jacobian import measure as jacobian_use
from aejax.uses.manifold import measure as manifold_use
from aejax.uses.probe import measure as probe_use
from aejax.uses.restoration import measure as restoration_use
from aejax.uses.retrieval import measure as retrieval_use
from aejax.uses.sequence import measure as sequence_use

USES: dict[str, Use] = {
    "reconstruction": Use(reconstruction.measure, reconstruction.METRICS),
    "probe": Use(probe_use.measure, probe_use.METRICS),
    "retrieval": Use(retrieval_use.measure, retrieval_use.METRICS),
    "anomaly": Use(anomaly_use.measure, anomaly_use.METRICS, anomaly_use.check, ensemble=True),
    "clustering": Use(clustering_use.measure, clustering_use.METRICS, clustering_use.check),
    "restoration": Use(restoration_use.measure, restoration_use.METRICS, restoration_use.check),
    "compression": Use(compression_use.measure, compression_use.METRICS, compression_use.check),
    "generation": Use(generation_use.measure, generation_use.METRICS, generation_use.check),
    "sequence": Use(sequence_use.measure, sequence_use.METRICS, sequence_use.check),
    "forecast": Use(forecast_use.measure, forecast_use.METRICS, forecast_use.check),
    "jacobian": Use(jacobian_use.measure, jacobian_use.METRICS),
    "manifold": Use(manifold_use.measure, manifold_use.METRICS),
    "prior": Use(prior.measure, prior.METRICS),
}


@dataclasses.dataclass(frozen=True)
class Fields:
    run: Annotated[tuple, Field("uses that run at the end of training", some_of(USES))] = ("reconstruction",)


__all__ = ["USES", "Metric", "Result", "Skip", "Use"]
