"""Compressed files of examples: read a source, write what a file decodes to."""

import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from aejax.data import image_folder, output, stream
from aejax.data.bags import dense
from aejax.errors import FieldError, InputError
from aejax.storage import run_dir
from aejax.trained import Trained
from aejax.uses.compression import codec
from aejax.uses.compression.codec import Form, decompress
from aejax.uses.compression.container import unpack
from aejax.uses.compression.quantizer import Quantizer

ARRAYS, TABLES = (".npz", ".npy"), (".csv", ".parquet")


class Examples(NamedTuple):
    """Examples as the model takes them, and how they were stored."""

    x: Any
    form: Form


def of_array(model: Trained, x: Any) -> Examples:
    """Raw examples [N, ...] in memory; raises InputError."""
    raw = x if sparse.issparse(x) else np.asarray(x)
    if not raw.shape[0]:
        raise InputError("compress: needs one or more examples")
    return Examples(dense(model.take(x)), Form(raw.shape[1:], str(raw.dtype)))


def read(model: Trained, source: str | None, split: str) -> Examples:
    """The examples of a source, or of the run's own; raises InputError."""
    forms: list[Form] = []

    def take(raw: Any) -> Any:
        if not forms:
            shaped = raw if hasattr(raw, "dtype") else np.asarray(raw)
            forms.append(Form(tuple(shaped.shape[1:]), str(shaped.dtype)))
        return model.take(raw)

    name = source or model.config.data.source
    try:
        rows = stream.read(name, model.config, model.spec, take, split)
        parts = list(rows.batches)
    except FieldError as error:
        if error.field != "data.source":
            raise
        raise InputError(f"--input = {error.value!r}: {error.allowed}") from error
    except InputError as error:
        if not str(error).startswith("the input"):
            raise
        said = str(error).removeprefix("the input").removeprefix(": ")
        raise InputError(f"--input = {name!r}: {said}") from error
    if not parts:
        raise InputError("--input: has no rows")
    x = np.concatenate([dense(part.x) for part in parts])
    (form,) = forms or [Form(x.shape[1:], str(x.dtype))]
    ids = [name for part in parts for name in part.ids]
    if ids != list(range(len(x))):
        form = form._replace(
            ids=[int(i) if isinstance(i, int | np.integer) else str(i) for i in ids], id_name=rows.id_name
        )
    return Examples(x, form)


def compress(model: Trained, examples: Examples, quantizer: Quantizer | None, step: float, batch: int) -> bytes:
    """The bytes of a file; raises InputError."""
    return codec.compress(model, *examples, quantizer, step, batch)


def kind(content: bytes) -> str:
    """What a file holds, in words."""
    header, _ = unpack(content, "the file")
    return "without loss" if header["kind"] == codec.LOSSLESS else f"quantised codes of step {header['step']:g}"


def check_file(path: Path) -> None:
    """Raise InputError unless a compressed file can be written to the path."""
    if path.is_dir() or not path.absolute().parent.is_dir():
        reason = "is a folder" if path.is_dir() else f"there is no folder {path.parent}"
        raise InputError(f"--output={path}: cannot be written: {reason}")


def check_output(model: Trained, path: Path) -> None:
    """Raise InputError unless `write` can write to the path."""
    if path.suffix in (*ARRAYS, *TABLES):
        kind = model.spec.x.kind
        if path.suffix in TABLES and kind != "table":
            folder = ", or be a folder" if kind == "image" else ""
            raise InputError(f"--output={path}: must end in .npz or .npy{folder}: the examples are of kind {kind}")
        return output.check(path)
    if model.spec.x.kind != "image":
        raise InputError(f"--output={path}: must end in {', '.join((*ARRAYS, *TABLES))}: the examples are no images")
    if path.suffix:
        raise InputError(f"--output={path}: must end in .npz or .npy, or name a folder that is new or empty")
    image_folder.check(path)


def write(model: Trained, path: Path, x: np.ndarray, form: Form) -> None:
    """Write examples [N, ...] to a file or a folder that appears only when it is complete; raises InputError."""
    if path.suffix in ARRAYS:
        file = io.BytesIO()
        if path.suffix == ".npy":
            np.save(file, x)
        else:
            arrays: dict[str, Any] = {"x": x} | ({} if form.ids is None else {form.id_name: np.array(form.ids)})
            np.savez_compressed(file, **arrays)
        return run_dir.write_output(path, file.getvalue())
    ids = range(len(x)) if form.ids is None else form.ids
    if path.suffix in TABLES:
        with output.opened(path, "x", model.spec.x.outputs, form.id_name) as append:
            append(ids, x.astype(np.float32).reshape(len(x), -1))
        return
    image_folder.check_names(ids, "the file")
    pixels = x.reshape(len(x), *model.spec.x.shape)
    with image_folder.opened(path) as append:
        append(ids, pixels / np.float32(255) if pixels.dtype == np.uint8 else pixels)


__all__ = ["Examples", "check_file", "check_output", "compress", "decompress", "kind", "of_array", "read", "write"]
