"""Convolution, pooling, and the ways back from both.

Images are [B, H, W, C], kernels [k, k, in, out]. With zero padding a map of n rows becomes one of
ceil(n / stride); the decoder's maps have the sizes of the encoder's, so odd sizes come back exactly.
"""

from collections.abc import Sequence
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def sizes(shape: Sequence[int], blocks: int, factor: int) -> list[tuple[int, int]]:
    """(rows, columns) of an image [H, W, C] and of the map after each block."""
    maps = [(shape[0], shape[1])]
    for _ in range(blocks):
        maps.append((-(-maps[-1][0] // factor), -(-maps[-1][1] // factor)))
    return maps


def conv(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """y[p, o] = Σ_{t, i} x[stride p + t − low, i] kernel[t, i, o], [B, H, W, in] -> [B, ⌈H/s⌉, ⌈W/s⌉, out].

    Cross-correlation, called convolution in this field; x is 0 outside, low is that of `padding`.
    """
    # On the CPU XLA's own convolutions are slow, and ten times slower in a loop; matrix products are not.
    return (_as_product if jax.default_backend() == "cpu" else _native)(x, kernel, stride)


def conv_transpose(y: jax.Array, kernel: jax.Array, size: Sequence[int], stride: int = 1) -> jax.Array:
    """The adjoint of `conv` on maps of `size` (H, W): ⟨conv(x), y⟩ = ⟨x, conv_transpose(y)⟩.

    y [B, ⌈H/s⌉, ⌈W/s⌉, out] -> [B, H, W, in]. At stride 1 and an odd k it is the convolution with the
    kernel flipped in both directions and its channels swapped.
    """
    x = jax.ShapeDtypeStruct((y.shape[0], *size, kernel.shape[2]), y.dtype)
    return jax.linear_transpose(lambda x: conv(x, kernel, stride), x)(y)[0]


def padding(n: int, k: int, stride: int) -> tuple[int, int]:
    """Zeros before and after n pixels: as few as give ⌈n / stride⌉ windows of k, an odd one after."""
    total = max((-(-n // stride) - 1) * stride + k - n, 0)
    return total // 2, total - total // 2


def _native(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    pads = [padding(n, k, stride) for n, k in zip(x.shape[1:3], kernel.shape, strict=False)]
    return lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _as_product(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """The shifted inputs side by side, [B, h, w, k k in], times the kernel as a matrix."""
    h, w = (-(-n // stride) for n in x.shape[1:3])
    pads = [padding(n, k, stride) for n, k in zip(x.shape[1:3], kernel.shape, strict=False)]
    x = jnp.pad(x, [(0, 0), *pads, (0, 0)])
    shifted = [
        x[:, a : a + (h - 1) * stride + 1 : stride, b : b + (w - 1) * stride + 1 : stride]
        for a, b in product(range(kernel.shape[0]), range(kernel.shape[1]))
    ]
    return jnp.concatenate(shifted, -1) @ kernel.reshape(-1, kernel.shape[-1])


def max_pool(x: jax.Array, factor: int) -> tuple[jax.Array, jax.Array]:
    """Largest value of each factor x factor window, and its place in it, the switch: uint8, rows first.

    [B, H, W, C] -> two of [B, ⌈H/f⌉, ⌈W/f⌉, C]. Windows at the lower and right edges hold the pixels
    that are left. Of equal values the first counts, for the switch and for the gradient.
    """
    places = _windows(x, factor, -jnp.inf)
    largest, switch = places[0], jnp.zeros(places[0].shape, jnp.uint8)
    for place, value in enumerate(places[1:], 1):
        larger = value > largest
        largest, switch = jnp.where(larger, value, largest), jnp.where(larger, jnp.uint8(place), switch)
    return largest, switch


def average_pool(x: jax.Array, factor: int) -> jax.Array:
    """Mean of each window, over the pixels that are there: [B, H, W, C] -> [B, ⌈H/f⌉, ⌈W/f⌉, C]."""
    rows, columns = (np.minimum(factor, n - factor * np.arange(-(-n // factor))) for n in x.shape[1:3])
    pixels = jnp.asarray(np.outer(rows, columns)[None, :, :, None], x.dtype)  # in each window
    return sum(_windows(x, factor, 0.0)) / pixels


def unpool(y: jax.Array, switch: jax.Array, size: Sequence[int], factor: int) -> jax.Array:
    """Each value at its switch, zeros elsewhere: [B, h, w, C] -> [B, *size, C]; Zeiler & Fergus (2014)."""
    return _spread([jnp.where(switch == place, y, 0) for place in range(factor**2)], size, factor)


def repeat(y: jax.Array, size: Sequence[int], factor: int) -> jax.Array:
    """Each value over its window (nearest neighbour): [B, h, w, C] -> [B, *size, C]."""
    return _spread([y] * factor**2, size, factor)


def _windows(x: jax.Array, factor: int, fill: float) -> list[jax.Array]:
    """The pixels at each place of a window, factor² arrays [B, h, w, C]; what is missing at the end is `fill`."""
    ends = [(0, -n % factor) for n in x.shape[1:3]]
    x = jnp.pad(x, [(0, 0), *ends, (0, 0)], constant_values=fill)
    return [x[:, a::factor, b::factor] for a, b in product(range(factor), repeat=2)]


def _spread(places: Sequence[jax.Array], size: Sequence[int], factor: int) -> jax.Array:
    batch, h, w, c = places[0].shape
    x = jnp.stack(places, 3).reshape(batch, h, w, factor, factor, c).swapaxes(2, 3)
    return x.reshape(batch, h * factor, w * factor, c)[:, : size[0], : size[1]]
