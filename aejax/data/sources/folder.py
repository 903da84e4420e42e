"""Image files: those in a folder, those listed in a CSV file, or a single one."""

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image, ImageOps

from aejax.data.sources.arrow import Table, listed
from aejax.data.sources.images import Part, arrays, streamed
from aejax.data.sources.tables import labels, text_batches
from aejax.errors import FieldError, InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif")
TRAIN, TEST = ("train", "training"), ("test", "testing")  # names of folders, upper or lower case
VALIDATION = ("val", "valid", "validation", "dev")
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
    if root.is_file() and root.suffix.lower() in SUFFIXES:
        return {"": _of_files([root], [root.name], None, config, ())}
    if root.is_file():
        return {"": _of_table(root, config)}
    if not root.is_dir():
        raise FieldError("data.source", config.data.source, "no such file or folder")
    inside = {path.name.lower(): path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")}
    train, test = ([inside[name] for name in names if name in inside] for names in (TRAIN, TEST))
    masks = [path.name for name, path in inside.items() if name in MASKS]
    others = [path.name for name, path in inside.items() if name not in (*TRAIN, *TEST, *MASKS)]
    if len(train) == len(test) == 1 and not others:
        notes = (f"left out: {', '.join(masks)}",) if masks else ()
        found = {"train": _part(root, train[0], config, notes), "test": _part(root, test[0], config)}
        if (found["train"].y is None) != (found["test"].y is None):
            raise InputError(f"{root}: one of train and test has a sub-folder for each class and the other has not")
        return found
    if (train and test) or (train and all(name.lower() in VALIDATION for name in others)):
        raise InputError(
            f"{root}: holds {', '.join(sorted(path.name for path in inside.values()))}; must hold train and test and "
            "no other folder; config.data.validation_fraction holds out validation examples from train"
        )
    if masks and len(others) == 1 and others[0].lower() in IMAGES:
        return {"": _part(root, root / others[0], config, (f"left out: {', '.join(masks)}",))}
    if masks:
        allowed = f"holds {', '.join(masks)} beside {', '.join(others)}: name the folder of the images"
        raise FieldError("data.source", config.data.source, allowed)
    return {"": _part(root, root, config)}


def is_reordered(found: dict[str, Part]) -> bool:
    """Whether runs of format 1, which sorted images by their base names, read these in another order."""
    return any(
        list(part.names) != sorted(part.names, key=lambda name: (Path(name).name, name)) for part in found.values()
    )


def _part(root: Path, folder: Path, config: ConfigDict, notes: tuple[str, ...] = ()) -> Part:
    visible = [
        path for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]  # fmt: skip
    found = [path for path in visible if path.suffix.lower() in SUFFIXES]
    if not found:
        raise InputError(f"{folder}: no file that ends in {', '.join(SUFFIXES)}")
    if left := Counter(path.suffix or path.name for path in visible if path.suffix.lower() not in SUFFIXES):
        notes += (f"left out in {folder.name}: " + ", ".join(f"{n} {suffix}" for suffix, n in sorted(left.items())),)
    files = sorted(found, key=lambda path: path.relative_to(root).as_posix())
    depths = {len(path.relative_to(folder).parts) for path in files}
    if len(depths) > 1 and 1 in depths:
        raise InputError(f"{folder}: holds images beside sub-folders of images; give every class a folder, or no class")
    classes = None if depths == {1} else labels([path.relative_to(folder).parts[0] for path in files])
    return _of_files(files, [path.relative_to(root).as_posix() for path in files], classes, config, notes)


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
    files = [path.parent / name for name in names]
    for file in files:
        if not file.is_file():
            raise InputError(f"{path}: column {column} names {file}, which does not exist")
    return _of_files(files, names, labels(values) if label else None, config, (f"paths of the column {column}",))


def _of_files(
    files: Sequence[Path], names: Sequence[str], classes: np.ndarray | None, config: ConfigDict, notes: tuple[str, ...]
) -> Part:
    background = config.data.background

    def read(rows: Sequence[int]) -> tuple[list[np.ndarray], list[str]]:
        chosen = [files[row] for row in rows]
        with ThreadPoolExecutor() as pool:
            return list(pool.map(lambda path: _read(path, background), chosen)), [str(path) for path in chosen]

    def colour() -> bool:
        with ThreadPoolExecutor() as pool:
            return any(pool.map(_in_colour, files))

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
