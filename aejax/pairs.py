"""What the encoder is given and what the decoder is asked for.

A pair is a function (key, batch, **fields) -> Example. With key None nothing is corrupted: what a trained
model is given, and what `test/clean/*` measures.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from aejax.likelihoods import proportions

Batch = Mapping[str, jax.Array]


class Example(NamedTuple):
    """One batch of (input, target); the likelihood sums weight times its term over the event."""

    input: jax.Array  # [B, ...]
    target: jax.Array  # [B, ...]
    weight: jax.Array | None = None  # broadcasts against the target; None = 1
    condition: Any = None  # [B, ...] what prior and decoder see besides
    hidden: jax.Array | None = None  # broadcasts against the target; 1 = corrupted or hidden; None = no entry apart


def reconstruct(key: jax.Array | None, batch: Batch) -> Example:
    """(x, x)."""
    return Example(batch["x"], batch["x"])


def denoise(
    key: jax.Array | None, batch: Batch, *, corruption: str, level: float, clip: bool, alpha: float, beta: float
) -> Example:
    """(x̃, x): corrupted input, clean target; Vincent et al. (2010), section 3.

    `level` is a standard deviation (gaussian, in units of the data) or a probability (masking to 0,
    salt_and_pepper: half of the chosen entries 0, half 1). `alpha` weighs the corrupted entries and
    `beta` the others (their section 3.3); gaussian noise corrupts all, so there nothing is weighed.
    `clip` brings the input back to [0, 1]; off by default, as then the noise stays additive.
    """
    x = batch["x"]
    if key is None:
        return Example(x, x)
    corrupted, hidden = CORRUPTIONS[corruption](key, x, level)
    if clip:
        corrupted = jnp.clip(corrupted, 0, 1)
    return Example(corrupted, x, emphasis(hidden, alpha, beta), None, hidden)


def inpaint(
    key: jax.Array | None,
    batch: Batch,
    *,
    mask: str,
    size: float,
    level: float,
    side: str,
    visible: Sequence[str],
    channel: bool,
    conditional: bool,
    alpha: float,
    beta: float,
) -> Example:
    """(x with a part hidden, x) for images; `alpha` weighs the hidden part and `beta` the visible one.

    The mask hides a square of `size` times the shorter side, anywhere; pixels with probability `level`;
    the half at `side`; or the quadrants that are not `visible`. See `hide`.
    """
    x = batch["x"]
    if key is None:
        hidden = jnp.zeros((*x.shape[:3], 1), x.dtype)
        return hide(x, hidden, channel=channel, conditional=conditional)._replace(hidden=None)
    hidden = MASKS[mask](key, x.shape[:3], size=size, level=level, side=side, visible=visible)[..., None]
    hidden = hidden.astype(x.dtype)  # [B, H, W, 1]
    return hide(x, hidden, channel=channel, conditional=conditional)._replace(weight=emphasis(hidden, alpha, beta))


def hide(x: jax.Array, hidden: jax.Array, *, channel: bool, conditional: bool) -> Example:
    """The example whose entries `hidden` [B, H, W, 1] are set to 0 in what the model is given.

    0 is also the value of a black pixel: `channel` appends `hidden` as one more channel, without which a
    network can tell hidden from black only where the mask is the same for every image.
    `conditional` (Sohn et al., 2015): the encoder sees the whole image, as a recognition network does,
    and what is visible is the condition of prior and decoder.
    """
    given = x * (1 - hidden)

    def with_mask(image: jax.Array) -> jax.Array:
        return jnp.concatenate([image, jnp.broadcast_to(hidden, (*x.shape[:3], 1))], -1) if channel else image

    if conditional:
        return Example(with_mask(x), x, None, with_mask(given), hidden)
    return Example(with_mask(given), x, None, None, hidden)


def colorize(key: jax.Array | None, batch: Batch, *, grey: str) -> Example:
    """(grey image, image): nothing is drawn. Grey is the luma of ITU-R BT.601, or the mean of the channels."""
    x = batch["x"]
    red, green, blue = (share * x[..., i : i + 1] for i, share in enumerate(GREYS[grey]))
    return Example(red + green + blue, x)


def label(key: jax.Array | None, batch: Batch, *, classes: int) -> Example:
    """(x, class of x): the target is one-hot, [B, classes]; an example without a label (-1) has weight 0."""
    labels = batch["y"]
    return Example(batch["x"], jax.nn.one_hot(labels, classes), (labels >= 0).astype(jnp.float32)[:, None])


PAIRS: dict[str, Callable[..., Example]] = {
    "reconstruct": reconstruct,
    "denoise": denoise,
    "inpaint": inpaint,
    "colorize": colorize,
    "label": label,
}
INPUTS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "identity": lambda x: x,
    "log": jnp.log1p,
    "proportions": proportions,
}
GREYS = {"luma": (0.299, 0.587, 0.114), "mean": (1 / 3, 1 / 3, 1 / 3)}


@dataclasses.dataclass(frozen=True)
class Pair:
    """A pair with its fields."""

    name: str
    fields: Mapping[str, Any]
    input: str = "identity"  # what of the input the encoder is given

    def __call__(self, key: jax.Array | None, batch: Batch) -> Example:
        example = PAIRS[self.name](key, batch, **self.fields)
        return example._replace(input=INPUTS[self.input](example.input))

    @property
    def degrades(self) -> bool:
        """The model is given less than the target."""
        return self.name not in ("reconstruct", "label")

    @property
    def supervised(self) -> bool:
        """The target is a label, not an example."""
        return self.name == "label"

    @property
    def conditional(self) -> bool:
        return bool(self.fields.get("conditional"))

    @property
    def corrupts(self) -> bool:
        """The model can be given the target whole instead."""
        return self.name in ("denoise", "inpaint") and not self.conditional

    @property
    def bounds(self) -> bool:
        """Each entry of the target counts once or not at all, so that −log p + KL is a bound."""
        return all(self.fields.get(field, 1) in (0, 1) for field in ("alpha", "beta"))

    def shapes(self, shape: Sequence[int]) -> Example:
        """What the pair makes of one example of `shape`, as jax.ShapeDtypeStruct."""
        batch = {"x": jax.ShapeDtypeStruct((1, *shape), jnp.float32), "y": jax.ShapeDtypeStruct((1,), jnp.int32)}
        return jax.eval_shape(self, jax.eval_shape(lambda: jax.random.key(0)), batch)


def build(config: Any, classes: int = 0) -> Pair:
    """The pair of the config's section `pair`, for data of so many classes."""
    fields = config[config.name].to_dict()
    return Pair(config.name, fields | ({"classes": classes} if config.name == "label" else {}), config.input)


