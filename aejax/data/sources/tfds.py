"""Sets of TensorFlow Datasets, read without TensorFlow."""

import importlib.util
import queue
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from aejax.data.sources.images import Part, arrays, streamed
from aejax.data.sources.tables import labels
from aejax.errors import FieldError, InputError

INSTEAD = "or give the images by images:DIR or npz:FILE, or MNIST's four files by idx:DIR"
HOST = ("storage.googleapis.com", 443)  # where most sets are
TOGETHER = 256  # examples per read: five times as fast as single reads
PATIENCE = 3.0  # seconds that the host has to answer


def read(argument: str, config: ConfigDict) -> dict[str, Any]:
    """Every image of the set: {x, y}, or {x_train, y_train, x_test, y_test}."""
    return arrays(parts(argument, config), config)


def read_streamed(argument: str, config: ConfigDict) -> dict[str, Any]:
    """The same, with images that are read on demand."""
    return streamed(parts(argument, config), config)


def parts(argument: str, config: ConfigDict) -> dict[str, Part]:
    """NAME[@DATA_DIR]: the features `image` and, where there is one, `label` of the splits train and test."""
    import tensorflow_datasets as tfds

    name, _, data_dir = argument.partition("@")
    folder = {"data_dir": str(Path(data_dir).expanduser())} if data_dir else {}
    try:
        builder = tfds.builder(name, **folder)
    except tfds.core.DatasetNotFoundError as error:
        hint = next((line.strip() for line in str(error).splitlines() if "Did you mean" in line), "")
        raise FieldError("data.source", config.data.source, f"TFDS has no set {name!r}. {hint}".strip()) from error
    except Exception as error:  # a wrong config or version, and whatever a set's own code raises
        raise FieldError("data.source", config.data.source, f"TFDS: {_line(error)}") from error
    if not (builder.data_path / "dataset_info.json").exists():
        _prepare(builder, config)
    features, splits = builder.info.features, builder.info.splits
    if "image" not in features:
        raise FieldError(
            "data.source", config.data.source, f"has no feature image; its features: {', '.join(features)}"
        )
    if "train" not in splits:
        raise FieldError("data.source", config.data.source, f"has no split train; its splits: {', '.join(splits)}")
    found = {"train": "train", "test": "test"} if "test" in splits else {"": "train"}
    return {end: _part(builder, split, config) for end, split in found.items()}


def _part(builder: Any, split: str, config: ConfigDict) -> Part:
    import tensorflow_datasets as tfds

    features = builder.info.features
    skipped = {name: tfds.decode.SkipDecoding() for name in features if name not in ("image", "label")}
    try:
        source = builder.as_data_source(split=split, decoders=skipped)
        undecoded = builder.as_data_source(split=split, decoders=skipped | {"image": tfds.decode.SkipDecoding()})
        y = None
        if "label" in features:
            names = getattr(features["label"], "names", None)
            numbers = [int(example["label"]) for example in _examples(undecoded, range(len(undecoded)))]
            y = labels([names[k] if names and k >= 0 else k for k in numbers])
    except Exception as error:
        raise InputError(
            f"{config.data.source}: cannot be read: {_line(error)}; prepare it with file_format=array_record, {INSTEAD}"
        ) from error

    def read(rows: Sequence[int]) -> tuple[list[np.ndarray], list[str]]:
        names = [f"{config.data.source}: {split}[{row}]" for row in rows]
        try:
            return [np.asarray(example["image"]) for example in _examples(source, rows)], names
        except Exception as error:  # of the file, and of the image in it
            raise InputError(f"{config.data.source}: cannot be read: {_line(error)}") from error

    return Part(range(len(source)), read, y)


def _examples(source: Any, rows: Sequence[int]) -> Iterator[dict[str, Any]]:
    for begin in range(0, len(rows), TOGETHER):
        yield from source.__getitems__(list(rows[begin : begin + TOGETHER]))


def _prepare(builder: Any, config: ConfigDict) -> None:
    """Download a dataset and write it as array_record, which needs TensorFlow and a network.

    Raises InputError at once if either is missing: the download itself would retry for minutes.
    """
    import tensorflow_datasets as tfds

    where = f"is not prepared in {builder.data_path.parent.parent}, and preparing it needs"
    if importlib.util.find_spec("tensorflow") is None:
        raise FieldError("data.source", config.data.source, f"{where} TensorFlow: pip install tensorflow, {INSTEAD}")
    if not _reachable():
        raise FieldError("data.source", config.data.source, f"{where} a network: {HOST[0]} does not answer; {INSTEAD}")
    try:
        builder.download_and_prepare(file_format=tfds.core.FileFormat.ARRAY_RECORD)
    except Exception as error:
        raise FieldError("data.source", config.data.source, f"cannot be prepared: {_line(error)}; {INSTEAD}") from error


def _reachable() -> bool:
    """Whether the host answers within PATIENCE seconds, the name lookup included."""
    answer: queue.Queue[bool] = queue.Queue()

    def connect() -> None:
        try:
            socket.create_connection(HOST, PATIENCE).close()
            answer.put(True)
        except OSError:
            answer.put(False)

    threading.Thread(target=connect, daemon=True).start()
    try:
        return answer.get(timeout=PATIENCE)
    except queue.Empty:
        return False


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
