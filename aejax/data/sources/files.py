"""Files in a folder: their order, their splits and their classes."""

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from aejax.data.sources.tables import labels
from aejax.errors import FieldError, InputError

TRAIN, TEST = ("train", "training"), ("test", "testing")  # names of folders, upper or lower case
VALIDATION = ("val", "valid", "validation", "dev")


class Files(NamedTuple):
    """The files of a split."""

    paths: Sequence[Path]
    names: Sequence[str]  # paths relative to the folder of the source
    classes: np.ndarray | None  # labels [N], if there is one sub-folder per class
    notes: tuple[str, ...] = ()  # what was left out


def find(
    root: Path,
    config: ConfigDict,
    suffixes: Sequence[str],
    what: str,
    *,
    beside: Collection[str] = (),
    inside: Collection[str] = (),
) -> dict[str, Files]:
    """The files with these suffixes, in the order of their paths: {"": all}, or {"train": ..., "test": ...}.

    `root` holds files or one sub-folder per class, or two such folders, train and test; or it is one file. Folders of
    the names `beside` are left out; next to them the files may lie in a folder with one of the names `inside`. `what`:
    the files in error messages. Raises InputError.
    """
    if root.is_file() and root.suffix.lower() in suffixes:
        return {"": Files([root], [root.name], None)}
    if not root.is_dir():
        raise FieldError("data.source", config.data.source, "no such file or folder")
    folders = {path.name.lower(): path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")}
    train, test = ([folders[name] for name in names if name in folders] for names in (TRAIN, TEST))
    left = [path.name for name, path in folders.items() if name in beside]
    others = [path.name for name, path in folders.items() if name not in (*TRAIN, *TEST, *beside)]
    notes = (f"left out: {', '.join(left)}",) if left else ()
    if len(train) == len(test) == 1 and not others:
        found = {
            "train": _split(root, train[0], suffixes, what, notes),
            "test": _split(root, test[0], suffixes, what),
        }
        if (found["train"].classes is None) != (found["test"].classes is None):
            raise InputError(f"{root}: one of train and test has a sub-folder for each class and the other has not")
        return found
    if (train and test) or (train and all(name.lower() in VALIDATION for name in others)):
        raise InputError(
            f"{root}: holds {', '.join(sorted(path.name for path in folders.values()))}; must hold train and test and "
            "no other folder; config.data.validation_fraction holds out validation examples from train"
        )
    if left and len(others) == 1 and others[0].lower() in inside:
        return {"": _split(root, root / others[0], suffixes, what, notes)}
    if left:
        allowed = f"holds {', '.join(left)} beside {', '.join(others)}: name the folder of the {what}"
        raise FieldError("data.source", config.data.source, allowed)
    return {"": _split(root, root, suffixes, what)}


def _split(root: Path, folder: Path, suffixes: Sequence[str], what: str, notes: tuple[str, ...] = ()) -> Files:
    visible = [
        path for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]  # fmt: skip
    found = [path for path in visible if path.suffix.lower() in suffixes]
    if not found:
        raise InputError(f"{folder}: no file that ends in {', '.join(suffixes)}")
    if left := Counter(path.suffix or path.name for path in visible if path.suffix.lower() not in suffixes):
        notes += (f"left out in {folder.name}: " + ", ".join(f"{n} {suffix}" for suffix, n in sorted(left.items())),)
    paths = sorted(found, key=lambda path: path.relative_to(root).as_posix())
    depths = {len(path.relative_to(folder).parts) for path in paths}
    if len(depths) > 1 and 1 in depths:
        raise InputError(f"{folder}: holds {what} beside sub-folders of {what}; give every class a folder, or no class")
    classes = None if depths == {1} else labels([path.relative_to(folder).parts[0] for path in paths])
    return Files(paths, [path.relative_to(root).as_posix() for path in paths], classes, notes)
