"""Images that are read when they are asked for, and brought to one size; a folder of them."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image, ImageOps

from aejax.config import fail
from aejax.data import lazy
from aejax.data.tables import labels
from aejax.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg")
VALIDATION = ("val", "valid", "validation", "dev")  # what others call such a folder
GREY = "1", "L", "LA", "La"  # Pillow's modes; of palettes and all others the colours are taken
DEEP = "I;16", "I;16L", "I;16B", "I;16N", "I", "F"  # Pillow's modes of more than 8 bits


@dataclasses.dataclass(frozen=True)
class Part:
    """A split whose images are read when they are asked for."""

    n: int
    read: Callable[[Sequence[int]], tuple[list[np.ndarray], list[str]]]  # rows -> images [H, W, C], and their names
    y: np.ndarray | None = None
    colour: Callable[[], bool] = lambda: False  # whether an image is known to be in colour, before it is read


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
        raw |= {name: _colour(x) for name, x in images.items()}
    return raw


def streamed(parts: dict[str, Part], config: ConfigDict) -> dict[str, Any]:
    """The same, of images that are read when they are asked for."""
    raw: dict[str, Any] = {}
    firsts = {name: stack(*part.read([0]), config) for name, part in parts.items()}
    channels = 3 if any(part.colour() for part in parts.values()) else max(x.shape[-1] for x in firsts.values())
    for name, part in parts.items():
        end = name and f"_{name}"
        shape = (*firsts[name].shape[1:3], channels)
        raw[f"x{end}"] = lazy.Lazy(_reader(part, shape, config), np.arange(part.n), shape, np.uint8)
        if part.y is not None:
            raw[f"y{end}"] = part.y
    return raw


def _reader(part: Part, shape: tuple[int, ...], config: ConfigDict) -> lazy.Read:
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

    Where some are grey and some in colour, the grey ones get three equal channels.
    """
    size = config.data.image_size
    if size is not None:
        images = [_resized(image, tuple(size)) for image in images]
    if {image.shape[-1] for image in images} == {1, 3}:
        images = [_colour(image) for image in images]
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


def _size(image: np.ndarray) -> str:
    height, width, channels = image.shape
    return f"{height} x {width} pixels of {channels} channels"


# --- a folder ----------------------------------------------------------------------------------------


def folder(argument: str, config: ConfigDict) -> dict[str, Part]:
    """PNG and JPEG files of a folder, or of its sub-folders, one for each class; or train/ and test/ of such.

    In the order of the files' names, whatever their class; of equal names, of their classes.
    """
    root = Path(argument)
    if not root.is_dir():
        raise fail("data.source", config.data.source, "no such folder")
    inside = {path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")}
    if "train" in inside and inside != {"train", "test"} and inside <= {"train", "test", *VALIDATION}:
        raise InputError(
            f"{root}: holds {', '.join(sorted(inside))}; splits are train and test, both, "
            "and config.data.validation_fraction takes validation from train"
        )
    if inside == {"train", "test"}:
        parts = {name: _part(root / name) for name in ("train", "test")}
        if (parts["train"].y is None) != (parts["test"].y is None):
            raise InputError(f"{root}: one of train and test has a sub-folder for each class and the other has not")
        return parts
    return {"": _part(root)}


def _part(root: Path) -> Part:
    found = [
        path for path in root.rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]  # fmt: skip
    if not found:
        raise InputError(f"{root}: no file that ends in {', '.join(SUFFIXES)}")
    files = sorted(found, key=lambda path: (path.name, path))
    depths = {len(path.relative_to(root).parts) for path in files}
    if len(depths) > 1 and 1 in depths:
        raise InputError(f"{root}: holds images beside sub-folders of images; give each class a folder, or none")
    classes = None if depths == {1} else labels([path.relative_to(root).parts[0] for path in files])

    def read(rows: Sequence[int]) -> tuple[list[np.ndarray], list[str]]:
        chosen = [files[row] for row in rows]
        with ThreadPoolExecutor() as pool:
            return list(pool.map(_read, chosen)), [str(path) for path in chosen]

    def colour() -> bool:
        with ThreadPoolExecutor() as pool:
            return any(pool.map(_in_colour, files))

    return Part(len(files), read, classes, colour)


def _in_colour(path: Path) -> bool:
    """By the file's header alone; raises InputError."""
    with _opened(path) as file:
        return file.mode not in GREY


def _read(path: Path) -> np.ndarray:
    """An image file as uint8 [H, W, 1 or 3], turned as its EXIF orientation says; raises InputError."""
    with _opened(path) as file:
        image = ImageOps.exif_transpose(file)
        if image.mode in DEEP:
            raise InputError(f"{path}: has more than 8 bits a channel (mode {image.mode}); convert it to 8")
        if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema() != (255, 255):
            raise InputError(f"{path}: is transparent in places; save it without transparency")
        grey = image.mode in GREY
        x = np.asarray(image.convert("L" if grey else "RGB"))
    return x[..., None] if grey else x


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as file:
            yield file
    except InputError:
        raise
    except Exception as error:  # Pillow's plug-ins raise what they like for a damaged file
        raise InputError(f"{path}: cannot be read as an image: {' '.join(str(error).split())}") from error
