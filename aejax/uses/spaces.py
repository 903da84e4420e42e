"""The spaces in which a use compares examples: the code, the values themselves, and PCA of them (texts: LSA)."""

from typing import Any

import numpy as np
from scipy import sparse

from aejax.data.bags import dense
from aejax.data.lazy import chunks
from aejax.data.spec import Field
from aejax.trained import Trained
from aejax.uses.data import Data

Pair = tuple[Any, Any]  # rows [N, D] of the training and of the test split


def names(field: Field) -> tuple[str, str]:
    """The names of the values and of their projection: pixels | columns | values | words, and pca | lsa."""
    if field.sparse:
        return "words", "lsa"
    return {"image": "pixels", "table": "columns", "series": "values"}[field.kind], "pca"


def codes(trained: Trained, x: Any) -> np.ndarray:
    """Codes [N, d] of examples as the model takes them."""
    found = trained.map(trained.pure_encode, x)
    return found.reshape(len(found), -1)


def projected(trained: Trained, data: Data, examples: Pair, values: Pair, size: int) -> Pair:
    """PCA of examples as stored, or for texts LSA of their `values`, with at most `size` components."""
    if data.spec.x.sparse:
        return lsa(*values, size)
    pca = data.pca(trained, size)

    def project(x: np.ndarray) -> np.ndarray:
        x = x / np.float32(255) if x.dtype == np.uint8 else np.nan_to_num(x)
        return pca.transform(trained.target(dense(x)).reshape(len(x), -1))

    train, test = examples
    return np.concatenate([project(x) for x in chunks(train)]), project(np.asarray(test))


def lsa(train: Any, test: Any, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Latent semantic analysis of training and test examples, [N, size]: truncated SVD of the training examples;
    Deerwester et al. (1990)."""
    from sklearn.decomposition import TruncatedSVD

    if not sparse.issparse(train):
        train, test = train.astype(np.float64), test.astype(np.float64)
    svd = TruncatedSVD(min(size, train.shape[1]), random_state=0).fit(train)
    return svd.transform(train), svd.transform(test)


def weigh(train: Any, test: Any) -> Pair:
    """Values of the examples [N, D], a missing one 0, the mean of its column; of texts their tf-idf weights."""
    if sparse.issparse(train):
        return tfidf(train, test)
    flat = [dense(x).reshape(x.shape[0], -1) for x in (train, test)]
    train, test = (np.nan_to_num(x) if x.dtype.kind == "f" else x for x in flat)
    return train, test


def tfidf(train: Any, test: Any) -> tuple[Any, Any]:
    """(1 + log count) idf of sparse counts, each row of length 1; idf of the training examples. Other sparse values are
    weights already: only the length of the rows is changed."""
    from sklearn.feature_extraction.text import TfidfTransformer
    from sklearn.preprocessing import normalize

    if train.dtype.kind == "f":
        return normalize(train), normalize(test)
    weights = TfidfTransformer(sublinear_tf=True).fit(train)
    return weights.transform(train.astype(np.float64)), weights.transform(test.astype(np.float64))
