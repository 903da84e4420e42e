"""Sources of examples: a string names each source, which is read into arrays.

A source is a function (argument, config) -> {"x", "y"} or {"x_train", "y_train", "x_test", "y_test"} of raw arrays; `y`
may be missing. Without a `kind` beside them, `data.kind` tells whether the arrays are images, tables, series or videos;
a list of strings is documents, or of the kind tokens. caption (or caption_train, caption_test) is a list of strings;
`levels` tells of x and caption whether they are sequences of words or characters, else `data.tokens` does. The same
argument and config must give the same arrays, because a run resumes only on the same data. A
source rejects a bad argument with FieldError("data.source", ...).

The fields of all sources are in one section, `data`. Sources may share a field if they declare it identically.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from scipy import sparse

from aejax.data import bags, dataset, lazy
from aejax.data.dataset import Dataset, build
from aejax.data.sources import (
    arrays,
    charts,
    dates,
    digits,
    docstrings,
    folder,
    frames,
    idx,
    images,
    moving_digits,
    series,
    tables,
    text,
    text_pairs,
    tfds,
    waves,
)
from aejax.errors import FieldError, did_you_mean

Read = Callable[[str, ConfigDict], dict[str, Any]]
ARRAY = "array"  # data.source of a run on an array in memory


class Source(NamedTuple):
    """How a source is written and read."""

    usage: str  # NAME, NAME:ARGUMENT, or NAME[:ARGUMENT] if it may be left out
    read: Read
    streamed: Read | None = None  # its examples as `lazy.Lazy`; None: it cannot be streamed
    fields: type | None = None  # of the section `data`


SOURCES: dict[str, Source] = {
    "digits": Source("digits", digits.read),
    "tinted_digits": Source("tinted_digits", digits.tinted),
    "control_charts": Source("control_charts", charts.read),
    "idx": Source("idx:DIR", idx.read),
    "npz": Source("npz:FILE.npz", arrays.npz),
    "mat": Source("mat:FILE.mat", arrays.mat),
    "npy": Source("npy:FILE.npy", arrays.npy, arrays.npy_streamed),
    "periodic": Source("periodic", series.periodic, None, series.Fields),
    "series": Source("series:FILE", series.read, series.streamed, series.Fields),
    "csv": Source("csv:FILE.csv", tables.read, tables.streamed, tables.Fields),
    "parquet": Source("parquet:FILE.parquet", tables.read, tables.streamed, tables.Fields),
    "images": Source("images:DIR", folder.read, folder.read_streamed, images.Fields),
    "text": Source("text:FILE", text.read, None, text.Fields),
    "text_pairs": Source("text_pairs:FILE", text_pairs.read, None, text_pairs.Fields),
    "dates": Source("dates", dates.read),
    "moving_digits": Source("moving_digits[:idx:DIR]", moving_digits.read, None, moving_digits.Fields),
    "docstrings": Source("docstrings", docstrings.read, None, text.Fields),
    "wav": Source("wav:DIR", waves.read),
    "tfds": Source("tfds:NAME[@DATA_DIR]", tfds.read, tfds.read_streamed, images.Fields),
}


def section() -> list[type]:
    """The parts whose fields make up the section `data` of the config."""
    return [dataset.Fields, *(source.fields for source in SOURCES.values() if source.fields)]


def streamable() -> str:
    """The usages of the sources that can be streamed."""
    return ", ".join(source.usage for source in SOURCES.values() if source.streamed)


def load(config: ConfigDict) -> Dataset:
    """Read config.data.source; raises InputError with one line that names what was given."""
    return build(raw(config), config, f"{config.data.source}: ")


def raw(config: ConfigDict) -> dict[str, Any]:
    """The raw arrays of config.data.source: x (and y), or x_train, x_test (and y_train, y_test)."""
    name, argument = parse(config.data.source)
    resident = config.data.resident
    source = SOURCES[name]
    if resident == "false" and not source.streamed:
        raise FieldError("data.resident", resident, f"needs one of the sources {streamable()}")
    if source.streamed and resident != "true":
        # Streaming first writes a table to a temporary file, so its size is estimated without that.
        small = name in ("csv", "parquet") and tables.size(argument, config) <= lazy.limit()
        if resident == "false" or not small:
            found = source.streamed(argument, config)
            unread = {name: x for name, x in found.items() if isinstance(x, lazy.Lazy)}
            if resident == "false" or sum(x.nbytes for x in unread.values()) > lazy.limit():
                if config.data.binarize == "static":
                    raise FieldError(
                        "data.binarize", "static", "needs config.data.resident = 'true': the values are drawn once"
                    )
                return found | {name: lazy.kept(x, config.data.source) for name, x in unread.items()}
    return source.read(argument, config)


def parse(source: str) -> tuple[str, str]:
    """NAME:ARGUMENT -> its two parts; raises InputError."""
    name, _, argument = source.partition(":")
    if argument.startswith("~"):
        argument = str(Path(argument).expanduser())
    if source == ARRAY:
        raise FieldError("data.source", source, "is an array in memory, for Python only: aejax.fit(x, config)")
    if name not in SOURCES:
        named = Path(source).suffix.removeprefix(".")
        hint = f"; did you mean {named}:{source}?" if named in SOURCES else did_you_mean(name, list(SOURCES))
        usages = ", ".join(s.usage for s in SOURCES.values())
        raise FieldError("data.source", source, f"must be one of {usages}{hint}")
    if "[:" not in SOURCES[name].usage and bool(argument) != (":" in SOURCES[name].usage):
        raise FieldError("data.source", source, f"must be written {SOURCES[name].usage}")
    return name, argument


def from_array(x: Any, config: ConfigDict, y: Any = None) -> Dataset:
    """A dataset from an array, a data frame, a sparse matrix or documents; a test split is held out from it."""
    if frames.is_frame(x):
        raw = frames.read(x, config)
    elif sparse.issparse(x):
        raw = {"x": x}
    else:
        raw = {"x": documents(x)}
    return build(raw | ({} if y is None else {"y": frames.labels(y)}), config)


def documents(x: Any) -> Any:
    """A list, an array or a pandas series of strings as a list; anything else as an array."""
    if type(x).__name__ == "Series" or (isinstance(x, np.ndarray) and x.ndim == 1):
        x = np.asarray(x).tolist()
    return x if bags.is_documents(x) else np.asarray(x)
