"""Rows of a source as the model takes them, one batch at a time and in order: an input may be larger than memory."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from aejax.data import bags, images, sources, tables, tfds
from aejax.data.dataset import SPLITS, Spec, members
from aejax.errors import InputError

VALUES = 2**21  # of the rows of a batch
ROWS = 1024  # a batch is a multiple of it, or smaller


@dataclasses.dataclass(frozen=True)
class Request:
    """What a reader is asked for; `config` is the run's, but for the source."""

    argument: str
    config: ConfigDict
    spec: Spec
    take: Callable[[Any], Any]  # raw examples -> as the model takes them; raises InputError
    size: int  # examples in a batch, or a little more or less


@dataclasses.dataclass(frozen=True)
class Rows:
    """Examples in batches; `split`: those of the source's training, then of its test split."""

    batches: Iterator[Any]
    split: bool = False


def read(source: str, config: ConfigDict, spec: Spec, take: Callable[[Any], Any], split: str = "all") -> Iterator[Any]:
    """Batches of the examples of `source`, written as config.data.source, for the run of `config` and `spec`.

    Of a table in a file with names, the run's columns in the run's order; others, such as labels, are left out.
    `split` other than "all" leaves the run's own training, validation or test examples: of its own source only.
    Raises InputError, for a bad row once it is reached.
    """
    if split not in ("all", *SPLITS):
        raise InputError(f"--split={split}: must be one of all, {', '.join(SPLITS)}")
    if split != "all" and source != config.data.source:
        raise InputError(f"--split={split}: needs the run's own source as --input, {config.data.source}, not {source}")
    if split == "validation" and not spec.validation:
        raise InputError("--split=validation: the run has none, config.data.validation_fraction is 0")
    name, argument = sources.parse(source)
    if (name == "text") > bool(spec.text) or (name in ("csv", "parquet") and spec.text):
        kind = "documents: text:FILE" if spec.text else f"a {spec.kind} of shape {spec.shape}"
        raise InputError(f"--input={source}: this run takes {kind}")
    config = ConfigDict(config.to_dict())
    config.data.source, config.data.resident = source, "true"
    size = max(VALUES // math.prod(spec.shape), 1)
    rows = READERS.get(name, _whole)(Request(argument, config, spec, take, size // ROWS * ROWS or size))
    return _ahead(rows.batches if split == "all" else _chosen(rows, config, spec, split))


def _ahead(batches: Iterator[Any]) -> Iterator[Any]:
    """The same batches, each read while the one before it is used."""
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, batches, None)
        while (batch := following.result()) is not None:
            following = pool.submit(next, batches, None)
            yield batch


def _chosen(rows: Rows, config: ConfigDict, spec: Spec, split: str) -> Iterator[Any]:
    keep = members(config, spec, split=rows.split) == SPLITS.index(split)
    begin = 0
    for batch in rows.batches:
        chosen = np.flatnonzero(keep[begin : begin + batch.shape[0]])
        begin += batch.shape[0]
        if len(chosen):
            yield batch[chosen]
    if begin != len(keep):
        raise InputError(f"{config.data.source}: holds {begin} examples, and held {len(keep)} when the run began")


def _whole(ask: Request) -> Rows:
    """A source that is read as a whole."""
    raw = sources.raw(ask.config)
    parts = [raw[name] for name in ("x", "x_train", "x_test") if name in raw]
    slices = (part[i : i + ask.size] for part in parts for i in range(0, part.shape[0], ask.size))
    return Rows(map(ask.take, slices), len(parts) == 2)


def _npy(ask: Request) -> Rows:
    x = sources.read_npy(ask.argument, ask.config, mmap_mode="r")["x"]
    if not x.ndim:
        raise InputError(f"{ask.argument}: holds one number, no examples")
    return Rows(ask.take(x[i : i + ask.size]) for i in range(0, len(x), ask.size))


def _csv(ask: Request) -> Rows:
    return Rows(map(ask.take, tables.number_batches(ask.argument, ask.config, _columns(ask))))


def _parquet(ask: Request) -> Rows:
    def scale(j: int, values: np.ndarray) -> np.ndarray:
        return ask.spec.scale(values, j)

    names = _columns(ask)
    if ask.spec.kind != "table" or len(names) != ask.spec.shape[0]:
        raise InputError(f"{ask.argument}: a table of {len(names)} columns, and the run takes {ask.spec.shape}")
    return Rows(tables.parquet_batches(ask.argument, ask.config, names, scale, ask.size))


def _columns(ask: Request) -> list[str]:
    """The columns of the run; where it knows no names, all that the file has but the label."""
    found = tables.column_names(ask.argument, ask.config)
    return list(ask.spec.columns) or [name for name in found if name != ask.config.data.label_column]


def _images(ask: Request) -> Rows:
    parts = images.folder(ask.argument, ask.config)
    return Rows(map(ask.take, images.batches(parts, ask.config, ask.size, ask.spec.shape[-1])), len(parts) == 2)


def _tfds(ask: Request) -> Rows:
    parts = tfds.parts(ask.argument, ask.config)
    return Rows(map(ask.take, images.batches(parts, ask.config, ask.size, ask.spec.shape[-1])), len(parts) == 2)


def _text(ask: Request) -> Rows:
    return Rows(map(ask.take, bags.batches(ask.argument, ask.config)))


READERS: dict[str, Callable[[Request], Rows]] = {
    "npy": _npy,
    "csv": _csv,
    "parquet": _parquet,
    "images": _images,
    "tfds": _tfds,
    "text": _text,
}
