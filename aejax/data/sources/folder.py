"""Image files: those in a folder, those listed in a CSV file, or a single one."""

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image, ImageOps

from aejax.data.sources.arrow import Table, listed
from aejax.data.sources.files import find
from aejax.data.sources.images import Part, arrays, streamed
from aejax.data.sources.tables import labels, text_batches
from aejax.errors import FieldError, InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif")
MASKS = ("ground_truth", "masks", "mask", "annotations", "segmentations")  # folders of label maps beside images
IMAGES = ("images", "image", "imgs")
PATHS = ("path", "file", "filename", "image", "image_path", "img")  # names of a column of paths
GREY = "1", "L", "LA", "La"  # Pillow's modes; palettes and all other modes are read as colour
DEEP = "I;16", "I;16L", "I;16B", "I;16N", "I"  # Pillow's modes of grey images of 16 bits


def read(argument: str, config: ConfigDict) -> dict[str, Any]:
    """Every image: {x, y}, or {x_train, y_train, x_test, y_test}."""
    return arrays(parts(argument, config), config)


def read_streamed(argument: str, config: ConfigDict) -> dict[str, Any]:
    """The same, with images that are read on demand."""
    return streamed(parts(argument, config), config)


def parts(argument: str, config: ConfigDict) -> dict[str, Part]:
    """The images of a folder in the order of their paths, those that a CSV file lists in its order, or one image.

    A folder holds images or one sub-folder per class, or two such folders, train and test. Masks are left out.
    """
    root = Path(argument)
    if root.is_file() and root.suffix.lower() not in SUFFIXES:
        return {"": _of_table(root, config)}
    found = find(root, config, SUFFIXES, "images", beside=MASKS, inside=IMAGES)
    return {name: _of_files(*part, config) for name, part in found.items()}


def is_reordered(found: dict[str, Part]) -> bool:
    """Whether runs of format 1, which sorted images by their base names, read these in another order."""
    return any(
        list(part.names) != sorted(part.names, key=lambda name: (Path(name).name, name)) for part in found.values()
    )


def _of_table(path: Path, config: ConfigDict) -> Part:
    """The images that a CSV or parquet file lists, in its order; labels from config.data.label_column."""
    source = ConfigDict(config.to_dict())
    source.data.source = f"csv:{path}"
    table = Table(str(path), source)
    column, label = config.data.path_column, config.data.label_column
    if not column:
        column = next((name for name in table.names if name.lower() in PATHS), "")
    for field, name in (("path_column", column), ("label_column", label)):
        if (name or field == "path_column") and name not in table.names:
            allowed = f"must be a column of {path}: {listed(table.names)}"
            raise FieldError(f"data.{field}", name, allowed)
    names: list[str] = []
    values: list[str] = []
    for batch in text_batches(table, [column, *([label] if label else [])]):
        names += batch[0]
        values += batch[1] if label else []
    paths = [path.parent / name for name in names]
    for file in paths:
        if not file.is_file():
            raise InputError(f"{path}: column {column} names {file}, which does not exist")
    return _of_files(paths, names, labels(values) if label else None, (f"paths of the column {column}",), config)


def _of_files(
    paths: Sequence[Path], names: Sequence[str], classes: np.ndarray | None, notes: tuple[str, ...], config: ConfigDict
) -> Part:
    background = config.data.background

    def read(rows: Sequence[int]) -> tuple[list[np.ndarray], list[str]]:
        chosen = [paths[row] for row in rows]
        with ThreadPoolExecutor() as pool:
            return list(pool.map(lambda path: _read(path, background), chosen)), [str(path) for path in chosen]

    def colour() -> bool:
        with ThreadPoolExecutor() as pool:
            return any(pool.map(_in_colour, paths))

    return Part(names, read, classes, colour, notes)


def _in_colour(path: Path) -> bool:
    """Whether an image is in colour, by its header alone; raises InputError."""
    with _opened(path) as file:
        return file.mode not in GREY + DEEP


def _read(path: Path, background: Sequence[int] | None) -> np.ndarray:
    """The first frame of an image file, rotated by its EXIF orientation; raises InputError.

    uint8 [H, W, 1 or 3]; float32 [H, W, 1] in [0, 1] for a 16-bit grey image.
    """
    with _opened(path) as file:
        image = ImageOps.exif_transpose(file)
        if image.mode in DEEP:
            deep = np.asarray(image).astype(np.int64)
            if deep.min() < 0 or deep.max() > 65535:
                raise InputError(f"{path}: holds values beyond 16 bits; convert it to 8 or 16 bits")
            return (deep / np.float32(65535)).astype(np.float32)[..., None]
        if image.mode == "F":
            raise InputError(f"{path}: holds floats; convert it to 8 or 16 bits, or give npy:FILE")
        if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema() != (255, 255):
            if background is None:
                raise InputError(
                    f"{path}: is transparent in places; put a colour behind it, or train with "
                    "config.data.background=255,255,255"
                )
            colour = tuple(background) if len(background) == 3 else (background[0],) * 3
            behind = Image.new("RGBA", image.size, (*colour, 255))
            image, grey = Image.alpha_composite(behind, image.convert("RGBA")), image.mode in GREY
            x = np.asarray(image.convert("L" if grey and len(set(colour)) == 1 else "RGB"))
            return x[..., None] if x.ndim == 2 else x
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
    except Exception as error:  # Pillow's plug-ins raise any exception for a damaged file
        raise InputError(f"{path}: cannot be read as an image: {' '.join(str(error).split())}") from error
