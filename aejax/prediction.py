"""What `predict` writes of the rows of an input, a batch at a time; `WHATS` lists it by name."""

import dataclasses
import functools
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from aejax.data import image_folder, masks, output, stream
from aejax.data.bags import blanks
from aejax.data.sources import folder
from aejax.errors import InputError
from aejax.storage import saved
from aejax.trained import BATCH, Trained
from aejax.uses.anomaly import measure as anomaly
from aejax.uses.restoration import restored
from aejax.uses.retrieval import index

PURE = {
    "codes": Trained.pure_encode,
    "reconstructions": Trained.pure_reconstruct,
    "scores": Trained.pure_score,
    "samples": Trained.pure_decode,
    "probabilities": Trained.pure_reconstruct,
}
THREADS = 2  # of a prediction
COMPLETIONS, ANOMALIES, INTERVALS, CLUSTERS, RESTORED = "completions", "anomalies", "intervals", "clusters", "restored"


class Made(NamedTuple):
    """What is written for a batch: function(batch, number of the batch) -> (ids, rows), and how the rows are named."""

    function: Callable[[stream.Batch, int], tuple[Sequence[Any], Any]]
    columns: Sequence[str] = ()
    id_name: str = ""  # "" = that of the input
    several: bool = False  # the rows are columns of several types
    notes: Callable[[], Sequence[str]] = tuple  # what was found; complete after the last batch
    opened: Callable[[str | Path], AbstractContextManager[output.Write]] | None = None  # None: `output.opened`


def values(model: Trained, what: str) -> Made:
    """A name in PURE: values of the model's examples (samples: of codes)."""
    like_input = what in ("reconstructions", "samples")
    columns = model.spec.x.outputs if like_input else model.spec.classes if what == "probabilities" else ()

    def function(batch: stream.Batch, _: int) -> tuple[Sequence[Any], Any]:
        made = model.map(getattr(model, PURE[what].__name__), batch.x)
        return batch.ids, model.spec.x.unscale(made) if like_input else made

    return Made(function, columns)


def completions(model: Trained, path: str | Path, n: int | None, seed: int) -> Made:
    """`n` for each row, or one without an axis for it if n is None; `seed` is that of the first batch."""
    _check_completions(model, path, n)

    def function(batch: stream.Batch, i: int) -> tuple[Sequence[Any], Any]:
        drawn = model.complete(batch.x, n=n or 1, seed=seed + i)  # [n, rows, ...]
        return batch.ids, drawn[0] if n is None else drawn.swapaxes(0, 1)

    return Made(function)


def neighbours(database: index.Index, k: int) -> Made:
    """The k nearest rows of the database for each query."""

    def function(batch: stream.Batch, _: int) -> tuple[Sequence[Any], Any]:
        model = database.model
        index.check_words(model, batch.x, batch.ids)
        found = database.nearest(model.map(model.pure_encode, batch.x), k)
        queries = [query for query in batch.ids for _ in range(k)]
        rank = np.tile(np.arange(1, k + 1), len(batch.ids))
        ranked = {"rank": rank, "neighbour": found.neighbours.ravel(), "similarity": found.similarity.ravel()}
        return queries, ranked

    return Made(function, id_name="query", several=True)


def indexed(model: Trained, path: str | Path, metric: str, bits: int) -> Made:
    """The codes, as an index. Raises InputError."""
    index.check_path(Path(path))

    def function(batch: stream.Batch, _: int) -> tuple[Sequence[Any], Any]:
        return batch.ids, model.map(model.pure_encode, batch.x)

    return Made(function, opened=functools.partial(index.opened, model=model, metric=metric, bits=bits))


def anomalies(models: Sequence[Trained], workdir: str | Path, maps: str | Path | None) -> Made:
    """Scores by the detector that the use `anomaly` of a run or of a population stored, with threshold, flag, p-value
    and reasons.

    maps: a folder for a PNG of each flagged image: image, reconstruction and error side by side. Raises InputError.
    """
    (fitted, stored), model = saved.load_detector(workdir, models, ANOMALIES), models[0]
    say = anomaly.reasons_for(fitted, stored)
    explain = fitted.explainer(say) if say else None
    if maps and model.spec.x.kind != "image":
        raise InputError(f"--maps={maps}: is for runs on images; this one takes a {model.spec.x.kind}")
    drawn = anomaly.Maps(fitted, stored, Path(maps)) if maps else None
    blank: list[int] = []  # rows that hold nothing, by batch

    def function(batch: stream.Batch, _: int) -> tuple[Sequence[Any], Any]:
        if batch.part is not None:
            return anomaly.steps.step_columns(fitted, batch.part, fitted.score(batch.x))
        if explain:
            scores, texts = explain(batch.x)
        else:
            scores, texts = fitted.score(batch.x), [""] * len(batch.ids)
        nothing = blanks(batch.x)
        scores = np.where(nothing, np.nan, scores).astype(np.float32)
        blank.append(int(nothing.sum()))
        flag = scores > fitted.threshold
        if drawn:
            drawn.write([batch.ids[int(i)] for i in np.flatnonzero(flag)], batch.x[np.flatnonzero(flag)])
        return batch.ids, {
            "score": scores,
            "threshold": np.full(len(scores), fitted.threshold, np.float32),
            "flag": flag.astype(np.int8),
            "p_value": np.where(nothing, np.nan, fitted.p_value(scores)),
            "reasons": texts,
        }

    def notes() -> list[str]:
        return [f"rows without any value or known word, which have no score: {sum(blank):,}"] if sum(blank) else []

    return Made(function, id_name="id", several=True, notes=notes)


