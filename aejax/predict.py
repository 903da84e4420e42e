"""Apply a run to new data, a batch at a time.

  python -m aejax.predict --workdir=DIR --input=SOURCE --output=FILE --what=codes|reconstructions|scores
  python -m aejax.predict --workdir=DIR --split=test --output=FILE      rows of the run's own source
  python -m aejax.predict --workdir=DIR --n=NUMBER --output=FILE --what=samples

SOURCE is written as the data source of a config, such as csv:new.csv; FILE ends in .npz, .npy, .csv or .parquet.
The rows of the input keep their order. They are read and written a batch at a time, so that there may be more of
them than fit in memory (of parquet, csv, npy, images, tfds and text). A table's columns are found by their names.

  python -m aejax.predict --workdir=runs/ae-table-1b2c3d4e --input=parquet:new.parquet --output=scores.csv --what=scores
"""

import time
from pathlib import Path

from absl import flags

from aejax import cli
from aejax.data import dataset, output, stream
from aejax.errors import FieldError, InputError
from aejax.storage import saved
from aejax.trained import BATCH, Trained

PURE = {
    "codes": Trained.pure_encode,
    "reconstructions": Trained.pure_reconstruct,
    "scores": Trained.pure_score,
    "samples": Trained.pure_decode,
    "probabilities": Trained.pure_reconstruct,
}


def write(model: Trained, rows: stream.Rows, what: str, path: str | Path) -> int:
    """What PURE names, of examples as the model takes them (samples: of codes), to a file in their order.

    Returns the number of rows. Raises InputError, and then leaves no file.
    """
    function, count = getattr(model, PURE[what].__name__), 0
    like_input = what in ("reconstructions", "samples")
    columns = model.spec.x.outputs if like_input else model.spec.classes if what == "probabilities" else ()
    with output.opened(path, what, columns, rows.id_name) as append:
        for batch in rows.batches:
            made = model.map(function, batch.x)
            append(batch.ids, model.spec.x.unscale(made) if like_input else made)
            count += len(made)
        if not count:
            raise InputError("--input: has no rows")
    return count


def define_flags() -> None:
    """The flags of the command; they are defined when it runs, since other commands have flags of the same names."""
    flags.DEFINE_string("workdir", None, "run directory of the model")
    flags.DEFINE_string("input", None, "source of the examples, such as csv:FILE; see above")
    flags.DEFINE_string("output", None, f"file to write: {', '.join(output.WRITERS)}")
    flags.DEFINE_enum("what", "codes", list(PURE), "what to write for each example")
    flags.DEFINE_enum("split", "all", ["all", *dataset.SPLITS], "rows of the run's own source")
    flags.DEFINE_enum("checkpoint", "last", ["last", "best"], "last, or best by validation loss")
    flags.DEFINE_integer("n", None, "samples: how many", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "samples: of their codes", lower_bound=0)


def main() -> None:
    given = flags.FLAGS
    needed = ["workdir", "output"]
    if given.what == "samples":
        needed.append("n")
    elif given.split == "all":  # a split is of the run's own source
        needed.append("input")
    for name in needed:
        if getattr(given, name) in (None, ""):
            raise InputError(f"--{name}=... is needed with --what={given.what}; --help shows more")
    if given.what == "samples" and (given.input or given.split != "all"):
        raise InputError("--what=samples takes no --input and no --split: it decodes codes from the prior")
    if given.what != "samples" and given.n is not None:
        raise InputError(f"--n={given.n}: is for --what=samples alone")
    model = saved.load(given.workdir, given.checkpoint)
    if given.what == "probabilities":
        model.check_classifier()
    elif given.what != "codes":
        model.refuse_classifier(given.what)
    begin = time.perf_counter()
    try:
        if given.what == "samples":
            z = model.prior(given.n, given.seed)
            parts = (stream.Batch(range(i, i + BATCH)[: len(z) - i], z[i : i + BATCH]) for i in range(0, len(z), BATCH))
            rows = stream.Rows(parts)
        else:
            source = given.input or model.config.data.source
            if Path(source.partition(":")[2]).resolve() == Path(given.output).resolve():
                raise InputError(f"--output={given.output}: is the --input, which would be lost")
            rows = stream.read(source, model.config, model.spec, model.take, given.split)
        count = write(model, rows, given.what, given.output)
    except FieldError as error:
        if error.field == "data.text_column":  # which there is no flag for
            raise InputError(f"--input = {given.input!r}: must be a file of a document a line, as the run's") from error
        if error.field != "data.source":
            raise
        raise InputError(f"--input = {error.value!r}: {error.allowed}") from error
    seconds = time.perf_counter() - begin
    print(f"{given.output}: {given.what} of {count} rows in {seconds:.2f} s, {count / seconds:.0f} rows/s")


if __name__ == "__main__":
    define_flags()
    cli.run(main)
