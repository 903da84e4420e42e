"""What `predict` writes of the rows of an input, a batch at a time; `WHATS` lists it by name."""

import dataclasses
import functools
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from aejax.contents import (
    ANOMALIES,
    CLUSTERS,
    COMPLETIONS,
    INTERVALS,
    RESTORED,
    SEQUENCES,
    Made,
    anomalies,
    clusters,
    completions,
    indexed,
    intervals,
    neighbours,
    restored_images,
    sequences,
    values,
)
from aejax.data import output, stream
from aejax.errors import InputError
from aejax.storage import saved
from aejax.trained import BATCH, Trained
from aejax.uses.restoration import restored
from aejax.uses.retrieval import index

THREADS = 2  # of a prediction


def drawn(model: Trained, workdir: str | Path, sampler: str | None, label: str | None, n: int, seed: int) -> np.ndarray:
    """n codes by a sampler that the use `generation` of a run stored, of a class if `label` names one; without a
    sampler from the prior. Raises InputError."""
    if sampler is None:
        if label is not None:
            raise InputError(f"--label={label}: needs --sampler, such as --sampler=gmm: the prior has no classes")
        return model.prior(n, seed)
    fitted = saved.load_samplers(workdir, model, "samples")
    if sampler not in fitted:
        raise InputError(f"--sampler={sampler}: must be one that was fitted: {', '.join(fitted)}")
    try:
        return fitted[sampler].codes(n, seed, label)
    except InputError as error:
        raise InputError(f"--{str(error).replace(' = ', '=', 1)}") from error


def write(
    model: Trained,
    rows: stream.Rows,
    what: str,
    path: str | Path,
    made: Made | None = None,
    *,
    may_be_empty: bool = False,
) -> int:
    """Write what is `made` of the rows, by default `values(model, what)`, to a file, in order.

    Returns the number of input rows; without rows, if that may be, there is no file. Raises InputError, and then leaves
    no file.
    """
    made = made or values(model, what)
    opened = made.opened
    if opened is None:
        output.check(Path(path), several=made.several)  # before anything is read
        id_name = made.id_name or rows.id_name
        opened = functools.partial(
            output.opened, name=what, columns=made.columns, id_name=id_name, several=made.several
        )
    first = next(rows.batches, None)
    if first is None:
        if may_be_empty:
            return 0
        raise InputError("--input: has no rows")
    with opened(path) as append:
        count, pending = 0, deque[Future[tuple[Sequence[Any], Any]]]()
        with ThreadPoolExecutor(THREADS) as pool:  # one formats a batch while the other computes the next
            for i, batch in enumerate(itertools.chain([first], rows.batches)):
                pending.append(pool.submit(made.function, batch, i))
                count += len(batch.ids)
                if len(pending) > THREADS:
                    append(*pending.popleft().result())
            for done in pending:
                append(*done.result())
    return count


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a command asks for: the models of the run and the flags of `predict`."""

    models: Sequence[Trained]  # one, or the members of a population
    database: Callable[[], index.Index]  # of --database
    workdir: str
    output: str
    source: str  # --input, or that of the run
    split: str
    share: tuple[int, int]  # (i, n): every n-th batch, from batch i on
    n: int | None
    seed: int
    k: int
    metric: str
    bits: int
    maps: str | None
    mask: str | None
    method: str | None
    sampler: str | None
    label: str | None
    beam: int | None

    @property
    def model(self) -> Trained:
        return self.models[0]

    def read(self, take: Callable[[Trained, Any], Any] = Trained.take) -> stream.Rows:
        """The rows of the input, each made what the model takes by `take`."""
        model = self.model
        taken = functools.partial(take, model)
        return stream.read(self.source, model.config, model.spec, taken, self.split, share=self.share)

    def draw(self) -> stream.Rows:
        """Codes in place of rows of an input."""
        assert self.n is not None
        z = drawn(self.model, self.workdir, self.sampler, self.label, self.n, self.seed)
        parts = (stream.Batch(range(i, i + BATCH)[: len(z) - i], z[i : i + BATCH]) for i in range(0, len(z), BATCH))
        return stream.Rows(itertools.islice(parts, self.share[0], None, self.share[1]))


class What(NamedTuple):
    """One of --what."""

    made: Callable[[Asked, stream.Rows], Made]
    rows: Callable[[Asked], stream.Rows] = Asked.read
    flags: Sequence[str] = ()  # of predict, which belong to it
    classifier: bool | None = False  # takes classifiers alone (True), other models alone (False), or both (None)
    members: bool = False  # takes the members of a population together


def _values(name: str, **fields: Any) -> What:
    return What(lambda asked, rows: values(asked.model, name), **fields)


WHATS = {
    "codes": _values("codes", classifier=None),
    "reconstructions": _values("reconstructions"),
    "scores": _values("scores"),
    "samples": _values("samples", rows=Asked.draw, flags=("n", "seed", "sampler", "label")),
    "probabilities": _values("probabilities", classifier=True),
    COMPLETIONS: What(
        lambda asked, rows: completions(asked.model, asked.output, asked.n, asked.seed), flags=("n", "seed")
    ),
    RESTORED: What(
        lambda asked, rows: restored_images(asked.model, asked.output, rows, asked.source, asked.mask),
        rows=lambda asked: asked.read(restored.take),
        flags=("mask",),
    ),
    ANOMALIES: What(
        lambda asked, rows: anomalies(asked.models, asked.workdir, asked.maps), flags=("maps",), members=True
    ),
    INTERVALS: What(lambda asked, rows: intervals(asked.models, asked.workdir), members=True),
    CLUSTERS: What(
        lambda asked, rows: clusters(asked.model, asked.workdir, asked.method), flags=("method",), classifier=None
    ),
    SEQUENCES: What(lambda asked, rows: sequences(asked.model, asked.beam), flags=("beam",), classifier=None),
    "neighbours": What(
        lambda asked, rows: neighbours(asked.database(), asked.k),
        flags=("k", "database", "text", "metric", "bits"),
        classifier=None,
    ),
    "index": What(
        lambda asked, rows: indexed(asked.model, asked.output, asked.metric, asked.bits),
        flags=("metric", "bits"),
        classifier=None,
    ),
}
