"""Apply a run to new data, a batch at a time.

  python -m aejax.predict --workdir=DIR --input=SOURCE --output=FILE --what=codes|reconstructions|scores
  python -m aejax.predict --workdir=DIR [--split=test] --output=FILE    rows of the run's own source
  python -m aejax.predict --workdir=DIR --n=NUMBER --output=FILE --what=samples [--sampler=gmm [--label=CLASS]]
  python -m aejax.predict --workdir=DIR --input=SOURCE --output=FILE.npz|FILE.npy --what=completions [--n=NUMBER]
  python -m aejax.predict --workdir=DIR --input=images:DIR --output=FOLDER --what=restored [--mask=images:DIR]
  python -m aejax.predict --workdir=DIR --input=SOURCE --output=FILE --what=anomalies [--maps=FOLDER]
  python -m aejax.predict --workdir=DIR --input=series:FILE --output=FILE --what=anomalies|intervals
  python -m aejax.predict --workdir=DIR --input=SOURCE --output=FILE --what=clusters [--method=gmm]
  python -m aejax.predict --workdir=DIR --input=QUERIES --database=SOURCE --output=FILE --what=neighbours [--k=10]
  python -m aejax.predict --workdir=DIR --text="a query" --database=SOURCE --what=neighbours
  python -m aejax.predict --workdir=DIR --input=SOURCE --output=FILE.npz --what=index

SOURCE is written as the data source of a config, such as csv:new.csv; FILE ends in .npz, .npy, .csv or .parquet.
The rows of the input keep their order. They are read and written a batch at a time, so they may exceed memory
(parquet, csv, npy, images, tfds and text). A table's columns are found by their names.

Completions [rows, height, width, channels] are images in [0, 1]: an inpainting model hides a part by the mask of its
config and fills it in. With --n a conditional model draws several, [rows, n, height, width, channels]. --seed
determines masks and draws.

Restored images need a model that denoises, inpaints or colourises. The input is taken as it is: damaged, or grey.
FOLDER is new or empty. It gets a PNG file for each image, under the name of its input; .npz and .npy work too. An
inpainting model needs --mask=images:DIR with a mask for each image, under the same name but for the suffix, or
--mask=images:FILE for all: white = hidden. Visible pixels are kept.

Anomalies need the use `anomaly` of the run (python -m aejax.evaluate --use=anomaly). Columns: id, score (higher is more
anomalous), threshold, flag (1 if the score exceeds it), p_value (of a normal example), reasons (for tables the three
columns that contribute most: value, expected value, and the range of 90 % of the training rows).

Of long series (series:FILE) anomalies have a row for each step: id of the series, time, score, threshold, flag and
p_value. The score of a step is the mean over the windows that cover it. Intervals have a row for each run of flagged
steps: id, begin, end, channel (with the largest residual), score (the largest).

Samples are decoded from codes of the prior, or with --sampler from codes of a density that the use `generation` of the
run has fitted (python -m aejax.evaluate --use=generation); --label draws examples of one class.

Clusters need the use `clustering` of the run (python -m aejax.evaluate --use=clustering). Columns: id, cluster (0 is
the largest one of the fitted examples; -1 = noise, or a row without any value), probability (kmeans, gmm and n2d: that
of the cluster given the code; centres: the assignment q; hdbscan: the strength of the membership).

Neighbours are the rows of the database whose codes are nearest to that of a query: columns query, rank, neighbour (its
id) and similarity. An index holds the codes of a database, so that they are computed once: --database=FILE.npz.

With --distributed several processes share the rows, and --output is a folder of Parquet files, one of each process;
start it as a training, such as by launch/local.sh 2 predict ... . The id gives the order of the rows.

  python -m aejax.predict --workdir=runs/ae-table-1b2c3d4e --input=parquet:new.parquet --output=scores.csv --what=scores
"""

import contextlib
import functools
import time
from collections.abc import Iterator
from pathlib import Path

import jax
from absl import flags

from aejax import cli
from aejax.data import dataset, output, stream
from aejax.errors import FieldError, InputError
from aejax.parallel import processes
from aejax.prediction import WHATS, Asked, What, write
from aejax.storage import saved
from aejax.trained import Trained
from aejax.uses.clustering.partitions import METHODS
from aejax.uses.generation.samplers import NAMES
from aejax.uses.neighbours import METRICS
from aejax.uses.retrieval import index

K = 10  # neighbours of a query


