"""Pairs of texts in a file: what is read, and what is to be written."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

from ml_collections import ConfigDict

from aejax.data.sources.arrow import Table
from aejax.data.sources.tables import text_batches
from aejax.data.sources.text import TABLES, lines
from aejax.errors import FieldError, InputError
from aejax.fields import Field


@dataclasses.dataclass(frozen=True)
class Fields:
    target_column: Annotated[
        str, Field("text_pairs: column of the texts to write in a CSV or Parquet file; data.text_column is read")
    ] = ""


def read(argument: str, config: ConfigDict) -> dict[str, Any]:
    """Texts x and captions: two columns of a file that ends in .csv or .parquet; of any other file, each line has both
    with a tab between them. Raises InputError for a pair that lacks one of them."""
    if Path(argument).suffix in TABLES:
        pairs = _columns(argument, config)
    else:
        pairs = [_cut(line, f"{argument}: line {i}") for i, line in enumerate(lines(argument, config), 1)]
    if not pairs:
        raise InputError(f"{argument}: holds no pairs")
    for i, (x, caption) in enumerate(pairs):
        for name, text in (("text to read", x), ("text to write", caption)):
            if not text.strip():
                raise InputError(f"{argument}: pair {i}: the {name} is empty; delete the pair or fill it in")
    return {"kind": "tokens", "x": [x for x, _ in pairs], "caption": [caption for _, caption in pairs]}


def _columns(argument: str, config: ConfigDict) -> list[tuple[str, str]]:
    names = [str(config.data.text_column), str(config.data.target_column)]
    for field, name in zip(("text_column", "target_column"), names, strict=True):
        if not name:
            raise FieldError(f"data.{field}", "", f"must name a column of {argument}")
    parts = [list(zip(*part, strict=True)) for part in text_batches(Table(argument, config), names)]
    return [(str(x or ""), str(caption or "")) for part in parts for x, caption in part]


def _cut(line: str, name: str) -> tuple[str, str]:
    parts = line.split("\t")
    if len(parts) != 2:
        raise InputError(f"{name}: must hold two texts with one tab between them, found {len(parts)}")
    return parts[0], parts[1]
