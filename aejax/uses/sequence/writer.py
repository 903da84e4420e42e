"""Sequences that a model writes for examples, by beam search."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aejax.data import tokens
from aejax.data.spec import Field
from aejax.errors import InputError
from aejax.models import beam as beam_lib
from aejax.trained import Trained


@dataclasses.dataclass(frozen=True)
class Writer:
    """Writes the sequence of each example, the best of `beam` by log p / n^alpha; see `models.beam`.

    Raises InputError unless the model writes sequences.
    """

    model: Trained
    beam: int = 1
    alpha: float = 1.0

    def __post_init__(self) -> None:
        if not self.model.objective.pair.writes:
            allowed = "this model writes no sequences; train one with config.model.name = 'seq2seq'"
            raise InputError(f"sequences: {allowed}")

    @property
    def field(self) -> Field:
        """The field of the tokens that are written."""
        return self.model.spec.fields[self.model.objective.model.output]

    def pure(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Numbers of the tokens [B, L] for examples as the model takes them, and log p [B] in nats."""
        code = self.model.code(x)
        states, cache = self.decoder("start", code.z, code.context)
        step, length = functools.partial(self.decoder, "step"), self.field.shape[0]
        return beam_lib.search(step, states, cache, batch=x.shape[0], length=length, beam=self.beam, alpha=self.alpha)

    def attention(self, x: jax.Array) -> jax.Array:
        """The weight [B, L, S] of each step of the input where each token is written."""
        code = self.model.code(x)
        states, cache = self.decoder("start", code.z, code.context)
        written, _ = self.pure(x)
        before = jnp.concatenate([jnp.full_like(written[:, :1], tokens.BEGIN), written[:, :-1]], 1)
        attended: jax.Array = self.decoder("write", before, states, cache)[2]
        return attended

    def decoder(self, name: str, *args: Any) -> Any:
        """A method of the decoder at the model's parameters."""
        return self.model.apply(*args, method=lambda model, *args: getattr(model.decoder, name)(*args))

    def write(self, x: Any) -> tuple[list[str], np.ndarray]:
        """The sequences [N] for examples as the model takes them, and their log-probabilities [N] in nats."""
        rows, log_p = self.model.map(self.pure, x, name=("write", self.beam, self.alpha))
        return tokens.decode(rows, self.field.classes, self.field.level), log_p
