"""Images written to a folder under the names of their inputs; the folder appears only when it is complete."""

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from PIL import Image

from aejax.errors import InputError


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[Any]:
    """Context manager that gives write(ids, images [n, H, W, 1 or 3] in [0, 1]) to PNG files of 8 bits in a new folder.

    An image is written as `png_name(id)`. After an error there is no folder; a killed process leaves `.NAME.tmp`, which
    the next one to the same folder replaces. Raises InputError.
    """
    folder = Path(path)
    check(folder)
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
    try:
        with contextlib.ExitStack() as stack:
            stack.callback(shutil.rmtree, temporary, ignore_errors=True)
            temporary.mkdir()

            def write(ids: Sequence[Any], x: np.ndarray) -> None:
                for name, image in zip(ids, np.round(255 * np.clip(x, 0, 1)).astype(np.uint8), strict=True):
                    file = temporary / png_name(name)
                    file.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file)

            yield write
            os.replace(temporary, folder)
    except OSError as error:
        raise InputError(f"--output={folder}: cannot be written: {error.strerror or error}") from error


def check(folder: Path) -> None:
    """Raise InputError unless a folder can be made at this path."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"--output={folder}: exists; name a folder that is new or empty")
    if not folder.parent.is_dir():
        raise InputError(f"--output={folder}: cannot be written: there is no folder {folder.parent}")


def png_name(name: Any) -> str:
    """The file of an image: that of its input with the suffix .png, or of row k `k.png`."""
    return str(PurePath(name).with_suffix(".png")) if isinstance(name, str) else f"{name}.png"


def check_names(names: Sequence[Any], flag: str) -> None:
    """Raise InputError if a file would leave the folder, or two of them have one name."""
    files: dict[str, Any] = {}
    for name in names:
        file = png_name(name)
        if PurePath(file).is_absolute() or ".." in PurePath(file).parts:
            raise InputError(f"{flag}: the image {name} lies outside the folder of its list, so no output can be named")
        if file in files:
            raise InputError(
                f"{flag}: {files[file]} and {name} would both be written as {file}; rename one, or write .npz"
            )
        files[file] = name
