"""Denoising: the input is corrupted, the target is clean."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp

from aejax.data.spec import Spec
from aejax.errors import FieldError
from aejax.fields import Field, at_least, one_of
from aejax.pairs.example import Batch, Example, Pair, emphasis, example


def gaussian(key: jax.Array, x: jax.Array, level: float) -> tuple[jax.Array, None]:
    """x + level ε, ε ~ N(0, I)."""
    return x + level * jax.random.normal(key, x.shape, x.dtype), None


def masking(key: jax.Array, x: jax.Array, level: float) -> tuple[jax.Array, jax.Array]:
    """Each entry is set to 0 with probability `level`."""
    chosen = jax.random.bernoulli(key, level, x.shape)
    return jnp.where(chosen, 0, x), chosen.astype(x.dtype)


def salt_and_pepper(key: jax.Array, x: jax.Array, level: float) -> tuple[jax.Array, jax.Array]:
    """Each entry is set to 0 with probability level / 2, and to 1 with probability level / 2."""
    choose, extreme = jax.random.split(key)
    chosen = jax.random.bernoulli(choose, level, x.shape)
    salt = jax.random.bernoulli(extreme, 0.5, x.shape)
    return jnp.where(chosen, salt.astype(x.dtype), x), chosen.astype(x.dtype)


CORRUPTIONS: dict[str, Callable[..., tuple[jax.Array, jax.Array | None]]] = {
    "gaussian": gaussian,
    "masking": masking,
    "salt_and_pepper": salt_and_pepper,
}


@dataclasses.dataclass(frozen=True)
class Denoise(Pair):
    """(x̃, x): corrupted input, clean target; Vincent et al. (2010), section 3.

    `level` is a standard deviation (gaussian, in units of the data) or a probability (masking to 0,
    salt_and_pepper: half of the chosen entries 0, half 1). `alpha` weighs the corrupted entries and
    `beta` the others (their section 3.3). Gaussian noise corrupts all entries, so it takes no weights.
    `clip` clips the input to [0, 1]; it is off by default, so that the noise stays additive.
    """

    corruption: Annotated[
        str, Field("corruption of the input: gaussian | masking | salt_and_pepper", one_of(CORRUPTIONS))
    ] = "masking"
    level: Annotated[
        float,
        Field(
            "gaussian: standard deviation in units of the data; otherwise the probability that an entry is corrupted",
            at_least(0),
        ),
    ] = 0.2
    clip: Annotated[bool, Field("clip the corrupted input to [0, 1]")] = False
    alpha: Annotated[float, Field("weight of the corrupted entries in the reconstruction", at_least(0))] = 1.0
    beta: Annotated[float, Field("weight of the other entries in the reconstruction", at_least(0))] = 1.0

    degrades: ClassVar[bool] = True
    rows: ClassVar[tuple[str, str, str]] = ("corrupted", "denoised", "clean")

    def make(self, key: jax.Array | None, batch: Batch) -> Example:
        x = batch["x"]
        if key is None:
            return example(x, x)
        corrupted, hidden = CORRUPTIONS[self.corruption](key, x, self.level)
        if self.clip:
            corrupted = jnp.clip(corrupted, 0, 1)
        return example(corrupted, x, emphasis(hidden, self.alpha, self.beta), None, hidden)

    @property
    def corrupts(self) -> bool:
        return True

    @property
    def is_bound(self) -> bool:
        return {self.alpha, self.beta} <= {0, 1}

    def check(self, config: Any) -> Iterator[FieldError]:
        if self.alpha == self.beta == 0:
            yield FieldError("pair.denoise.beta", 0.0, "must be above 0 where alpha is 0")
        if self.corruption != "gaussian" and self.level > 1:
            yield FieldError("pair.denoise.level", self.level, f"must lie in [0, 1] for {self.corruption}")
        if self.corruption == "gaussian" and not self.alpha == self.beta == 1:
            yield FieldError("pair.denoise.corruption", "gaussian", "corrupts every entry: alpha and beta must be 1")

    def check_data(self, config: Any, spec: Spec) -> Iterator[FieldError]:
        if spec.x.kind == "image":
            return
        if self.corruption == "salt_and_pepper":
            allowed = f"needs images; the data are a {spec.x.kind}"
            yield FieldError("pair.denoise.corruption", "salt_and_pepper", allowed)
        if self.clip:
            yield FieldError("pair.denoise.clip", True, f"needs data in [0, 1]; the data are a {spec.x.kind}")
