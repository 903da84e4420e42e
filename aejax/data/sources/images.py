"""Images of files, read all at once or on demand, and resized to one size."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from aejax.data import lazy
from aejax.errors import InputError
from aejax.fields import Allowed, Field

SIZE = Allowed(
    "be (height, width), integers of at least 1",
    lambda size: size is None or (len(size) == 2 and all(type(n) is int and n >= 1 for n in size)),
)
BACKGROUND = Allowed(
    "be one grey value or (red, green, blue), integers from 0 to 255",
    lambda c: c is None or (len(c) in (1, 3) and all(type(n) is int and 0 <= n <= 255 for n in c)),
)


@dataclasses.dataclass(frozen=True)
class Fields:
    image_size: Annotated[
        tuple | None,
        Field("images, tfds: (height, width) in pixels to which images are resized; null = unchanged", SIZE),
    ] = None
    background: Annotated[
        tuple | None,
        Field(
            "images: grey or (red, green, blue), 0 to 255, behind transparent pixels; null = refuse such images",
            BACKGROUND,
        ),
    ] = None
    path_column: Annotated[
        str, Field('images:FILE.csv: column of the paths, relative to the file; "" = detected and reported')
    ] = ""


@dataclasses.dataclass(frozen=True)
class Part:
    """A split whose images are read on demand."""

    names: Sequence[Any]  # of the images: paths in the folder, or numbers
    read: Callable[[Sequence[int]], tuple[list[np.ndarray], list[str]]]  # rows -> images [H, W, C], and their names
    y: np.ndarray | None = None
    colour: Callable[[], bool] = lambda: False  # whether any image is in colour, if known before reading
    notes: tuple[str, ...] = ()  # what was left out or decided

    @property
    def n(self) -> int:
        return len(self.names)


def arrays(parts: dict[str, Part], config: ConfigDict) -> dict[str, Any]:
    """Every image of every part: {x, y}, or {x_train, y_train, x_test, y_test}."""
    raw: dict[str, Any] = {}
    for name, part in parts.items():
        end = name and f"_{name}"
        raw[f"x{end}"] = stack(*part.read(range(part.n)), config)
        if part.y is not None:
            raw[f"y{end}"] = part.y
    images = {name: x for name, x in raw.items() if name.startswith("x")}
    if {x.shape[-1] for x in images.values()} == {1, 3}:
        images = {name: _colour(x) for name, x in images.items()}
    if len({x.dtype for x in images.values()}) > 1:
        images = {name: _floats(x) for name, x in images.items()}
    return raw | images | {"notes": [note for part in parts.values() for note in part.notes]}


def streamed(parts: dict[str, Part], config: ConfigDict) -> dict[str, Any]:
    """The same, with images that are read on demand."""
    raw: dict[str, Any] = {"notes": [note for part in parts.values() for note in part.notes]}
    firsts = {name: stack(*part.read([0]), config) for name, part in parts.items()}
    channels = 3 if any(part.colour() for part in parts.values()) else max(x.shape[-1] for x in firsts.values())
    dtype = np.promote_types(np.uint8, max((x.dtype for x in firsts.values()), key=lambda dtype: dtype.itemsize))
    for name, part in parts.items():
        end = name and f"_{name}"
        shape = (*firsts[name].shape[1:3], channels)
        raw[f"x{end}"] = lazy.Lazy(_reader(part, shape, dtype, config), np.arange(part.n), shape, dtype)
        if part.y is not None:
            raw[f"y{end}"] = part.y
    return raw


def _reader(part: Part, shape: tuple[int, ...], dtype: Any, config: ConfigDict) -> lazy.Read:
    def read(rows: np.ndarray) -> np.ndarray:
        images, names = part.read(rows.tolist())
        if shape[-1] == 3:
            images = [_colour(image) for image in images]
        for image, name in zip(images, names, strict=True):
            if image.shape[-1] != shape[-1]:
                raise InputError(
                    f"{name}: is in colour, and the first image is grey; config.data.resident=true takes both"
                )
        x = stack(images, names, config)
        if x.dtype != dtype:
            if dtype == np.uint8:
                raise InputError(
                    f"{names[0]}: has 16 bits, and the first image 8; config.data.resident=true takes both"
                )
            x = _floats(x)
        if x.shape[1:] != shape:
            raise InputError(
                f"{names[0]}: is {_size(x[0])}, and the first image is {_size(np.empty(shape))}; "
                "set config.data.image_size=HEIGHT,WIDTH to bring all to one size"
            )
        return x

    return read


def batches(parts: dict[str, Part], config: ConfigDict, rows: int, channels: int) -> Iterator[np.ndarray]:
    """The images of the parts, one part after the other, `rows` at a time; grey ones repeated for 3 channels."""
    for part in parts.values():
        for begin in range(0, part.n, rows):
            x = stack(*part.read(range(begin, min(begin + rows, part.n))), config)
            yield _colour(x) if channels == 3 else x


def stack(images: list[np.ndarray], names: list[str], config: ConfigDict) -> np.ndarray:
    """Images [H, W, C] -> [N, H, W, C] of the size that config.data.image_size gives; raises InputError.

    Where some are grey and some in colour, the grey ones get three equal channels. Where some have 16 bits, all become
    floats in [0, 1].
    """
    size = config.data.image_size
    if size is not None:
        images = [_resized(image, tuple(size)) for image in images]
    if {image.shape[-1] for image in images} == {1, 3}:
        images = [_colour(image) for image in images]
    if len({image.dtype for image in images}) > 1:
        images = [_floats(image) for image in images]
    for image, name in zip(images, names, strict=True):
        if image.shape != images[0].shape:
            raise InputError(
                f"{name}: is {_size(image)}, and {names[0]} is {_size(images[0])}; "
                "set config.data.image_size=HEIGHT,WIDTH to bring all to one size"
            )
    return np.stack(images)


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear, with the filter widened where the image shrinks."""
    if image.shape[:2] == size:
        return image
    channels = [
        Image.fromarray(image[..., k]).resize(size[::-1], Image.Resampling.BILINEAR) for k in range(image.shape[-1])
    ]
    return np.stack([np.asarray(channel) for channel in channels], axis=-1)


def _colour(x: np.ndarray) -> np.ndarray:
    return np.repeat(x, 3, axis=-1) if x.shape[-1] == 1 else x


def _floats(x: np.ndarray) -> np.ndarray:
    """Images of 8 bits on the scale of those of 16 bits, [0, 1]."""
    return x / np.float32(255) if x.dtype == np.uint8 else x


def _size(image: np.ndarray) -> str:
    height, width, channels = image.shape
    return f"{height} x {width} pixels of {channels} channels"
