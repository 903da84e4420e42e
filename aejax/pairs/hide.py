"""Inpainting: a part of the image, or spans of a series, are hidden in the input."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp

from aejax.data.spec import Spec
from aejax.errors import FieldError
from aejax.fields import Allowed, Field, at_least, one_of, within
from aejax.pairs.example import Batch, Example, Pair, emphasis, example

# --- masks: (key, (B, H, W) or (B, T), **fields) -> bool of this shape, true where hidden ------------


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


def _spans(key: jax.Array, shape: Sequence[int], *, level: float, length: float, **_: Any) -> jax.Array:
    """A stationary Markov chain of two states for each series: Zerveas et al. (2021).

    A step is hidden with probability `level`. A span ends after each step with probability 1 / length, or 1 − level
    if that is less. Then the steps are independent, and spans have 1 / (1 − level) steps in the mean.
    """
    leave = jnp.minimum(1 / length, 1 - level)  # P(visible | the step before is hidden)
    enter = leave * level / jnp.maximum(1 - level, 1e-30)  # P(hidden | the step before is visible)
    u, steps = jax.random.uniform(key, shape), jnp.arange(shape[1])[None]
    # enter <= 1 − leave, so u below `enter` hides the step from either state, u of at least 1 − leave shows it, and a
    # value between keeps the state. So a step has the state of the last step that was not kept; the first one is drawn.
    drawn = (u < enter) | (u >= 1 - leave) | (steps == 0)
    state = jnp.where(steps == 0, u < level, u < enter)
    return jnp.take_along_axis(state, jax.lax.cummax(jnp.where(drawn, steps, 0), axis=1), axis=1)


def _places(height: int, width: int) -> tuple[jax.Array, jax.Array]:
    return jnp.arange(height)[None, :, None], jnp.arange(width)[None, None, :]


MASKS: dict[str, Callable[..., jax.Array]] = {
    "square": _square,
    "pixels": _pixels,
    "half": _half,
    "quadrants": _quadrants,
    "spans": _spans,
}
SERIES = ("spans",)  # masks of series; the others are of images
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
    """(x with a part hidden, x) for images and series; `alpha` weighs the hidden part and `beta` the visible one.

    The mask hides a square of `size` times the shorter side, anywhere; pixels with probability `level`; the half at
    `side`; or the quadrants that are not `visible`. In series it hides spans of all channels: a share `level` of the
    steps, in spans of `length` steps in the mean. See `hide`.
    """

    mask: Annotated[
        str, Field("hidden part: square | pixels | half | quadrants (images) | spans (series)", one_of(MASKS))
    ] = "square"
    size: Annotated[
        float, Field("square: side as a fraction of the shorter side of the image", within(0, 1, brackets="(]"))
    ] = 0.5
    level: Annotated[
        float, Field("pixels, spans: probability that a pixel, or a step of a series, is hidden", within(0, 1))
    ] = 0.5
    length: Annotated[
        float,
        Field(
            "spans: mean length of a span in steps; at least 1 / (1 - level), that of independent steps", at_least(1)
        ),
    ] = 8.0
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
        """The batch may hold `hidden` [B, ..., 1], 1 = hidden, which counts if the key is None."""
        x, observed = batch["x"], batch.get("observed")
        if key is None:
            hidden = batch["hidden"] if "hidden" in batch else jnp.zeros((*x.shape[:-1], 1), x.dtype)
            return self.hide(x, hidden, observed)._replace(hidden=None)
        own = {"size": self.size, "level": self.level, "length": self.length, "side": self.side}
        hidden = MASKS[self.mask](key, x.shape[:-1], visible=self.visible, **own)[..., None]
        hidden = hidden.astype(x.dtype)  # [B, H, W, 1] or [B, T, 1]
        return self.hide(x, hidden, observed).weighted(emphasis(hidden, self.alpha, self.beta))

    def hide(self, x: jax.Array, hidden: jax.Array, observed: jax.Array | None = None) -> Example:
        """The example whose entries `hidden` [B, H, W, 1] or [B, T, 1] are set to 0 in the input.

        0 is also the value of a black pixel and the mean of a channel, so `channel` appends `hidden` as one more
        channel. Without it a network can tell hidden from black only if the mask is the same for every image. In a
        series, the steps without an observed value are marked as the hidden ones are.
        `conditional` (Sohn et al., 2015): the encoder sees the whole image, as a recognition network does,
        and the visible part is the condition of prior and decoder.
        """
        given = x * (1 - hidden)
        mark = hidden if observed is None else jnp.maximum(hidden, 1 - observed.max(-1, keepdims=True))

        def with_mask(image: jax.Array) -> jax.Array:
            if not self.channel:
                return image
            return jnp.concatenate([image, jnp.broadcast_to(mark, (*x.shape[:-1], 1))], -1)

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
        kind, of_series = spec.x.kind, self.mask in SERIES
        if kind not in ("image", "series"):
            yield FieldError("pair.name", "inpaint", f"needs images or series; the data are a {kind}")
        elif of_series != (kind == "series"):
            allowed = f"needs {'series' if of_series else 'images'}; the data are a {kind}, which takes "
            others = [name for name in MASKS if (name in SERIES) == (kind == "series")]
            yield FieldError("pair.inpaint.mask", self.mask, allowed + ", ".join(others))
        elif of_series and self.conditional:
            yield FieldError("pair.inpaint.conditional", True, "needs images; the data are a series")
