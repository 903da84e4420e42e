"""Simple methods that restore images, [N, H, W, C] in [0, 1]; a model is measured beside them."""

import numpy as np


def median(x: np.ndarray, size: float) -> np.ndarray:
    """The median over a square of `size` pixels a side, each channel on its own; the border is mirrored."""
    from scipy import ndimage

    return np.clip(ndimage.median_filter(x, size=(1, int(size), int(size), 1)), 0, 1)


def gaussian(x: np.ndarray, width: float) -> np.ndarray:
    """The mean under a Gaussian of standard deviation `width` in pixels, cut at 4 widths; the border is mirrored."""
    from scipy import ndimage

    return np.clip(ndimage.gaussian_filter(x, sigma=(0, width, width, 0)), 0, 1)


def nearest(x: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """Each pixel that is `hidden` [N, H, W, 1] takes the value of the nearest visible one.

    An image without a visible pixel is unchanged.
    """
    from scipy import ndimage

    made = x.copy()
    for image, mask in zip(made, hidden[..., 0] == 1, strict=True):
        if mask.any() and not mask.all():
            rows, columns = ndimage.distance_transform_edt(mask, return_distances=False, return_indices=True)
            image[:] = image[rows, columns]
    return made


def biharmonic(x: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """The part that is `hidden` [N, H, W, 1] is the solution of the biharmonic equation, Δ² r = 0, that continues the
    visible part; scikit-image's inpaint_biharmonic, Damelin & Hoang (2018).

    An image without a visible pixel is unchanged.
    """
    from skimage.restoration import inpaint_biharmonic

    made = x.copy()
    for image, mask in zip(made, hidden[..., 0] == 1, strict=True):
        if mask.any() and not mask.all():
            image[:] = np.where(mask[..., None], inpaint_biharmonic(image, mask, channel_axis=-1), image)
    return np.clip(made, 0, 1)


def mean_colour(grey: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Grey images in three equal channels plus the mean difference of colour and grey, `offset` [3]."""
    return np.clip(grey + offset[None, None, None], 0, 1)
