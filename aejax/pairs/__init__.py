"""The input of the encoder and the targets of the decoder, by name."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from aejax import fields
from aejax.data.spec import Spec
from aejax.errors import FieldError
from aejax.fields import Field, one_of
from aejax.pairs.caption import Caption
from aejax.pairs.colour import Colorize
from aejax.pairs.corrupt import Denoise
from aejax.pairs.example import Batch, Example, Examples, Pair, Target, example, proportions
from aejax.pairs.forecast import Forecast
from aejax.pairs.hide import Inpaint
from aejax.pairs.label import Label


@dataclasses.dataclass(frozen=True)
class Reconstruct(Pair):
    """(x, x)."""

    def make(self, key: jax.Array | None, batch: Batch) -> Example:
        return example(batch["x"], batch["x"])

    def bind(self, spec: Spec) -> Pair:
        return Caption("x").bind(spec) if spec.x.kind == "tokens" else self


PAIRS: dict[str, type[Pair]] = {
    "reconstruct": Reconstruct,
    "denoise": Denoise,
    "inpaint": Inpaint,
    "colorize": Colorize,
    "label": Label,
    "caption": Caption,
    "forecast": Forecast,
}
INPUTS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "identity": lambda x: x,
    "log": jnp.log1p,
    "proportions": proportions,
}


@dataclasses.dataclass(frozen=True)
class Fields:
    name: Annotated[
        str,
        Field(
            "input and target: reconstruct | denoise | inpaint | colorize | label | caption | forecast", one_of(PAIRS)
        ),
    ] = "reconstruct"
    input: Annotated[
        str,
        Field("tables: input of the encoder: identity | log (log(1 + x)) | proportions (x / Σx)", one_of(INPUTS)),
    ] = "identity"


def pair(config: Any) -> Pair:
    """The pair of the config's section `pair`."""
    part = PAIRS[config.name]
    return part(**fields.chosen(part, config[config.name]))


def build(config: Any, spec: Spec, *, shown: bool = False) -> Examples:
    """The pair of the config's section `pair`, for data of `spec`; shown: the encoder sees which cells are empty."""
    others = {name: field.shape for name, field in spec.fields.items() if name not in ("x", "y")}
    return Examples(pair(config).bind(spec), INPUTS[config.input], spec.x.missing == "mask", shown, others)


def check(config: Any) -> Iterator[FieldError]:
    """Errors of the section `pair` with the rest of the config."""
    yield from pair(config.pair).check(config)


__all__ = ["INPUTS", "PAIRS", "Batch", "Example", "Examples", "Pair", "Target", "build", "check", "example", "pair"]
