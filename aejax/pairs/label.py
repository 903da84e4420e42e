"""Classification: the target is the class of the example."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from aejax.data.spec import Spec
from aejax.errors import FieldError
from aejax.pairs.example import Batch, Example, Pair, example


@dataclasses.dataclass(frozen=True)
class Label(Pair):
    """(x, class of x): the target is one-hot, [B, classes]; an example without a label (-1) has weight 0."""

    classes: int = 0

    def make(self, key: jax.Array | None, batch: Batch) -> Example:
        labels = batch["y"]
        target = jax.nn.one_hot(labels, self.classes)
        return example(batch["x"], target, (labels >= 0).astype(jnp.float32)[:, None], head="y")

    def bind(self, spec: Spec) -> "Label":
        return Label(len(spec.classes))

    @property
    def supervised(self) -> bool:
        return True

    def check(self, config: Any) -> Iterator[FieldError]:
        if config.objective.likelihood != "categorical" and config.finetune.name != "classifier":
            allowed = "must be categorical for config.pair.name = 'label'"
            yield FieldError("objective.likelihood", config.objective.likelihood, allowed)

    def check_data(self, config: Any, spec: Spec) -> Iterator[FieldError]:
        if len(spec.classes) < 2:
            field, value = (
                ("finetune.name", "classifier") if config.finetune.name == "classifier" else ("pair.name", "label")
            )
            yield FieldError(field, value, "needs labels of at least 2 classes (a table: data.label_column)")
