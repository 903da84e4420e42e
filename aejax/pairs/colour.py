"""Colourisation: grey in, colour out."""

import dataclasses
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

import jax

from aejax.data.spec import Spec
from aejax.errors import FieldError
from aejax.fields import Field, one_of
from aejax.pairs.example import Batch, Example, Pair, example

GREYS = {"luma": (0.299, 0.587, 0.114), "mean": (1 / 3, 1 / 3, 1 / 3)}


@dataclasses.dataclass(frozen=True)
class Colorize(Pair):
    """(grey image, image), without randomness. Grey is the luma of ITU-R BT.601, or the mean of the channels."""

    grey: Annotated[str, Field("grey value of the input: luma | mean", one_of(GREYS))] = "luma"

    degrades: ClassVar[bool] = True
    rows: ClassVar[tuple[str, str, str]] = ("grey", "output", "original")

    def make(self, key: jax.Array | None, batch: Batch) -> Example:
        x = batch["x"]
        red, green, blue = (share * x[..., i : i + 1] for i, share in enumerate(GREYS[self.grey]))
        return example(red + green + blue, x)

    def check_data(self, config: Any, spec: Spec) -> Iterator[FieldError]:
        if spec.x.kind != "image":
            yield FieldError("pair.name", "colorize", f"needs images; the data are a {spec.x.kind}")
        elif spec.x.shape[-1] != 3:
            yield FieldError("pair.name", "colorize", f"needs images of 3 channels; these have {spec.x.shape[-1]}")