def define_flags() -> None:
    """The flags of the command; they are defined when it runs, since other commands have flags of the same names."""
    flags.DEFINE_string("workdir", None, "run directory of the model")
    flags.DEFINE_string(
        "input", None, "source of the examples, such as csv:FILE; see above; left out: the run's own source"
    )
    flags.DEFINE_string("output", None, f"file to write: {', '.join(output.WRITERS)}")
    flags.DEFINE_enum("what", "codes", WHATS, "what to write for each example")
    flags.DEFINE_enum("split", "all", ["all", *dataset.SPLITS], "split of the run's own source to read; all: all rows")
    flags.DEFINE_enum("checkpoint", "last", ["last", "best"], "last, or best by validation loss")
    flags.DEFINE_integer("n", None, "samples: their number; completions: draws per image", lower_bound=1)
    flags.DEFINE_integer(
        "seed", None, "samples: seed of their codes; completions: seed of masks and draws; default: 0", lower_bound=0
    )
    flags.DEFINE_string(
        "database", None, "neighbours: source of the rows to search, or a file of --what=index; left out: the training "
        "split of the run's own source"
    )  # fmt: skip
    flags.DEFINE_integer("k", None, f"neighbours: how many for each query; default: {K}", lower_bound=1)
    flags.DEFINE_string("maps", None, "anomalies: folder for a PNG of each flagged image with a map of its error")
    flags.DEFINE_string(
        "mask", None, "restored: source of the masks for an inpainting model, images:DIR or images:FILE; white = hidden"
    )
    flags.DEFINE_enum("method", None, list(METHODS), "clusters: by which method; left out: the first that was fitted")
    flags.DEFINE_enum("sampler", None, NAMES, "samples: density of the codes; left out: the prior N(0, I) of the model")
    flags.DEFINE_string("label", None, "samples: class of the examples, with --sampler")
    flags.DEFINE_integer("beam", None, "sequences: that the search keeps, 1 = greedy; left out: uses.sequence.beam", 1)
    flags.DEFINE_string("text", None, "neighbours: one query, in place of --input")
    flags.DEFINE_enum(
        "metric", None, METRICS, "neighbours, index: similarity of codes; left out: uses.retrieval.metric"
    )
    flags.DEFINE_integer("bits", 0, "neighbours, index: compare signed codes of so many bits; 0 = codes", lower_bound=0)

    cli.define_distributed("write together with other processes: --output is a folder of Parquet files")


def main() -> None:
    given = flags.FLAGS
    what = given.what
    needed = ["workdir", *([] if given.text is not None else ["output"])]
    needed += ["n"] if what == "samples" else []
    for name in needed:
        if getattr(given, name) in (None, ""):
            raise InputError(f"--{name}=... is needed with --what={what}; --help shows more")
    for name in dict.fromkeys(name for one in WHATS.values() for name in one.flags):
        whats = [other for other, one in WHATS.items() if name in one.flags]
        if getattr(given, name) and what not in whats:
            raise InputError(f"--{name}={getattr(given, name)}: is for --what={' or '.join(whats)}")
    if what == "samples" and (given.input or given.split != "all"):
        raise InputError("--what=samples takes no --input and no --split: it decodes codes that it draws")
    for name, usual in (("input", None), ("output", None), ("split", "all")):
        if given.text is not None and getattr(given, name) != usual:
            raise InputError(f"--text and --{name}: give one of them; --text prints the neighbours of one query")
    cli.join()
    with processes.guarded():
        _predict(given, WHATS[what])


