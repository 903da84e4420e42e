"""Forecasting: the last steps of a series or a video are not seen, and predicted."""

import dataclasses
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp

from aejax.data.spec import Spec
from aejax.errors import FieldError
from aejax.fields import Field, at_least
from aejax.pairs.example import Batch, Example, Pair, example


@dataclasses.dataclass(frozen=True)
class Forecast(Pair):
    """(the first T − steps steps, all T steps) of x [B, T, ...]: the model reconstructs and predicts.

    The composite model of Srivastava et al. (2015) has a decoder for each of the two: model.recurrent.future = steps.
    """

    degrades: ClassVar[bool] = True
    rows: ClassVar[tuple[str, str, str]] = ("seen", "output", "target")

    steps: Annotated[int, Field("steps at the end that are predicted", at_least(1))] = 5

    def make(self, key: jax.Array | None, batch: Batch) -> Example:
        x = batch["x"]
        hidden = (jnp.arange(x.shape[1]) >= x.shape[1] - self.steps).astype(x.dtype)
        return example(x[:, : -self.steps], x, hidden=hidden.reshape(1, -1, *[1] * (x.ndim - 2)))

    def check_data(self, config: Any, spec: Spec) -> Iterator[FieldError]:
        if spec.x.kind not in ("series", "video"):
            yield FieldError("pair.name", "forecast", f"needs series or videos; the data are a {spec.x.kind}")
        elif self.steps >= spec.x.shape[0]:
            yield FieldError("pair.forecast.steps", self.steps, f"must be less than the {spec.x.shape[0]} steps of x")
