"""Sequences of tokens: the vocabulary, and texts as numbers."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from aejax.errors import InputError

PAD, BEGIN, END, UNKNOWN = range(4)
SPECIAL = ("<pad>", "<begin>", "<end>", "<unknown>")


class Level(NamedTuple):
    """How a text is cut into tokens, and joined again."""

    split: Callable[[str], Sequence[str]]
    join: Callable[[Iterable[str]], str]


LEVELS = {"characters": Level(list, "".join), "words": Level(str.split, " ".join)}


def vocabulary(texts: Iterable[str], level: str, most: int) -> tuple[str, ...]:
    """The special tokens, then the most frequent tokens of the texts, at most `most`, in the order of the alphabet."""
    counts = Counter(token for text in texts for token in LEVELS[level].split(text))
    frequent = sorted(counts, key=lambda token: (-counts[token], token))[:most]
    return (*SPECIAL, *sorted(frequent))


def longest(texts: Iterable[str], level: str) -> int:
    """Tokens of the longest text and its end."""
    return 1 + max(len(LEVELS[level].split(text)) for text in texts)


def encode(texts: Sequence[str], vocabulary: Sequence[str], level: str, length: int, name: str) -> np.ndarray:
    """Numbers [N, length], int32: the tokens of each text, END, then PAD. An unknown token is UNKNOWN.

    Raises InputError for a text that is empty or has no room for its end; `name`: of the texts, in errors.
    """
    numbers = {token: i for i, token in enumerate(vocabulary)}
    rows = np.full((len(texts), length), PAD, np.int32)
    for i, text in enumerate(texts):
        found = [numbers.get(token, UNKNOWN) for token in LEVELS[level].split(text)]
        if not found:
            raise InputError(f"{name}[{i}]: is empty; each needs one of the {level} at least")
        if len(found) >= length:
            raise InputError(f"{name}[{i}]: has {len(found)} {level}; the model takes at most {length - 1}")
        rows[i, : len(found) + 1] = [*found, END]
    return rows


def decode(rows: Any, vocabulary: Sequence[str], level: str) -> list[str]:
    """The texts of numbers [N, length], each up to its end."""
    texts = []
    for row in np.asarray(rows).astype(int).tolist():
        tokens = row[: row.index(END)] if END in row else row
        texts.append(LEVELS[level].join(vocabulary[token] for token in tokens if token != PAD))
    return texts


def lengths(rows: Any) -> Any:
    """Tokens [N] of numbers [N, length], with the end; of a JAX array or a NumPy one."""
    return (rows != PAD).sum(-1)
