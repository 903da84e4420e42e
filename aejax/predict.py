"""Apply a run to new data, a batch at a time.

  python -m aejax.predict --workdir=DIR --input=SOURCE --output=FILE --what=codes|reconstructions|scores
  python -m aejax.predict --workdir=DIR [--split=test] --output=FILE    rows of the run's own source
  python -m aejax.predict --workdir=DIR --n=NUMBER --output=FILE --what=samples
  python -m aejax.predict --workdir=DIR --input=SOURCE --output=FILE.npz|FILE.npy --what=completions [--n=NUMBER]

SOURCE is written as the data source of a config, such as csv:new.csv; FILE ends in .npz, .npy, .csv or .parquet.
The rows of the input keep their order. They are read and written a batch at a time, so they may exceed memory
(parquet, csv, npy, images, tfds and text). A table's columns are found by their names.

Completions [rows, height, width, channels] are images in [0, 1]: an inpainting model hides a part by the mask of its
config and fills it in. With --n a conditional model draws several, [rows, n, height, width, channels]. --seed
determines masks and draws.

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
COMPLETIONS = "completions"


def write(
    model: Trained, rows: stream.Rows, what: str, path: str | Path, *, n: int | None = None, seed: int = 0
) -> int:
    """Write `what` (a name in PURE, or completions) for the model's examples (samples: for codes) to a file, in order.

    Completions: `n` for each row, or one without an axis for it if n is None; `seed` is that of the first batch.
    Returns the number of rows. Raises InputError, and then leaves no file.
    """
    if what == COMPLETIONS:
        _check_completions(model, path, n)
    like_input = what in ("reconstructions", "samples")
    columns = model.spec.x.outputs if like_input else model.spec.classes if what == "probabilities" else ()
    with output.opened(path, what, columns, rows.id_name) as append:
        count = 0
        for i, batch in enumerate(rows.batches):
            if what == COMPLETIONS:
                drawn = model.complete(batch.x, n=n or 1, seed=seed + i)  # [n, rows, ...]
                made = drawn[0] if n is None else drawn.swapaxes(0, 1)
            else:
                made = model.map(getattr(model, PURE[what].__name__), batch.x)
            append(batch.ids, model.spec.x.unscale(made) if like_input else made)
            count += len(made)
        if not count:
            raise InputError("--input: has no rows")
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


def define_flags() -> None:
    """The flags of the command; they are defined when it runs, since other commands have flags of the same names."""
    flags.DEFINE_string("workdir", None, "run directory of the model")
    flags.DEFINE_string(
        "input", None, "source of the examples, such as csv:FILE; see above; left out: the run's own source"
    )
    flags.DEFINE_string("output", None, f"file to write: {', '.join(output.WRITERS)}")
    flags.DEFINE_enum("what", "codes", [*PURE, COMPLETIONS], "what to write for each example")
    flags.DEFINE_enum("split", "all", ["all", *dataset.SPLITS], "split of the run's own source to read; all: all rows")
    flags.DEFINE_enum("checkpoint", "last", ["last", "best"], "last, or best by validation loss")
    flags.DEFINE_integer("n", None, "samples: their number; completions: draws per image", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "samples: seed of their codes; completions: seed of masks and draws", lower_bound=0)


def main() -> None:
    given = flags.FLAGS
    needed = ["workdir", "output"]
    if given.what == "samples":
        needed.append("n")
    for name in needed:
        if getattr(given, name) in (None, ""):
            raise InputError(f"--{name}=... is needed with --what={given.what}; --help shows more")
    if given.what == "samples" and (given.input or given.split != "all"):
        raise InputError("--what=samples takes no --input and no --split: it decodes codes from the prior")
    if given.what not in ("samples", COMPLETIONS) and given.n is not None:
        raise InputError(f"--n={given.n}: is for --what=samples or {COMPLETIONS}")
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
        count = write(model, rows, given.what, given.output, n=given.n, seed=given.seed)
    except FieldError as error:
        if error.field == "data.text_column":  # there is no flag for it
            raise InputError(f"--input = {given.input!r}: must be a file of one document per line") from error
        if error.field != "data.source":
            raise
        raise InputError(f"--input = {error.value!r}: {error.allowed}") from error
    seconds = time.perf_counter() - begin
    made = f"{given.output}: {given.what} of {count} rows in {seconds:.2f} s, {count / seconds:.0f} rows/s"
    print("; ".join([made, *rows.notes]))


if __name__ == "__main__":
    define_flags()
    cli.run(main)
