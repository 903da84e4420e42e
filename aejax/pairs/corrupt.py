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

NODES = 4  # of an axis of the random field of `deform`


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


def deform(key: jax.Array, x: jax.Array, level: float) -> tuple[jax.Array, None]:
    """Images [B, H, W, C], each moved by a smooth random field; 0 flows in at the borders.

    On axes from -1 to 1, the pixel at p takes the bilinear value at p + level (A p + b + e(p)), where all of A, b and
    the values of e at the nodes of a 4x4 grid are N(0, 1), and e is linear between nodes. So a `level` of 0.1 on 28x28
    images means shifts of 1.4 pixels, rotations of about 6 degrees and changes of scale of 10 %, one standard
    deviation each.
    """
    height, width = x.shape[1:3]
    affine, elastic = jax.random.split(key)
    a = jax.random.normal(affine, (x.shape[0], 3, 2), x.dtype)
    e = jax.random.normal(elastic, (x.shape[0], NODES, NODES, 2), x.dtype)
    axes = [jnp.linspace(-1, 1, n, dtype=x.dtype) for n in (height, width)]
    p = jnp.stack([*jnp.meshgrid(*axes, indexing="ij"), jnp.ones((height, width), x.dtype)], -1)  # [H, W, 3]
    rows, columns = (tents(n).astype(x.dtype) for n in (height, width))
    u = jnp.einsum("hwi,bij->bhwj", p, a) + jnp.einsum("hr,wc,brcj->bhwj", rows, columns, e)
    place = (p[None, ..., :2] + level * u + 1) / 2 * jnp.asarray([[[[height - 1, width - 1]]]], x.dtype)
    low = jnp.floor(place)  # [B, H, W, 2], in pixels
    share = place - low
    low = low.astype(jnp.int32)
    flat = x.reshape(x.shape[0], height * width, -1)
    total = jnp.zeros_like(x)
    for i in (0, 1):
        for j in (0, 1):
            r, c = low[..., 0] + i, low[..., 1] + j
            inside = (r >= 0) & (r < height) & (c >= 0) & (c < width)
            weight = jnp.abs(1 - i - share[..., 0]) * jnp.abs(1 - j - share[..., 1]) * inside
            index = jnp.where(inside, r * width + c, 0).reshape(x.shape[0], -1, 1)
            total += weight[..., None] * jnp.take_along_axis(flat, index, axis=1).reshape(x.shape)
    return total, None


def tents(size: int) -> jax.Array:
    """[size, NODES]: weights of the nodes at each of `size` places on an axis, for linear interpolation."""
    place = jnp.linspace(0, NODES - 1, size)[:, None]
    return jnp.maximum(0, 1 - jnp.abs(place - jnp.arange(NODES)[None]))


CORRUPTIONS: dict[str, Callable[..., tuple[jax.Array, jax.Array | None]]] = {
    "gaussian": gaussian,
    "masking": masking,
    "salt_and_pepper": salt_and_pepper,
    "deform": deform,
}


@dataclasses.dataclass(frozen=True)
class Denoise(Pair):
    """(x̃, x): corrupted input, clean target; Vincent et al. (2010), section 3.

    `level` is a standard deviation (gaussian, in units of the data; deform, in half-widths of the image) or a
    probability (masking to 0, salt_and_pepper: half of the chosen entries 0, half 1). `alpha` weighs the corrupted
    entries and `beta` the others (their section 3.3). Gaussian noise and deform corrupt all entries, so they take no
    weights. `clip` clips the input to [0, 1]; it is off by default, so that the noise stays additive.
    """

    corruption: Annotated[
        str, Field("corruption of the input: gaussian | masking | salt_and_pepper | deform", one_of(CORRUPTIONS))
    ] = "masking"
    level: Annotated[
        float,
        Field(
            "gaussian: standard deviation in units of the data; deform: that of the shift in half-widths of the image; "
            "otherwise the probability that an entry is corrupted",
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
        if self.corruption in ("masking", "salt_and_pepper") and self.level > 1:
            yield FieldError("pair.denoise.level", self.level, f"must lie in [0, 1] for {self.corruption}")
        if self.corruption in ("gaussian", "deform") and not self.alpha == self.beta == 1:
            yield FieldError(
                "pair.denoise.corruption", self.corruption, "corrupts every entry: alpha and beta must be 1"
            )

    def check_data(self, config: Any, spec: Spec) -> Iterator[FieldError]:
        if spec.x.kind == "image":
            return
        if self.corruption in ("salt_and_pepper", "deform"):
            allowed = f"needs images; the data are a {spec.x.kind}, which takes gaussian or masking"
            yield FieldError("pair.denoise.corruption", self.corruption, allowed)
        if self.clip:
            yield FieldError("pair.denoise.clip", True, f"needs data in [0, 1]; the data are a {spec.x.kind}")
