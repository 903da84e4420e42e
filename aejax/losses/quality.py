"""Similarity of two images: PSNR and SSIM, at data range 1, per image."""

import jax
import jax.numpy as jnp

from aejax.pairs.example import Example, seen

WINDOW = 7  # pixels along a side of SSIM's window; the usual 11 does not fit 8x8 digits
LEAST = 1e-10  # squared error below which two images count as equal: 100 dB


def measures(example: Example, mean: jax.Array, *, degraded: bool) -> dict[str, tuple[jax.Array, jax.Array]]:
    """name -> (values [B], weights [B]) for a batch of images.

    `psnr` and `ssim` measure the output `mean`; `input_*` measure the input if it is `degraded`; `hidden_psnr`
    measures the hidden part of the target alone, with weight 0 for an image without one. Images under 7 pixels have
    no SSIM.
    """
    target = example.target
    images = {"": mean}
    if degraded:
        images["input_"] = seen(example)
    values = {f"{name}psnr": psnr(target, image) for name, image in images.items()}
    if min(target.shape[1:3]) >= WINDOW:
        values |= {f"{name}ssim": ssim(target, image) for name, image in images.items()}
    ones = jnp.ones(len(target))
    measured = {name: (value, ones) for name, value in values.items()}
    if example.hidden is not None:
        hidden = jnp.broadcast_to(example.hidden, target.shape)
        measured["hidden_psnr"] = psnr(target, mean, hidden), hidden.max(axis=(1, 2, 3))
    return measured


def psnr(target: jax.Array, image: jax.Array, part: jax.Array | None = None) -> jax.Array:
    """Peak signal-to-noise ratio −10 log₁₀ mean (t − r)², in dB, of [B, H, W, C] -> [B].

    The mean runs over the entries of one image, or over those where `part` is 1; averages over images are
    averages of dB. At most 100 dB, so that equal images have a number.
    """
    axes = tuple(range(1, target.ndim))
    part = jnp.ones_like(target) if part is None else part
    error = jnp.sum(part * (target - image) ** 2, axes) / jnp.maximum(jnp.sum(part, axes), 1)
    return -10 * jnp.log10(jnp.maximum(error, LEAST))


def ssim(target: jax.Array, image: jax.Array) -> jax.Array:
    """Structural similarity of [B, H, W, C] -> [B]; Wang et al. (2004), equation 13.

    (2 μₜ μᵣ + c₁)(2 σₜᵣ + c₂) / ((μₜ² + μᵣ² + c₁)(σₜ² + σᵣ² + c₂)), c₁ = 0.01², c₂ = 0.03², with means and
    unbiased covariances over uniform 7x7 windows, averaged over the windows inside the image and over the
    channels: the default of scikit-image's structural_similarity with data_range=1.
    """
    # Centred at 1/2, so that differences of squares of data in [0, 1] lose fewer digits.
    t, r = target - 0.5, image - 0.5
    mean_t, mean_r = _window_mean(t), _window_mean(r)
    unbiased = WINDOW**2 / (WINDOW**2 - 1)
    var_t = unbiased * (_window_mean(t * t) - mean_t**2)
    var_r = unbiased * (_window_mean(r * r) - mean_r**2)
    cov = unbiased * (_window_mean(t * r) - mean_t * mean_r)
    mean_t, mean_r = mean_t + 0.5, mean_r + 0.5
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * mean_t * mean_r + c1) * (2 * cov + c2)
    similarity /= (mean_t**2 + mean_r**2 + c1) * (var_t + var_r + c2)
    return similarity.mean(axis=(1, 2, 3))


def _window_mean(x: jax.Array) -> jax.Array:
    """Means over the 7x7 windows inside [B, H, W, C].

    By two products with banded matrices. Sums of shifted slices would be fused into one loop that adds all 49 terms
    for each entry, a hundred times slower on the CPU.
    """
    down, across = (_band(n, x.dtype) for n in x.shape[1:3])
    return jnp.einsum("ih,bhwc,jw->bijc", down, x, across, precision="highest")


def _band(n: int, dtype: jnp.dtype) -> jax.Array:
    """[n - 6, n]: 1/7 at the 7 entries of each window."""
    offset = jnp.arange(n)[None, :] - jnp.arange(n - WINDOW + 1)[:, None]
    return ((offset >= 0) & (offset < WINDOW)).astype(dtype) / WINDOW
