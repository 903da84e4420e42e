"""Rows of a source, prepared for the model and read in order, one batch at a time: the input may exceed memory."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from aejax.data import bags, labels, sources
from aejax.data.dataset import SPLITS, members
from aejax.data.sources import arrays, folder, images, parquet, series, tables, text, tfds, waves
from aejax.data.sources.arrow import Table
from aejax.data.spec import Spec
from aejax.data.windows import Part
from aejax.errors import InputError

VALUES = 2**21  # values per batch
DOCUMENTS = ("text", "docstrings")  # sources of texts
ROWS = 1024  # a batch is a multiple of it, or smaller


@dataclasses.dataclass(frozen=True)
class Request:
    """A request to a reader. `config` is the run's, with another source."""

    argument: str
    config: ConfigDict
    spec: Spec
    take: Callable[[Any], Any]  # raw examples -> the model's examples; raises InputError
    size: int  # examples in a batch, or a little more or less
    split: str  # of the run's own source: all | train | validation | test
    share: tuple[int, int]  # (i, n): only batches k with k % n = i are needed; others may have no columns


class Batch(NamedTuple):
    """Examples for the model with their row ids: row numbers, file names, or values of the id column."""

    ids: Sequence[Any]
    x: Any
    part: Part | None = None  # of the windows of a long series: where they lie


@dataclasses.dataclass(frozen=True)
class Rows:
    """Examples in batches."""

    batches: Iterator[Batch]
    id_name: str = "row"  # name of the id column in an output
    notes: Sequence[str] = ()  # what was found in reading; complete after the last batch
    split: bool = False  # whether the source has a test split, whose rows come last
    chosen: bool = False  # whether the rows are those of the split that was asked for already
    names: Sequence[Any] = ()  # of images: ids of all rows, known before they are read


