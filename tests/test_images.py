import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aejax.losses import quality
from aejax.pairs import example


def two_images(shape):
    x = np.random.RandomState(0).uniform(size=(2, *shape)).astype(np.float32)
    return x[:1], np.clip(0.7 * x[:1] + 0.3 * x[1:], 0, 1).astype(np.float32)


def ssim_loop(a, b):
    """Wang et al. (2004), window by window, in float64."""
    values = []
    for c in range(a.shape[-1]):
        for i in range(a.shape[0] - 6):
            for j in range(a.shape[1] - 6):
                p, q = (np.float64(image[i : i + 7, j : j + 7, c]).ravel() for image in (a, b))
                cov = np.cov(p, q, ddof=1)
                top = (2 * p.mean() * q.mean() + 0.01**2) * (2 * cov[0, 1] + 0.03**2)
                bottom = (p.mean() ** 2 + q.mean() ** 2 + 0.01**2) * (cov[0, 0] + cov[1, 1] + 0.03**2)
                values.append(top / bottom)
    return np.mean(values)


# Of skimage.metrics.structural_similarity 0.26 with data_range=1 (and channel_axis=-1), in float64.
@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((7, 7, 1), 0.9106559031101004),
        ((9, 12, 1), 0.8809275816354711),
        ((28, 28, 1), 0.8752508562700911),
        ((8, 8, 3), 0.8769200644003158),
    ],
)
def test_ssim_equals_scikit_image_and_a_loop(shape, expected):
    a, b = two_images(shape)
    np.testing.assert_allclose(quality.ssim(jnp.asarray(a), jnp.asarray(b)), [expected], rtol=1e-5)
    np.testing.assert_allclose(ssim_loop(a[0], b[0]), expected, rtol=1e-10)


def test_ssim_of_flat_and_of_equal_images():
    black, white = jnp.zeros((1, 8, 8, 1)), jnp.ones((1, 8, 8, 1))
    np.testing.assert_allclose(quality.ssim(black, white), [1e-4 / (1 + 1e-4)], rtol=1e-3)
    for image in (black, white, jnp.asarray(two_images((8, 8, 1))[0])):
        np.testing.assert_allclose(quality.ssim(image, image), [1.0], rtol=1e-6)


def test_psnr_equals_numpy_per_image():
    a, b = np.random.RandomState(0).uniform(size=(2, 5, 4, 3, 2)).astype(np.float32)
    expected = 10 * np.log10(1 / ((a.astype(np.float64) - b) ** 2).mean(axis=(1, 2, 3)))
    np.testing.assert_allclose(quality.psnr(jnp.asarray(a), jnp.asarray(b)), expected, rtol=1e-5)
    np.testing.assert_allclose(quality.psnr(jnp.asarray(a), jnp.asarray(a)), np.full(5, 100.0), rtol=1e-6)
    off = jnp.asarray(a) + 0.1
    np.testing.assert_allclose(quality.psnr(jnp.asarray(a), off), np.full(5, 20.0), rtol=1e-5)


def test_hidden_psnr_is_over_the_hidden_part_of_images_that_have_one():
    rng = np.random.RandomState(0)
    x, r = rng.uniform(size=(2, 4, 7, 8, 3)).astype(np.float32)
    hidden = (rng.uniform(size=(4, 7, 8, 1)) < 0.3).astype(np.float32)
    hidden[2] = 0
    made = example(jnp.asarray(x), jnp.asarray(x), hidden=jnp.asarray(hidden))
    values, weights = quality.measures(made, jnp.asarray(r), degraded=False)["hidden_psnr"]
    np.testing.assert_array_equal(weights, [1, 1, 0, 1])
    for i in (0, 1, 3):
        errors = ((x[i] - r[i]) ** 2)[np.broadcast_to(hidden[i] == 1, x[i].shape)]
        np.testing.assert_allclose(values[i], -10 * np.log10(errors.mean()), rtol=1e-5)
    assert np.isfinite(values).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_input_measures_see_neither_mask_channel_nor_missing_channels(channels):
    x, r = (jnp.asarray(image) for image in two_images((8, 9, channels)))
    given = jnp.concatenate([r, jnp.ones((1, 8, 9, 1))], -1)
    measured = quality.measures(example(given, x), x, degraded=True)
    assert set(measured) == {"psnr", "ssim", "input_psnr", "input_ssim"}
    np.testing.assert_allclose(measured["input_psnr"][0], quality.psnr(x, r), rtol=1e-6)
    grey = x[..., :1]
    measured = quality.measures(example(grey, x), x, degraded=True)
    np.testing.assert_allclose(measured["input_ssim"][0], quality.ssim(x, jnp.broadcast_to(grey, x.shape)), rtol=1e-6)


def test_small_images_have_psnr_alone():
    x = jnp.zeros((2, 6, 9, 1))
    assert set(jax.eval_shape(lambda: quality.measures(example(x, x), x, degraded=False))) == {"psnr"}