def seen(example: Example) -> jax.Array:
    """What the model is given of an image, in the target's shape: without mask channel, grey repeated."""
    given = example.input if example.condition is None else example.condition
    return jnp.broadcast_to(given[..., : example.target.shape[-1]], example.target.shape)


def output(example: Example, mean: jax.Array) -> jax.Array:
    """The reconstruction mean, but the target's own value where that is visible and not asked for (weight 0)."""
    if example.hidden is None or example.weight is None:
        return mean
    known = jnp.broadcast_to((example.hidden == 0) & (example.weight == 0), mean.shape)
    return jnp.where(known, example.target, mean)


def emphasis(hidden: jax.Array | None, alpha: float, beta: float) -> jax.Array | None:
    """alpha where hidden, beta elsewhere; None where that is 1 everywhere."""
    return None if hidden is None or alpha == beta == 1 else jnp.where(hidden == 1, alpha, beta)


# --- corruptions: (key, x, level) -> x̃, and which entries were chosen (None: all) -----------------


def gaussian(key: jax.Array, x: jax.Array, level: float) -> tuple[jax.Array, None]:
    """x + level ε, ε ~ N(0, I)."""
    return x + level * jax.random.normal(key, x.shape, x.dtype), None


def masking(key: jax.Array, x: jax.Array, level: float) -> tuple[jax.Array, jax.Array]:
    """Each entry is 0 with probability `level`."""
    chosen = jax.random.bernoulli(key, level, x.shape)
    return jnp.where(chosen, 0, x), chosen.astype(x.dtype)


def salt_and_pepper(key: jax.Array, x: jax.Array, level: float) -> tuple[jax.Array, jax.Array]:
    """Each entry is 0 with probability level / 2, 1 with the same."""
    choose, extreme = jax.random.split(key)
    chosen = jax.random.bernoulli(choose, level, x.shape)
    salt = jax.random.bernoulli(extreme, 0.5, x.shape)
    return jnp.where(chosen, salt.astype(x.dtype), x), chosen.astype(x.dtype)


CORRUPTIONS: dict[str, Callable[..., tuple[jax.Array, jax.Array | None]]] = {
    "gaussian": gaussian,
    "masking": masking,
    "salt_and_pepper": salt_and_pepper,
}


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
# Of an odd number of rows the middle one belongs to the bottom, of columns to the right.
SIDES: dict[str, Callable[[jax.Array, jax.Array, int, int], jax.Array]] = {
    "top": lambda y, x, height, width: y < height // 2,
    "bottom": lambda y, x, height, width: y >= height // 2,
    "left": lambda y, x, height, width: x < width // 2,
    "right": lambda y, x, height, width: x >= width // 2,
}
QUADRANTS = ("top_left", "top_right", "bottom_left", "bottom_right")


# --- the batch before the pair ----------------------------------------------------------------------


def scale(batch: Batch) -> dict[str, jax.Array]:
    """uint8 images of 0..255 -> float32 in [0, 1]; anything else -> float32."""
    x = batch["x"]
    scaled = x.astype(jnp.float32) / 255 if x.dtype == jnp.uint8 else x.astype(jnp.float32)
    return {**batch, "x": scaled}


def binarize(key: jax.Array, batch: Batch) -> dict[str, jax.Array]:
    """x in [0, 1] -> {0, 1}, drawn with probability x (Salakhutdinov & Murray, 2008)."""
    return {**batch, "x": jax.random.bernoulli(key, batch["x"]).astype(jnp.float32)}
