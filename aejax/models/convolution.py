"""Convolution and pooling, with their counterparts in the decoder.

Images are [B, H, W, C], kernels [k, k, in, out]. With zero padding a map of n rows becomes one of
ceil(n / stride); the decoder's maps have the sizes of the encoder's, so odd sizes are restored exactly.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_Form = Callable[..., jax.Array]


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
    return _by_platform(_conv, _native, x, kernel, stride=stride)


def conv_transpose(y: jax.Array, kernel: jax.Array, size: Sequence[int], stride: int = 1) -> jax.Array:
    """The adjoint of `conv` on maps of `size` (H, W): ⟨conv(x), y⟩ = ⟨x, conv_transpose(y)⟩.

    y [B, ⌈H/s⌉, ⌈W/s⌉, out] -> [B, H, W, in]. At stride 1 and an odd k it is the convolution with the
    kernel flipped in both directions and its channels swapped.
    """
    return _by_platform(_conv_transpose, _native_transpose, y, kernel, size=tuple(size), stride=stride)


def padding(n: int, k: int, stride: int) -> tuple[int, int]:
    """Zeros before and after n pixels: the fewest that give ⌈n / stride⌉ windows of k; an odd zero goes after."""
    total = max((-(-n // stride) - 1) * stride + k - n, 0)
    return total // 2, total - total // 2


def _by_platform(products: _Form, native: _Form, x: jax.Array, kernel: jax.Array, **fields: Any) -> jax.Array:
    """Matrix products on the CPU, where XLA's convolutions and their gradients are slow, most of all in a loop."""
    return lax.platform_dependent(x, kernel, cpu=partial(products, **fields), default=partial(native, **fields))


def _native(x: jax.Array, kernel: jax.Array, *, stride: int) -> jax.Array:
    pads = _paddings(x.shape[1:3], kernel, stride)
    return lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _native_transpose(y: jax.Array, kernel: jax.Array, *, size: tuple[int, int], stride: int) -> jax.Array:
    x = jax.ShapeDtypeStruct((y.shape[0], *size, kernel.shape[2]), y.dtype)
    return jax.linear_transpose(lambda x: _native(x, kernel, stride=stride), x)(y)[0]


def _conv(x: jax.Array, kernel: jax.Array, *, stride: int) -> jax.Array:
    """The shifted inputs side by side, [B, h, w, k k in], times the kernel as a matrix."""
    if kernel.shape[2] > kernel.shape[3] and _flips(kernel, stride):  # fewer products than shifted inputs
        return _conv_transpose(x, _flip(kernel), size=(x.shape[1], x.shape[2]), stride=1)
    lows = [low for low, _ in _paddings(x.shape[1:3], kernel, stride)]
    shifted = []
    for offset in _offsets(kernel):
        pads = [(low - t, t - low - (n - 1) % stride, 0) for n, low, t in zip(x.shape[1:3], lows, offset, strict=True)]
        moved = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *pads, (0, 0, 0)])
        shifted.append(moved[:, ::stride, ::stride])
    return _product(jnp.concatenate(shifted, -1), kernel.reshape(-1, kernel.shape[-1]))


def _conv_transpose(y: jax.Array, kernel: jax.Array, *, size: tuple[int, int], stride: int) -> jax.Array:
    """The products with all offsets of the kernel, [B, h, w, k k in], shifted and summed.

    Offset t of pixel p goes to stride p + t − low = stride (p + shift) + place. The offsets of each place in a
    stride x stride window are summed on the small map.
    """
    if kernel.shape[2] > kernel.shape[3] and _flips(kernel, stride):  # fewer shifted inputs than products
        return _conv(y, _flip(kernel), stride=1)
    zero = jnp.zeros((), y.dtype)
    lows = [low for low, _ in _paddings(size, kernel, stride)]
    matrix = jnp.moveaxis(kernel, -1, 0).reshape(kernel.shape[-1], -1)
    parts = lax.split(_product(y, matrix), [kernel.shape[2]] * (kernel.shape[0] * kernel.shape[1]), axis=3)
    places = [jnp.zeros_like(parts[0])] * stride**2
    for part, offset in zip(parts, _offsets(kernel), strict=True):
        (down, row), (right, column) = (divmod(t - low, stride) for t, low in zip(offset, lows, strict=True))
        shifted = lax.pad(part, zero, [(0, 0, 0), (down, -down, 0), (right, -right, 0), (0, 0, 0)])
        places[row * stride + column] += shifted
    return _spread(places, size, stride)


def _product(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """x @ matrix, [..., m] -> [..., n]."""
    # The gradient of the matrix, a sum over all pixels, is twice as fast with the short side first. The barrier
    # keeps the compiler from transposing it back.
    m, n = matrix.shape
    short_first = lax.optimization_barrier(matrix.T if n < m else matrix)
    y = lax.dot_general(x.reshape(-1, m), short_first, (((1,), (int(n < m),)), ((), ())))
    return y.reshape(*x.shape[:-1], n)


def _flips(kernel: jax.Array, stride: int) -> bool:
    """Whether the transposed convolution is a convolution with the flipped kernel."""
    return stride == 1 and all(k % 2 for k in kernel.shape[:2])


def _flip(kernel: jax.Array) -> jax.Array:
    return kernel[::-1, ::-1].swapaxes(2, 3)


def _paddings(size: Sequence[int], kernel: jax.Array, stride: int) -> list[tuple[int, int]]:
    return [padding(n, k, stride) for n, k in zip(size, kernel.shape, strict=False)]


def _offsets(kernel: jax.Array) -> Iterator[tuple[int, int]]:
    return product(range(kernel.shape[0]), range(kernel.shape[1]))


def max_pool(x: jax.Array, factor: int) -> tuple[jax.Array, jax.Array]:
    """Largest value of each factor x factor window, and its place in it (the switch): uint8, row by row.

    [B, H, W, C] -> two arrays [B, ⌈H/f⌉, ⌈W/f⌉, C]. Windows at the lower and right edges may be smaller. Of equal
    values the first one counts, for the switch and for the gradient.
    """
    places = _windows(x, factor, -jnp.inf)
    largest, switch = places[0], jnp.zeros(places[0].shape, jnp.uint8)
    for place, value in enumerate(places[1:], 1):
        larger = value > largest
        largest, switch = jnp.where(larger, value, largest), jnp.where(larger, jnp.uint8(place), switch)
    return largest, switch


def average_pool(x: jax.Array, factor: int) -> jax.Array:
    """Mean of each window, over the pixels inside the image: [B, H, W, C] -> [B, ⌈H/f⌉, ⌈W/f⌉, C]."""
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
    """The pixels at each place of a window, factor² arrays [B, h, w, C]; pixels beyond the end are `fill`."""
    ends = [(0, -n % factor) for n in x.shape[1:3]]
    x = jnp.pad(x, [(0, 0), *ends, (0, 0)], constant_values=fill)
    return [x[:, a::factor, b::factor] for a, b in product(range(factor), repeat=2)]


def _spread(places: Sequence[jax.Array], size: Sequence[int], factor: int) -> jax.Array:
    batch, h, w, c = places[0].shape
    x = jnp.stack(places, 3).reshape(batch, h, w, factor, factor, c).swapaxes(2, 3)
    return x.reshape(batch, h * factor, w * factor, c)[:, : size[0], : size[1]]
