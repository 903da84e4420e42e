"""Sparse rows, and documents as bags of words."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from scipy import sparse

from aejax.errors import InputError

WEIGHTINGS = ("counts", "tfidf", "binary")
PARTS = ("data", "indices", "indptr", "shape")  # of a matrix in compressed sparse rows


def checked(x: Any, name: str) -> sparse.csr_array:
    """A sparse matrix as CSR: uint16 if all its values are counts below 65536, else float32; raises InputError."""
    if x.dtype.kind not in "buif":
        raise InputError(f"{name}: a table must hold numbers, found dtype {x.dtype}")
    x = sparse.csr_array(x)
    if x.ndim != 2:
        raise InputError(f"{name}: a sparse matrix must have rank 2, found shape {x.shape}")
    if not x.has_canonical_format:  # equal matrices have equal parts
        x = x.copy()
        x.sum_duplicates()
    wrong = ~(np.abs(x.data.astype(np.float64)) <= np.finfo(np.float32).max)
    if wrong.any():
        place = int(wrong.argmax())
        row = int(np.searchsorted(x.indptr, place, side="right")) - 1
        raise InputError(f"{name}[{row}, {x.indices[place]}] = {x.data[place]}: a table must be finite in float32")
    counts = bool((x.data >= 0).all() and (x.data < 2**16).all() and (x.data == np.floor(x.data)).all())
    return x.astype(np.uint16 if counts else np.float32)


def dense(x: Any) -> np.ndarray:
    """Rows as a dense array."""
    return x.toarray() if sparse.issparse(x) else np.asarray(x)


def blanks(x: Any) -> np.ndarray:
    """Whether an example holds nothing, [N]: a text without a known word, a row of empty cells."""
    if sparse.issparse(x):
        return np.diff(x.indptr) == 0
    return np.isnan(x).all(axis=tuple(range(1, x.ndim))) if x.dtype.kind == "f" else np.zeros(len(x), bool)


def from_parts(data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, shape: np.ndarray) -> sparse.csr_array:
    """The CSR matrix of these parts; raises InputError."""
    return _whole(lambda: sparse.csr_array((data, indices, indptr), shape=tuple(shape.tolist())))


def from_scipy(path: Path) -> sparse.csr_array:
    """A matrix in any sparse format written by `scipy.sparse.save_npz`; raises InputError."""
    return _whole(lambda: sparse.load_npz(path))


def _whole(make: Callable[[], Any]) -> sparse.csr_array:
    try:
        x = make()
        if hasattr(x, "check_format"):
            x.check_format(full_check=True)  # otherwise an index out of range reads other memory
        return sparse.csr_array(x)
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError, MemoryError) as error:
        raise InputError(f"not a valid sparse matrix: {error}") from error


# --- documents ---------------------------------------------------------------------------------------


def is_documents(x: Any) -> bool:
    """Whether x is a sequence of strings, one per document."""
    one_axis = isinstance(x, list | tuple) or (isinstance(x, np.ndarray) and x.ndim == 1)
    return one_axis and len(x) > 0 and all(isinstance(value, str) for value in x)


def vocabulary(documents: Sequence[str], config: ConfigDict) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """The most frequent words of the documents in alphabetical order, and their weights (tfidf only).

    A word is two or more letters or digits, lowercased. The weight of word j is log((1 + n) / (1 + n_j)) + 1, where
    n_j of the n documents contain it (scikit-learn's default).
    """
    from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer  # takes a second; for texts only

    kind = TfidfVectorizer if config.data.text == "tfidf" else CountVectorizer
    binary = config.data.text == "binary"  # the frequency of a word is then the number of documents that contain it
    vectorizer = kind(max_features=config.data.vocabulary, max_df=config.data.max_df, binary=binary)
    try:
        vectorizer.fit(documents)
    except ValueError as error:  # no words
        raise InputError(f"{config.data.source}: {error}") from error
    words = tuple(vectorizer.get_feature_names_out().tolist())
    return words, tuple(vectorizer.idf_.tolist()) if config.data.text == "tfidf" else ()


def count(documents: Sequence[str], weighting: str, words: Sequence[str], idf: Sequence[float]) -> sparse.csr_array:
    """Documents -> [N, words]: counts; 0 or 1 (binary); or counts times idf, each row of length 1 (tfidf)."""
    if not len(documents):
        return sparse.csr_array((0, len(words)), dtype=np.float32)
    from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

    if weighting == "tfidf":
        vectorizer = TfidfVectorizer(vocabulary=list(words))
        vectorizer.idf_ = np.asarray(idf)
    else:
        vectorizer = CountVectorizer(vocabulary=list(words), binary=weighting == "binary")
    return checked(vectorizer.transform(documents), "x")
