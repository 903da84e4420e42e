"""A pair: the input is moved, the target is where it was."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp

from aejax.data.spec import Spec
from aejax.errors import FieldError
from aejax.fields import Field, at_least
from aejax.pairs import Batch, Example, Pair, example


@dataclasses.dataclass(frozen=True)
class Jitter(Pair):
    """(x moved by up to `most` pixels along each axis, x) for images; what leaves at one side enters at the other."""

    most: Annotated[int, Field("pixels that an image is moved along an axis, at most", at_least(1))] = 1

    degrades: ClassVar[bool] = True
    rows: ClassVar[tuple[str, str, str]] = ("moved", "put back", "in place")

    def make(self, key: jax.Array | None, batch: Batch) -> Example:
        x = batch["x"]
        if key is None:
            return example(x, x)
        shifts = jax.random.randint(key, (x.shape[0], 2), -self.most, self.most + 1)
        return example(jax.vmap(lambda image, shift: jnp.roll(image, shift, axis=(0, 1)))(x, shifts), x)

    @property
    def corrupts(self) -> bool:
        return True

    def check_data(self, config: Any, spec: Spec) -> Iterator[FieldError]:
        if spec.x.kind != "image":
            yield FieldError("pair.name", "jitter", f"needs images, and the data are a {spec.x.kind}")