def intervals(models: Sequence[Trained], workdir: str | Path) -> Made:
    """Intervals of long series above the threshold of the detector that the use `anomaly` stored."""
    fitted, _ = saved.load_detector(workdir, models, INTERVALS)

    def function(batch: stream.Batch, _: int) -> tuple[Sequence[Any], Any]:
        if batch.part is None:
            raise InputError(f"--what={INTERVALS}: needs long series: --input=series:FILE")
        return anomaly.steps.interval_columns(fitted, batch.part, batch.x)

    return Made(function, id_name="id", several=True)


def clusters(model: Trained, workdir: str | Path, method: str | None) -> Made:
    """Clusters that the use `clustering` of a run stored, by a method (None: the first one), and their probability.

    Raises InputError.
    """
    fitted = saved.load_clusters(workdir, model, CLUSTERS)
    if method and method not in fitted.partitions:
        raise InputError(f"--method={method}: must be one that was fitted: {', '.join(fitted.partitions)}")
    blank: list[int] = []  # rows that hold nothing, by batch

    def function(batch: stream.Batch, _: int) -> tuple[Sequence[Any], Any]:
        found = fitted.of_taken(batch.x, method)
        blank.append(int(np.isnan(found.probability).sum()))
        return batch.ids, {"cluster": found.cluster, "probability": found.probability.astype(np.float32)}

    def notes() -> list[str]:
        lost = sum(blank)
        return [f"rows without any value or known word, which have the cluster -1: {lost:,}"] if lost else []

    return Made(function, id_name="id", several=True, notes=notes)


def restored_images(model: Trained, path: str | Path, rows: stream.Rows, source: str, mask: str | None) -> Made:
    """Restored images of damaged ones, as they are; `mask`: source of the masks of an inpainting model.

    A folder of PNG files takes them, each under the name of its input. Raises InputError.
    """
    path, as_folder = Path(path), Path(path).suffix not in output.WRITERS
    restored.check(model, mask is not None, "--mask")
    if path.suffix.lower() in (*folder.SUFFIXES, ".csv", ".parquet"):
        raise InputError(f"--output={path}: must be a folder, or end in .npz or .npy, for --what={RESTORED}")
    if as_folder:
        image_folder.check(path)
        image_folder.check_names(rows.names, "--input")
        for name, used in (("--input", source), ("--mask", mask or "")):
            read = Path(used.partition(":")[2])
            if used.startswith("images:") and read.is_dir() and path.resolve().is_relative_to(read.resolve()):
                raise InputError(f"--output={path}: lies in the folder of {name}; name one outside")
    hidden = mask and masks.read(mask, model.config, rows.names, model.spec.x.shape, "--mask")

    def function(batch: stream.Batch, _: int) -> tuple[Sequence[Any], Any]:
        return batch.ids, restored.of_taken(model, batch.x, hidden(batch.ids) if hidden else None)

    return Made(function, opened=image_folder.opened if as_folder else None)


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


def _check_completions(model: Trained, path: str | Path, n: int | None) -> None:
    if model.config.pair.name != "inpaint":
        raise InputError(
            f"--what={COMPLETIONS}: needs a model with config.pair.name = 'inpaint', such as that of "
            f"--config=inpainting; this one has {model.config.pair.name!r}"
        )
    if Path(path).suffix not in (".npz", ".npy"):
        raise InputError(f"--output={path}: must end in .npz or .npy for --what={COMPLETIONS}, which are images")
    if n is not None and not model.objective.pair.conditional:
        raise InputError(
            f"--n={n}: this model has one completion per image; several need config.pair.inpaint.conditional = True, "
            "as in --config=inpainting_cvae"
        )


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
