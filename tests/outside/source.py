"""A data source: images of bars (Földiák, 1990)."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import numpy as np
from ml_collections import ConfigDict

from aejax.errors import FieldError
from aejax.fields import Field, within

IMAGES = 120


@dataclasses.dataclass(frozen=True)
class Fields:
    bar_probability: Annotated[float, Field("bars: probability of each bar", within(0, 1, brackets="()"))] = 0.2


def read(argument: str, config: ConfigDict) -> dict[str, Any]:
    """120 images of SIZE x SIZE pixels; each row and each column is a bar, white with `data.bar_probability`."""
    if not (argument.isdecimal() and int(argument) > 1):
        raise FieldError("data.source", config.data.source, "needs a size of at least 2 pixels")
    size, random = int(argument), np.random.RandomState(0)
    bars = random.uniform(size=(IMAGES, 2, size)) < config.data.bar_probability
    x = bars[:, 0, :, None] | bars[:, 1, None, :]
    return {"x": x.astype(np.uint8) * 255}
