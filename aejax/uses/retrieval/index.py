"""An index of a database's codes: the nearest examples of a query, by a trained model."""

import contextlib
import json
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from aejax.data.bags import blanks
from aejax.errors import InputError
from aejax.trained import Trained
from aejax.uses.neighbours import METRICS, Points, unit
from aejax.uses.retrieval.bits import Bits, Signs, itq

FORMAT = 1


class Found(NamedTuple):
    """The nearest examples of each query, nearest first."""

    similarity: np.ndarray  # [Q, k]: the cosine; minus the Euclidean distance; with bits minus the Hamming distance
    neighbours: np.ndarray  # [Q, k]: ids of the database


class Index:
    """Codes [N, D] of a database with their ids, ready for searches.

    metric: cosine | euclidean. With `bits` the codes are replaced by so many signs after an ITQ rotation (`bits.itq`),
    which are compared by the Hamming distance.
    """

    def __init__(
        self, model: Trained, codes: np.ndarray, ids: Sequence[Any] | None = None, *, metric: str, bits: int = 0
    ):
        if metric not in METRICS:
            raise InputError(f"metric = {metric!r}: must be one of {', '.join(METRICS)}")
        if not len(codes):
            raise InputError("index: the database has no rows")
        self.model, self.metric, self.bits = model, metric, bits
        self.codes = np.asarray(codes, np.float32).reshape(len(codes), -1)
        self.ids = np.arange(len(codes)) if ids is None else np.asarray(ids)
        if self.ids.shape != (len(codes),):
            raise InputError(f"ids: shape {self.ids.shape} must be ({len(codes)},), one for each row of the database")
        self._signs: Signs | None = itq(self._placed(self.codes), bits) if bits else None
        signs = self._signs
        self._rows = Bits(signs.pack(self._placed(self.codes))) if signs else Points(self.codes, metric)

    def __len__(self) -> int:
        return len(self.codes)

    def search(self, queries: Any, k: int = 10) -> Found:
        """The k nearest examples of raw queries [Q, ...], such as a list of texts; raises InputError."""
        taken = self.model.take([queries] if isinstance(queries, str) else queries)
        check_words(self.model, taken, range(taken.shape[0]))
        return self.nearest(self.model.map(self.model.pure_encode, taken), k)

    def nearest(self, codes: np.ndarray, k: int) -> Found:
        """The k nearest examples of codes [Q, D]; raises InputError."""
        if not 1 <= k <= len(self):
            raise InputError(f"k = {k}: must lie in [1, {len(self)}], the rows of the database")
        codes = codes.reshape(len(codes), -1)
        found = self._rows.search(self._signs.pack(self._placed(codes)) if self._signs else codes, k)
        return Found(found.similarity, self.ids[found.rows])

    def _placed(self, codes: np.ndarray) -> np.ndarray:
        """Codes as the signs take them: for the cosine of length 1."""
        return unit(codes) if self.metric == "cosine" else codes

    def save(self, path: str | Path) -> None:
        """Write the index to a file that ends in .npz; raises InputError."""
        path = Path(path)
        check_path(path)
        about = {"format": FORMAT, "model": self.model.fingerprint, "metric": self.metric, "bits": self.bits}
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            with open(temporary, "wb") as file:
                np.savez(file, codes=self.codes, ids=self.ids, about=np.array(json.dumps(about)))
            temporary.replace(path)
        except OSError as error:
            raise InputError(f"index {path}: cannot be written: {error.strerror}") from error
        finally:
            temporary.unlink(missing_ok=True)


def load(path: str | Path, model: Trained) -> Index:
    """The index of a file, for the model that made it; raises InputError."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            codes, ids, about = archive["codes"], archive["ids"], json.loads(str(archive["about"]))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"index {path}: is no index of predict --what=index: {error}") from error
    if about["model"] != model.fingerprint:
        raise InputError(f"index {path}: is of another model; make one for this model by predict --what=index")
    return Index(model, codes, ids, metric=about["metric"], bits=about["bits"])


def of_batches(model: Trained, batches: Iterable[Any], *, metric: str, bits: int = 0) -> Index:
    """The index of batches (ids, examples as the model takes them)."""
    ids, codes = list[Any](), [np.zeros((0, *model.code_shape), np.float32)]
    for batch in batches:
        ids.extend(batch.ids)
        codes.append(model.map(model.pure_encode, batch.x))
    return Index(model, np.concatenate(codes), ids, metric=metric, bits=bits)


@contextlib.contextmanager
def opened(path: str | Path, model: Trained, *, metric: str, bits: int = 0) -> Iterator[Any]:
    """Context manager that gives append(ids, codes); at its end the index of all of them is written to the path."""
    ids, codes = list[Any](), list[np.ndarray]()

    def append(names: Sequence[Any], z: np.ndarray) -> None:
        ids.extend(names)
        codes.append(z)

    yield append
    Index(model, np.concatenate(codes), ids, metric=metric, bits=bits).save(path)


def check_path(path: Path) -> None:
    """Raise InputError unless an index can be written to the path."""
    if path.suffix != ".npz":
        raise InputError(f"index {path}: must end in .npz")


def check_words(model: Trained, queries: Any, ids: Sequence[Any]) -> None:
    """Raise InputError if a query has no word that the model knows."""
    if sparse.issparse(queries):
        for row in np.flatnonzero(blanks(queries))[:1]:
            words = f"none of the {model.spec.x.shape[0]:,} words that the model knows"
            raise InputError(f"query {ids[int(row)]}: has {words}")
