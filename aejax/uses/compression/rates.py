"""The curve of rate and distortion: bits per pixel of a file against the squared error of what it decodes to."""

import io
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from aejax.uses.compression.codec import lossy_file
from aejax.uses.compression.quantizer import Quantizer

LEAST = 1e-10  # squared error of equal images: 100 dB
QUALITIES = (5, 10, 25, 50, 75)  # of JPEG


class Point(NamedTuple):
    """A point of the curve of rate and distortion."""

    code: str  # model | pca | jpeg
    units: int  # that are coded; jpeg: 0
    step: float  # of the quantiser; jpeg: the quality
    bits_per_pixel: float
    squared_error: float
    psnr: float


def curve(
    name: str,
    codes: np.ndarray,
    fitted: Quantizer,
    decode: Callable[[np.ndarray], np.ndarray],
    target: np.ndarray,
    sizes: Sequence[int],
    image: bool,
    header: Mapping[str, Any],
) -> Iterator[Point]:
    """A point for each number of units and each step."""
    for step in fitted.tables:
        q = fitted.quantize(codes, step)
        for size in sizes:
            content = lossy_file(q[:, :size], fitted, step, header)
            residuals = target - decode(fitted.dequantize(q[:, :size], step))
            errors = np.einsum("nd,nd->n", residuals, residuals, dtype=np.float64)
            yield Point(
                name, size, step, 8 * len(content) / target.size, float(errors.mean()), psnr(errors, target, image)
            )


def psnr(errors: np.ndarray, target: np.ndarray, image: bool) -> float:
    """−10 log₁₀ of the mean squared error of an image, the mean over images, in dB; NaN if there are none."""
    return float(np.mean(-10 * np.log10(np.maximum(errors / target.shape[1], LEAST)))) if image else math.nan


def rate_at(points: Sequence[Point], goal: float) -> float | None:
    """The fewest bits per pixel at a squared error: for each number of units between the two steps around it, linear in
    log bits and log error; None if no step has less, or none has more."""
    found = []
    for size in {point.units for point in points}:
        line = sorted((p.squared_error, p.bits_per_pixel) for p in points if p.units == size)
        for (e0, b0), (e1, b1) in itertools.pairwise(line):
            if e0 <= goal <= e1:
                share = math.log(goal / e0) / math.log(e1 / e0) if e1 > e0 > 0 else 0.0
                found.append(math.exp((1 - share) * math.log(b0) + share * math.log(b1)))
    return min(found, default=None)


def jpeg(x: np.ndarray, target: np.ndarray) -> Iterator[Point]:
    """JPEG at several qualities, all images as tiles of one."""
    from PIL import Image

    images = np.rint(x * 255).astype(np.uint8)
    for quality in QUALITIES:
        content = image_file(images, "JPEG", quality=quality)
        back = np.asarray(Image.open(io.BytesIO(content))).reshape(tiles(images).shape)
        error = np.sum(((untiled(back, images.shape) - images.astype(np.float64)) / 255).reshape(len(x), -1) ** 2, 1)
        yield Point("jpeg", 0, quality, 8 * len(content) / target.size, error.mean(), psnr(error, target, True))


def tiles(images: np.ndarray) -> np.ndarray:
    """Images [n, H, W, C] as tiles of one."""
    n, h, w, c = images.shape
    columns = math.isqrt(n - 1) + 1
    rows = -(-n // columns)
    padded = np.concatenate([images, np.zeros((rows * columns - n, h, w, c), images.dtype)])
    return padded.reshape(rows, columns, h, w, c).swapaxes(1, 2).reshape(rows * h, columns * w, c)


def untiled(tiled: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of `tiles` for images of a shape."""
    n, h, w, c = shape
    parts = tiled.reshape(tiled.shape[0] // h, h, -1, w, c).swapaxes(1, 2)
    return parts.reshape(-1, h, w, c)[:n]


def image_file(images: np.ndarray, form: str, *, bilevel: bool = False, **options: Any) -> bytes:
    """The bytes of one image file of all images uint8 [n, H, W, C], as tiles."""
    from PIL import Image

    file, pixels = io.BytesIO(), tiles(images)
    drawn = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    (drawn.convert("1") if bilevel and pixels.shape[-1] == 1 else drawn).save(file, form, optimize=True, **options)
    return file.getvalue()
