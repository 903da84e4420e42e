"""Documents in a text file, one per line, or in a column of a CSV or parquet file."""

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from ml_collections import ConfigDict

from aejax.data import bags
from aejax.data.sources.arrow import Table, existing
from aejax.data.sources.tables import labels, text_batches
from aejax.errors import FieldError, InputError
from aejax.fields import Field, at_least, one_of, within

TABLES = (".csv", ".parquet")
DOCUMENTS = 1024  # read at a time


@dataclasses.dataclass(frozen=True)
class Fields:
    text: Annotated[
        str,
        Field(
            "weight of a word in a document: counts | tfidf | binary (1 if the word occurs)", one_of(bags.WEIGHTINGS)
        ),
    ] = "counts"
    text_column: Annotated[
        str, Field('text: column of the documents in a CSV or Parquet file; "" = one document per line')
    ] = ""
    vocabulary: Annotated[
        int, Field("text: number of words, the most frequent ones of the training split", at_least(1))
    ] = 2000
    max_df: Annotated[
        float,
        Field(
            "text: words in more than this share of the training documents are left out", within(0, 1, brackets="(]")
        ),
    ] = 1.0


def read(argument: str, config: ConfigDict) -> dict[str, Any]:
    """Documents: config.data.text_column of a file that ends in .csv or .parquet; one per line of any other file."""
    column, label = config.data.text_column, config.data.label_column
    if Path(argument).suffix not in TABLES:
        if column or label:
            field = "text_column" if column else "label_column"
            raise FieldError(f"data.{field}", column or label, f"needs a file that ends in {' or '.join(TABLES)}")
        raw: dict[str, Any] = {"x": list(lines(argument, config))}
    else:
        parts = list(text_batches(Table(argument, config), [_column(argument, config), *([label] if label else [])]))
        raw = {"x": [text for part in parts for text in part[0]]}
        if label:
            raw["y"] = labels([value for part in parts for value in part[1]])
    if not raw["x"]:
        raise InputError(f"{argument}: no documents")
    return raw


def batches(argument: str, config: ConfigDict) -> Iterator[list[str]]:
    """The documents of `read`, some at a time."""
    if Path(argument).suffix in TABLES:
        for part in text_batches(Table(argument, config), [_column(argument, config)]):
            yield part[0]
        return
    documents = lines(argument, config)
    while some := list(itertools.islice(documents, DOCUMENTS)):
        yield some


def _column(argument: str, config: ConfigDict) -> str:
    if not config.data.text_column:
        raise FieldError("data.text_column", "", f"must name the column of {argument} that holds the documents")
    return str(config.data.text_column)


def lines(argument: str, config: ConfigDict) -> Iterator[str]:
    """The lines of a text file in UTF-8; an empty one is a document without words."""
    path = existing(argument, config)
    try:
        with open(path, encoding="utf-8-sig") as file:
            yield from (line.rstrip("\r\n") for line in file)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{argument}: cannot be read as text in UTF-8: {error}") from error
