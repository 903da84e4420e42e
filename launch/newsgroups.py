"""The most frequent words of 20 Newsgroups by date as a sparse npz: source.

  python launch/newsgroups.py DATA/20news OUTPUT.npz WORDS [tfidf]      WORDS: at most 5000

DATA/20news holds 20news_bydate_bow5000.npz (for each split the counts of 5000 words in compressed sparse rows,
most frequent word first, and a label for each document) and 20news_labels.txt (the groups' names, one per line).
With tfidf a count becomes (1 + log count) idf, and each row gets the length 10; idf is of the training documents.
"""

import sys
from pathlib import Path

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import TfidfTransformer


def convert(folder: Path, words: int, tfidf: bool = False) -> dict[str, np.ndarray]:
    """The arrays of OUTPUT.npz: x_train in its parts, y_train, x_test in its parts, y_test."""
    bag = np.load(folder / "20news_bydate_bow5000.npz")
    groups = np.array((folder / "20news_labels.txt").read_text().split())
    arrays, weights = {}, TfidfTransformer(sublinear_tf=True)
    for split in ("train", "test"):
        data, indices, indptr = (bag[f"{split}_{part}"] for part in ("data", "indices", "indptr"))
        counts = sparse.csr_array((data, indices.astype(np.int32), indptr), shape=(len(indptr) - 1, 5000))[:, :words]
        if tfidf:
            counts = counts.astype(np.float32)
            counts = 10 * (weights.fit_transform(counts) if split == "train" else weights.transform(counts))
        parts = {"data": counts.data, "indices": counts.indices, "indptr": counts.indptr, "shape": counts.shape}
        arrays |= {f"x_{split}_{name}": np.asarray(part) for name, part in parts.items()}
        arrays[f"y_{split}"] = groups[bag[f"{split}_label"]]
    return arrays


if __name__ == "__main__":
    source, target, words = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    target.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(target, **convert(source, words, sys.argv[4:] == ["tfidf"]))
