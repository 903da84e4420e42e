"""Masks of images, white = hidden, from files that are matched by name."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from aejax.data import sources
from aejax.data.sources import folder, images
from aejax.errors import FieldError, InputError

Masks = Callable[[Sequence[Any]], np.ndarray]  # names of images -> their masks [n, H, W], 1 = hidden


def read(source: str, config: ConfigDict, names: Sequence[Any], shape: Sequence[int], flag: str) -> Masks:
    """The masks of the images `names` of `shape` (H, W, C), from `source`: images:FOLDER, or images:FILE for all.

    A mask has the name of its image, but for the suffix. A pixel of at least half white is hidden. If
    config.data.image_size resizes the mask, every pixel that holds some white is hidden. Raises InputError.
    """
    own = ConfigDict(config.to_dict())
    own.data.source, own.data.background = source, config.data.background or (0,)
    try:
        kind, argument = sources.parse(source)
        if kind != "images":
            raise FieldError("", source, "must be images:FOLDER with a mask for each image, or images:FILE for all")
        parts = folder.parts(argument, own)
    except FieldError as error:
        raise InputError(f"{flag}={source}: {error.allowed}") from error
    places = {name: (part, row) for part in parts.values() for row, name in enumerate(part.names)}
    if PurePath(argument).suffix.lower() in folder.SUFFIXES and Path(argument).is_file():
        one = _mask(next(iter(places.values())), own, shape, flag)
        return lambda ids: np.repeat(one[None], len(ids), axis=0)
    if not names or any(not isinstance(name, str) for name in names):
        raise InputError(f"{flag}={source}: masks are matched by file name, which needs --input=images:FOLDER")
    chosen = dict(zip(names, partners(names, places, f"{flag}={source}"), strict=True))
    return lambda ids: np.stack([_mask(chosen[name], own, shape, flag) for name in ids])


def partners(names: Sequence[str], masks: Mapping[str, Any], flag: str) -> list[Any]:
    """The mask of each image: that whose name is the same but for the suffix. Raises InputError."""
    stems: dict[str, list[str]] = {}
    for mask in masks:
        stems.setdefault(str(PurePath(mask).with_suffix("")), []).append(mask)
    found = [stems.get(str(PurePath(name).with_suffix("")), []) for name in names]
    missing = [name for name, own in zip(names, found, strict=True) if not own]
    if missing:
        more = f" and {len(missing) - 3:,} more" if len(missing) > 3 else ""
        raise InputError(f"{flag}: has no mask for {', '.join(missing[:3])}{more}; a mask has the name of its image")
    for name, own in zip(names, found, strict=True):
        if len(own) > 1:
            raise InputError(f"{flag}: has several masks for {name}: {', '.join(own)}")
    return [masks[own[0]] for own in found]


def _mask(place: tuple[images.Part, int], config: ConfigDict, shape: Sequence[int], flag: str) -> np.ndarray:
    """One mask [H, W] of 0 and 1."""
    part, row = place
    (image,), (name,) = part.read([row])
    resized = images.stack([image], [name], config)[0]
    if resized.shape[:2] != tuple(shape[:2]):
        size, wanted = (" x ".join(map(str, found[:2])) for found in (resized.shape, shape))
        raise InputError(f"{flag}: {name} has {size} pixels; the model's images have {wanted}")
    if resized.shape[-1] == 3 and np.ptp(resized, axis=-1).any():
        raise InputError(f"{flag}: {name} is in colour; a mask is black and white, white = hidden")
    white = resized[..., 0] / (255 if resized.dtype == np.uint8 else 1)
    return (white > 0 if resized.shape != image.shape else white >= 0.5).astype(np.float32)