def read(
    source: str,
    config: ConfigDict,
    spec: Spec,
    take: Callable[[Any], Any],
    split: str = "all",
    *,
    flag: str = "--input",
    share: tuple[int, int] = (0, 1),
) -> Rows:
    """The examples of `source`, written as config.data.source, for the run of `config` and `spec`.

    A table with column names gives the run's columns in the run's order; others, such as labels, are left out.
    `split` other than "all" selects the run's training, validation or test examples; it needs the run's own source.
    With share (i, n) every n-th batch, from batch i on. Raises InputError, which names `flag`; for a bad row, when the
    row is reached.
    """
    if split not in ("all", *SPLITS):
        raise InputError(f"--split={split}: must be one of all, {', '.join(SPLITS)}")
    if split != "all" and source != config.data.source:
        raise InputError(f"--split={split}: needs {flag}={config.data.source}, the run's own source, not {source}")
    if split == "validation" and not spec.validation:
        raise InputError("--split=validation: the run has none: its config.data.validation_fraction is 0")
    if source == sources.ARRAY or (split != "all" and config.data.source == sources.ARRAY):
        raise InputError(f"{flag}={source}: the run's data were an array in memory; name a source such as npy:FILE")
    name, argument = sources.parse(source)
    texts = bool(spec.x.text) or spec.x.kind == "tokens"
    if (name in DOCUMENTS) > texts or (name in ("csv", "parquet") and spec.x.text):
        kind = "documents: text:FILE" if texts else f"a {spec.x.kind} of shape {spec.x.shape}"
        raise InputError(f"{flag}={source}: this run takes {kind}")
    own, config = config, ConfigDict(config.to_dict())
    config.data.source, config.data.resident = source, "true"
    size = max(VALUES // math.prod(spec.x.shape), 1)
    rows = READERS.get(name, _whole)(
        Request(argument, config, spec, take, size // ROWS * ROWS or size, split, share if split == "all" else (0, 1))
    )
    batches = rows.batches if split == "all" or rows.chosen else _chosen(rows, own, spec, split)
    batches = _ahead(itertools.islice(batches, share[0], None, share[1]))
    return dataclasses.replace(rows, batches=batches)


def _ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same batches, each read while the one before it is used."""
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, batches, None)
        while (batch := following.result()) is not None:
            following = pool.submit(next, batches, None)
            yield batch


def _chosen(rows: Rows, config: ConfigDict, spec: Spec, split: str) -> Iterator[Batch]:
    kept = None
    if config.data.train_labels:  # the splits depend on the labels, which the batches do not hold
        kept = labels.chosen(sources.raw(config), config.data.train_labels, config.data.source)
    member = members(config, spec, split=rows.split, kept=kept)
    sizes = {name: int((member == i).sum()) for i, name in enumerate(SPLITS)}
    if kept is not None and sizes != (held := {name: getattr(spec, name) for name in SPLITS}):
        raise InputError(f"{config.data.source}: has changed: its splits are {sizes}; they were {held} in the run")
    keep = member == SPLITS.index(split)
    begin = 0
    for batch in rows.batches:
        chosen = np.flatnonzero(keep[begin : begin + len(batch.ids)])
        begin += len(batch.ids)
        if len(chosen):
            yield Batch([batch.ids[int(row)] for row in chosen], batch.x[chosen])
    if begin != len(keep):
        raise InputError(f"{config.data.source}: holds {begin} examples; it held {len(keep)} when the run began")


def _numbered(parts: Iterator[Any]) -> Iterator[Batch]:
    """Batches with row numbers as ids."""
    start = 0
    for x in parts:
        yield Batch(range(start, start + x.shape[0]), x)
        start += x.shape[0]


def _whole(ask: Request) -> Rows:
    """A source that is read as a whole."""
    raw = sources.raw(ask.config)
    parts = [raw[name] for name in ("x", "x_train", "x_test") if name in raw]
    lengths = [len(part) if bags.is_documents(part) else part.shape[0] for part in parts]
    slices = (part[i : i + ask.size] for part, n in zip(parts, lengths, strict=True) for i in range(0, n, ask.size))
    return Rows(_numbered(map(ask.take, slices)), split=len(parts) == 2)


def _npy(ask: Request) -> Rows:
    x = arrays.npy(ask.argument, ask.config, mmap_mode="r")["x"]
    if not x.ndim:
        raise InputError(f"{ask.argument}: holds one number, no examples")
    return Rows(_numbered(ask.take(x[i : i + ask.size]) for i in range(0, len(x), ask.size)))


def _table(ask: Request) -> Rows:
    table, x, ids = Table(ask.argument, ask.config), ask.spec.x, ask.config.data.id_column
    names = list(x.columns) or [name for name in table.names if name not in (ask.config.data.label_column, ids)]
    if x.kind != "table" or len(names) != x.width:
        raise InputError(f"{ask.argument}: has {len(names)} columns; the run takes examples of shape {x.shape}")
    if ids and ids not in table.names:
        table.notes.append(f"rows are numbered: the input has no column {ids}, the run's data.id_column")
        ids = ""
    if table.parquet and not (table.folder or x.categories or x.indicators or ids):  # a wide file in little memory
        return Rows(_numbered(parquet.batches(table, names, x.prepare, ask.size, ask.share)), notes=table.notes)
    rows = tables.number_batches(table, names, x.categories, ids)
    return Rows((Batch(part.ids, ask.take(part.x)) for part in rows), ids or "row", table.notes)


def _images(ask: Request) -> Rows:
    parts = folder.parts(ask.argument, ask.config)
    if ask.split != "all" and ask.spec.format == 1 and folder.is_reordered(parts):
        raise InputError(
            f"--split={ask.split}: an earlier version trained this run and read the folder in another order, so its "
            "splits are unknown; use --split=all, or train again"
        )
    names = [name for part in parts.values() for name in part.names]
    return _of_images(ask, parts, names, "file")


def _tfds(ask: Request) -> Rows:
    parts = tfds.parts(ask.argument, ask.config)
    return _of_images(ask, parts, range(sum(part.n for part in parts.values())), "row")


def _of_images(ask: Request, parts: dict[str, images.Part], ids: Sequence[Any], id_name: str) -> Rows:
    def batches() -> Iterator[Batch]:
        start = 0
        for x in images.batches(parts, ask.config, ask.size, ask.spec.x.shape[-1]):
            yield Batch(ids[start : start + len(x)], ask.take(x))
            start += len(x)

    return Rows(batches(), id_name, split=len(parts) == 2, names=ids)


def _series(ask: Request) -> Rows:
    """Windows of long series, a batch for each series: of all its steps, or of those of a split."""
    x, config = ask.spec.x, ask.config
    if x.kind != "series":
        raise InputError(f"{ask.argument}: holds series; the run takes a {x.kind} of shape {x.shape}")
    config.data.window = x.shape[0]
    found = series.LOADERS[sources.parse(config.data.source)[0]](ask.argument, config, x.columns)
    try:
        own = series.split(found, config)[0][ask.split].each_alone() if ask.split != "all" else None
        parts = own or series.whole(found.series, x.shape[0], config)
    except InputError as error:
        raise InputError(f"{ask.argument}: {error}") from error
    names = any(one.name for one in found.series)

    def batches() -> Iterator[Batch]:
        for part in parts:
            (one,), (starts,) = part.series, part.starts
            ids = [f"{one.name} {one.time[i]}" if names else one.time[i] for i in starts.tolist()]
            yield Batch(ids, ask.take(part.cut(centred=config.data.center_windows)), part)

    return Rows(batches(), "window", found.notes, chosen=True)


def _wav(ask: Request) -> Rows:
    parts = waves.parts(ask.argument, ask.config)
    names = [name for part in parts.values() for name in part.found.names]

    def batches() -> Iterator[Batch]:
        start = 0
        for part in parts.values():
            for i in range(0, len(part.found.paths), ask.size):
                x = ask.take(part.read(range(i, min(i + ask.size, len(part.found.paths)))))
                yield Batch(names[start : start + len(x)], x)
                start += len(x)

    notes = list(dict.fromkeys(part.note for part in parts.values()))
    return Rows(batches(), "file", notes, split=len(parts) == 2)


def _text(ask: Request) -> Rows:
    return Rows(_numbered(map(ask.take, text.batches(ask.argument, ask.config))))


READERS: dict[str, Callable[[Request], Rows]] = {
    "npy": _npy,
    "csv": _table,
    "parquet": _table,
    "images": _images,
    "tfds": _tfds,
    "wav": _wav,
    "text": _text,
    "series": _series,
    "periodic": _series,
}