def _predict(given: flags.FlagValues, what: What) -> None:
    for name in ("input", "database"):
        source = getattr(given, name) or ""
        if given.output and Path(source.partition(":")[2] or source).resolve() == Path(given.output).resolve():
            raise InputError(f"--output={given.output}: is the --{name}, which would be lost")
    models = saved.load_all(given.workdir, given.checkpoint) if what.members else []
    models = models or [saved.load(given.workdir, given.checkpoint)]
    model = models[0]
    if what.classifier:
        model.check_classifier()
    elif what.classifier is not None:
        model.refuse_classifier(given.what)
    begin = time.perf_counter()
    share = (jax.process_index(), jax.process_count())
    metric = given.metric or model.config.uses.retrieval.metric
    database = functools.partial(_database, model, given.database, metric, given.bits, given.k or K)
    if given.text is not None:
        return _search_text(database(), given.text, given.k or K)
    asked = Asked(
        models, database, given.workdir, given.output, given.input or model.config.data.source, given.split, share,
        given.n, given.seed or 0, given.k or K, metric, given.bits, given.maps, given.mask, given.method, given.sampler,
        given.label, given.beam,
    )  # fmt: skip
    path = _part(given.output, given.what)
    with _naming("--input", asked.source):
        rows = what.rows(asked)
    made = what.made(asked, rows)
    with _naming("--input", asked.source):
        count = write(model, rows, given.what, path, made, may_be_empty=share[1] > 1)
    count = processes.total(count)
    if not count:
        raise InputError("--input: has no rows")
    seconds = time.perf_counter() - begin
    if not processes.first():
        return
    said = f"{given.output}: {given.what} of {count} rows in {seconds:.2f} s, {count / seconds:.0f} rows/s"
    print("; ".join([said, *rows.notes, *made.notes()]))


def _part(path: str, what: str) -> str:
    """The file that this process writes: --output, or of several processes a file in the folder --output."""
    n, i = jax.process_count(), jax.process_index()
    if not flags.FLAGS.distributed:
        return path
    folder = Path(path)
    if folder.suffix != ".parquet" or what == "index":
        raise InputError(f"--output={path}: must end in .parquet with --distributed, and --what={what} be no index")
    if folder.is_file() or any(not file.name.endswith(f"-of-{n:05}.parquet") for file in folder.glob("part-*")):
        raise InputError(f"--output={path}: exists, and is not of {n} processes; name a new folder")
    folder.mkdir(exist_ok=True)
    name = f"part-{i:05}-of-{n:05}.parquet"
    for left in folder.glob(f".{name}.*.tmp"):  # of a process that was killed
        left.unlink(missing_ok=True)
    return str(folder / name)


def _database(model: Trained, source: str | None, metric: str, bits: int, k: int) -> index.Index:
    """The index of --database, or of the run's training split; it has at least k rows."""
    found = _index(model, source, metric, bits)
    if k > len(found):
        of = f"--database={source}" if source else "the training split"
        raise InputError(f"--k={k}: must be at most the {len(found)} rows of {of}")
    return found


def _index(model: Trained, source: str | None, metric: str, bits: int) -> index.Index:
    if source is None:
        rows = stream.read(model.config.data.source, model.config, model.spec, model.take, "train", flag="--database")
        return index.of_batches(model, rows.batches, metric=metric, bits=bits)
    if Path(source).suffix == ".npz" and ":" not in source:
        found = index.load(source, model)
        for name, asked, own in (("metric", flags.FLAGS.metric, found.metric), ("bits", bits, found.bits)):
            if asked and asked != own:
                raise InputError(f"--{name}={asked}: the index {source} has {own}; leave the flag out")
        return found
    with _naming("--database", source):
        rows = stream.read(source, model.config, model.spec, model.take, flag="--database")
        return index.of_batches(model, rows.batches, metric=metric, bits=bits)


def _search_text(database: index.Index, text: str, k: int) -> None:
    """Print the neighbours of one text."""
    if not database.model.spec.x.text:
        raise InputError(
            f"--text={text!r}: needs a run on texts; this run takes a {database.model.spec.x.kind}: --input"
        )
    if not text.strip():
        raise InputError("--text='': is empty; give the words of a query")
    try:
        found = database.search([text], k)
    except InputError as error:
        raise InputError(f"--text={text!r}: {error}") from error
    print("rank,neighbour,similarity")
    for rank, (name, similarity) in enumerate(zip(found.neighbours[0], found.similarity[0], strict=True), 1):
        print(f"{rank},{name},{similarity:.4f}")


@contextlib.contextmanager
def _naming(flag: str, source: str) -> Iterator[None]:
    """Context manager: an error of config.data.source names the flag instead."""
    try:
        yield
    except FieldError as error:
        if error.field == "data.text_column":  # there is no flag for it
            raise InputError(f"{flag} = {source!r}: must be a file of one document per line") from error
        if error.field != "data.source":
            raise
        raise InputError(f"{flag} = {error.value!r}: {error.allowed}") from error
    except InputError as error:
        if not str(error).startswith("the input"):
            raise
        said = str(error).removeprefix("the input").removeprefix(": ")
        raise InputError(f"{flag} = {source!r}: {said}") from error


if __name__ == "__main__":
    define_flags()
    cli.run(main)
