"""Inpainting: a part of the image is hidden in the input."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp

from aejax.data.spec import Spec
from aejax.errors import FieldError
from aejax.fields import Allowed, Field, at_least, one_of, within
from aejax.pairs.example import Batch, Example, Pair, emphasis, example

# --- masks: (key, (B, H, W), **fields) -> bool [B, H, W], true where hidden ------------------------


def _square(key: jax.Array, shape: Sequence[int], *, size: float, **_: Any) -> jax.Array:
    b, height, width = shape
    length = max(1, round(size * min(height, width)))
    vertical, horizontal = jax.random.split(key)
    top = jax.random.randint(vertical, (b, 1, 1), 0, height - length + 1)
    left = jax.random.randint(horizontal, (b, 1, 1), 0, width - length + 1)
    y, x = _places(height, width)
    return (y >= top) & (y < top + length) & (x >= left) & (x < left + length)


def _pixels(key: jax.Array, shape: Sequence[int], *, level: float, **_: Any) -> jax.Array:
    return jax.random.bernoulli(key, level, shape)


def _half(key: jax.Array, shape: Sequence[int], *, side: str, **_: Any) -> jax.Array:
    b, height, width = shape
    y, x = _places(height, width)
    halves = jnp.concatenate(
        [jnp.broadcast_to(region(y, x, height, width), (1, height, width)) for region in SIDES.values()]
    )
    if side == "random":
        return halves[jax.random.randint(key, (b,), 0, len(SIDES))]
    return jnp.broadcast_to(halves[list(SIDES).index(side)][None], shape)


def _quadrants(key: jax.Array, shape: Sequence[int], *, visible: Sequence[str], **_: Any) -> jax.Array:
    height, width = shape[1:]
    y, x = _places(height, width)
    shown = jnp.zeros((1, height, width), bool)
    for name in visible:
        vertical, horizontal = name.split("_")
        shown |= SIDES[vertical](y, x, height, width) & SIDES[horizontal](y, x, height, width)
    return jnp.broadcast_to(~shown, shape)


def _places(height: int, width: int) -> tuple[jax.Array, jax.Array]:
    return jnp.arange(height)[None, :, None], jnp.arange(width)[None, None, :]


MASKS: dict[str, Callable[..., jax.Array]] = {
    "square": _square,
    "pixels": _pixels,
    "half": _half,
    "quadrants": _quadrants,
}
# The middle row of an odd number belongs to the bottom, the middle column to the right.
SIDES: dict[str, Callable[[jax.Array, jax.Array, int, int], jax.Array]] = {
    "top": lambda y, x, height, width: y < height // 2,
    "bottom": lambda y, x, height, width: y >= height // 2,
    "left": lambda y, x, height, width: x < width // 2,
    "right": lambda y, x, height, width: x >= width // 2,
}
QUADRANTS = ("top_left", "top_right", "bottom_left", "bottom_right")
VISIBLE = Allowed(
    f"be one to three of {', '.join(QUADRANTS)}",
    lambda names: 1 <= len(set(names)) == len(names) <= 3 and set(names) <= set(QUADRANTS),
)


@dataclasses.dataclass(frozen=True)
class Inpaint(Pair):
    """(x with a part hidden, x) for images; `alpha` weighs the hidden part and `beta` the visible one.

    The mask hides a square of `size` times the shorter side, anywhere; pixels with probability `level`;
    the half at `side`; or the quadrants that are not `visible`. See `hide`.
    """

    mask: Annotated[str, Field("hidden part: square | pixels | half | quadrants", one_of(MASKS))] = "square"
    size: Annotated[
        float, Field("square: side as a fraction of the shorter side of the image", within(0, 1, brackets="(]"))
    ] = 0.5
    level: Annotated[float, Field("pixels: probability that a pixel is hidden", within(0, 1))] = 0.5
    side: Annotated[
        str, Field("half: the hidden half: top | bottom | left | right | random", one_of((*SIDES, "random")))
    ] = "right"
    visible: Annotated[tuple, Field("quadrants: the visible ones", VISIBLE)] = ("bottom_left",)
    channel: Annotated[bool, Field("append the mask to the input")] = True
    conditional: Annotated[bool, Field("a conditional VAE models the hidden part given the visible part")] = False
    alpha: Annotated[float, Field("weight of the hidden part in the reconstruction", at_least(0))] = 1.0
    beta: Annotated[float, Field("weight of the visible part in the reconstruction", at_least(0))] = 1.0

    degrades: ClassVar[bool] = True
    rows: ClassVar[tuple[str, str, str]] = ("masked", "output", "original")

    def make(self, key: jax.Array | None, batch: Batch) -> Example:
        x = batch["x"]
        if key is None:
            hidden = jnp.zeros((*x.shape[:3], 1), x.dtype)
            return self.hide(x, hidden)._replace(hidden=None)
        fields = {"size": self.size, "level": self.level, "side": self.side, "visible": self.visible}
        hidden = MASKS[self.mask](key, x.shape[:3], **fields)[..., None]
        hidden = hidden.astype(x.dtype)  # [B, H, W, 1]
        return self.hide(x, hidden).weighted(emphasis(hidden, self.alpha, self.beta))

    def hide(self, x: jax.Array, hidden: jax.Array) -> Example:
        """The example whose entries `hidden` [B, H, W, 1] are set to 0 in the input.

        0 is also the value of a black pixel, so `channel` appends `hidden` as one more channel. Without it a
        network can tell hidden from black only if the mask is the same for every image.
        `conditional` (Sohn et al., 2015): the encoder sees the whole image, as a recognition network does,
        and the visible part is the condition of prior and decoder.
        """
        given = x * (1 - hidden)

        def with_mask(image: jax.Array) -> jax.Array:
            if not self.channel:
                return image
            return jnp.concatenate([image, jnp.broadcast_to(hidden, (*x.shape[:3], 1))], -1)

        if self.conditional:
            return example(with_mask(x), x, None, with_mask(given), hidden)
        return example(with_mask(given), x, None, None, hidden)

    @property
    def corrupts(self) -> bool:
        return not self.conditional

    @property
    def is_bound(self) -> bool:
        return {self.alpha, self.beta} <= {0, 1}

    def check(self, config: Any) -> Iterator[FieldError]:
        if self.alpha == self.beta == 0:
            yield FieldError("pair.inpaint.beta", 0.0, "must be above 0 where alpha is 0")
        if self.conditional and config.model.bottleneck.name != "gaussian":
            yield FieldError("pair.inpaint.conditional", True, "needs model.bottleneck.name = gaussian")

    def check_data(self, config: Any, spec: Spec) -> Iterator[FieldError]:
        if spec.x.kind != "image":
            yield FieldError("pair.name", "inpaint", f"needs images; the data are a {spec.x.kind}")
