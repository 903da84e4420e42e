"""Writing a sequence of tokens: the caption of the example, or the example itself."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from aejax.data import tokens
from aejax.data.spec import Spec
from aejax.errors import FieldError
from aejax.pairs.example import Batch, Example, Pair, example


@dataclasses.dataclass(frozen=True)
class Caption(Pair):
    """(x, caption of x): the target is one-hot, [B, L, V], with weight 0 after the end.

    The condition [B, L] is the caption one step later, after BEGIN: the decoder reads it in training (teacher forcing;
    Williams & Zipser 1989). A batch without captions has no condition: the decoder reads what it writes.
    """

    field: str = "caption"
    length: int = 0
    tokens: int = 0

    def make(self, key: jax.Array | None, batch: Batch) -> Example:
        x = batch["x"]
        if self.field not in batch:
            empty = jnp.zeros((x.shape[0], self.length, 1))
            return example(x, jnp.broadcast_to(empty, (*empty.shape[:2], self.tokens)), empty, head=self.field)
        numbers = batch[self.field].astype(jnp.int32)
        before = jnp.concatenate([jnp.full_like(numbers[:, :1], tokens.BEGIN), numbers[:, :-1]], 1)
        target = jax.nn.one_hot(numbers, self.tokens)
        weight = (numbers != tokens.PAD).astype(jnp.float32)[..., None]
        return example(x, target, weight, before, head=self.field)

    def bind(self, spec: Spec) -> "Caption":
        field = spec.fields[self.field]
        return dataclasses.replace(self, length=field.shape[0], tokens=len(field.classes))

    @property
    def supervised(self) -> bool:
        return self.field != "x"

    @property
    def writes(self) -> bool:
        return True

    def check(self, config: Any) -> Iterator[FieldError]:
        if config.objective.likelihood != "categorical":
            allowed = "must be categorical for config.pair.name = 'caption'"
            yield FieldError("objective.likelihood", config.objective.likelihood, allowed)

    def check_data(self, config: Any, spec: Spec) -> Iterator[FieldError]:
        if self.field not in spec.fields:
            allowed = "needs captions, such as those of moving_digits, text_pairs:FILE or an npz file with `caption`"
            yield FieldError("pair.name", "caption", allowed)
