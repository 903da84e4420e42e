"""Restore damaged images as they are: a denoising, inpainting or colourising model."""

from typing import Any

import numpy as np

from aejax.errors import InputError
from aejax.trained import Trained

TASKS = ("denoise", "inpaint", "colorize")  # pairs whose input is a damaged image


def restore(trained: Trained, x: Any, mask: Any = None) -> np.ndarray:
    """Restored images [N, H, W, C] in [0, 1] of damaged ones, x [N, H, W(, C)]; nothing is added to x.

    x: uint8, or floats in [0, 1]; a denoising model takes floats beyond, as additive noise makes them. A colourising
    model takes grey images; others are turned grey first. mask [N, H, W] or [H, W], for an inpainting model and only
    for it: 1 = hidden. Hidden values of x are ignored, visible ones are kept. A conditional model decodes the mean of
    its prior. Raises InputError.
    """
    check(trained, mask is not None, "mask")
    return of_taken(trained, take(trained, x), mask)


def check(trained: Trained, masked: bool, name: str) -> None:
    """Raise InputError unless the model restores images, with a mask if `masked`; `name`: that of the mask."""
    pair = trained.config.pair.name
    if pair not in TASKS or trained.objective.pair.supervised or trained.spec.x.kind != "image":
        raise InputError(
            f"restored: needs a model of images with config.pair.name = {', '.join(TASKS[:2])} or {TASKS[2]}, such as "
            f"those of --config=denoising, inpainting and colorization; this one has {pair!r} on "
            f"{trained.spec.x.kind} data; reconstructions work with any model"
        )
    if masked and pair != "inpaint":
        raise InputError(f"{name}: is for a model with config.pair.name = 'inpaint'; this one has {pair!r}")
    if not masked and pair == "inpaint":
        example = "--mask=images:FOLDER" if name.startswith("--") else "restore(x, mask)"
        raise InputError(f"{name}: an inpainting model needs the hidden part of each image, white = hidden: {example}")


def take(trained: Trained, x: Any) -> np.ndarray:
    """Damaged images -> the model's images. Noise may lead beyond [0, 1]. Raises InputError."""
    x = np.asarray(x)
    if trained.config.pair.name != "denoise" or x.dtype.kind != "f" or not np.isfinite(x).all():
        return np.asarray(trained.take(x))
    inside = np.clip(x, 0, 1)
    return np.asarray(x, np.float32).reshape(np.asarray(trained.take(inside)).shape)


def of_taken(trained: Trained, x: np.ndarray, mask: Any = None) -> np.ndarray:
    """`restore` for images as the model takes them."""
    x = x / np.float32(255) if x.dtype == np.uint8 else x
    if mask is None:
        return trained.map(trained.pure_restore, x)
    mask = np.asarray(mask)
    shapes = (x.shape[:3], x.shape[1:3])
    if mask.shape not in shapes or not np.isin(mask, (0, 1)).all():
        raise InputError(f"mask: must be 0 or 1 in shape {shapes[0]} or {shapes[1]}, found shape {mask.shape}")
    hidden = np.broadcast_to(mask.astype(np.float32), x.shape[:3])[..., None]
    return trained.map(trained.pure_restore, np.concatenate([x, hidden], -1))
