"""What `predict` writes of a batch of rows, by a function for each of --what."""

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from aejax.data import image_folder, masks, output, stream, tokens
from aejax.data.bags import blanks
from aejax.data.sources import folder
from aejax.errors import InputError
from aejax.storage import saved
from aejax.trained import Trained
from aejax.uses.anomaly import measure as anomaly
from aejax.uses.restoration import restored
from aejax.uses.retrieval import index
from aejax.uses.sequence.writer import Writer

PURE = {
    "codes": Trained.pure_encode,
    "reconstructions": Trained.pure_reconstruct,
    "scores": Trained.pure_score,
    "samples": Trained.pure_decode,
    "probabilities": Trained.pure_reconstruct,
}
COMPLETIONS, ANOMALIES, INTERVALS, CLUSTERS, RESTORED = "completions", "anomalies", "intervals", "clusters", "restored"
SEQUENCES = "sequences"


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


def sequences(model: Trained, beam: int | None) -> Made:
    """The sequence that the model writes for each row, and its log-probability. Raises InputError."""
    writer, x = Writer(model, beam or model.config.uses.sequence.beam, model.config.uses.sequence.alpha), model.spec.x
    unknown: list[int] = []  # tokens, by batch

    def function(batch: stream.Batch, _: int) -> tuple[Sequence[Any], Any]:
        texts, log_p = writer.write(batch.x)
        unknown.append(int((batch.x == tokens.UNKNOWN).sum()) if x.kind == "tokens" else 0)
        return batch.ids, {"sequence": texts, "log_probability": log_p.astype(np.float32)}

    def notes() -> list[str]:
        lost = sum(unknown)
        return [f"{x.level} that the training texts do not hold, read as unknown: {lost:,}"] if lost else []

    return Made(function, id_name="id", several=True, notes=notes)


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
