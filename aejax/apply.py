"""The command `python -m aejax.predict`: a run applied to new data, a batch at a time."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from absl import flags

from aejax import predict
from aejax.data import dataset, output, stream
from aejax.errors import FieldError, InputError

PURE = {
    "codes": predict.Trained.pure_encode,
    "reconstructions": predict.Trained.pure_reconstruct,
    "scores": predict.Trained.pure_score,
    "samples": predict.Trained.pure_decode,
    "probabilities": predict.Trained.pure_reconstruct,
}


def write(model: predict.Trained, batches: Iterable[Any], what: str, path: str | Path) -> int:
    """What PURE names, of batches as the model takes them (samples: of codes), to a file in their order.

    Returns the number of rows. Raises InputError, and then leaves no file.
    """
    function, rows = getattr(model, PURE[what].__name__), 0
    like_input = what in ("reconstructions", "samples")
    columns = model.spec.columns if like_input else model.spec.classes if what == "probabilities" else ()
    with output.opened(path, what, columns) as append:
        for batch in batches:
            made = model.map(function, batch)
            append(model.spec.unscale(made) if like_input else made)
            rows += len(made)
        if not rows:
            raise InputError("--input: has no rows")
    return rows


def define_flags() -> None:
    """The flags of the command, defined when asked: other commands have flags of the same names."""
    flags.DEFINE_string("workdir", None, "run directory of the model")
    flags.DEFINE_string("input", None, "source of the examples, such as csv:FILE; see above")
    flags.DEFINE_string("output", None, f"file to write: {', '.join(output.WRITERS)}")
    flags.DEFINE_enum("what", "codes", list(PURE), "what to write for each example")
    flags.DEFINE_enum("split", "all", ["all", *dataset.SPLITS], "rows of the run's own source")
    flags.DEFINE_enum("checkpoint", "last", ["last", "best"], "last, or best by validation loss")
    flags.DEFINE_integer("n", None, "samples: how many", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "samples: of their codes", lower_bound=0)


def main() -> None:
    """`python -m aejax.predict`, once its flags are parsed."""
    given = flags.FLAGS
    needed = ["workdir", "output", "n" if given.what == "samples" else "input"]
    for name in needed:
        if getattr(given, name) in (None, ""):
            raise InputError(f"--{name}=... is needed with --what={given.what}; --help shows more")
    if given.what == "samples" and (given.input or given.split != "all"):
        raise InputError("--what=samples takes no --input and no --split: it decodes codes from the prior")
    if given.what != "samples" and given.n is not None:
        raise InputError(f"--n={given.n}: is for --what=samples alone")
    model = predict.load(given.workdir, given.checkpoint)
    if given.what == "probabilities":
        model.check_classifier()
    elif given.what != "codes":
        model.refuse_classifier(given.what)
    begin = time.perf_counter()
    try:
        if given.what == "samples":
            z = model.prior(given.n, given.seed)
            batches: Iterable[Any] = (z[i : i + predict.BATCH] for i in range(0, len(z), predict.BATCH))
        else:
            if Path(given.input.partition(":")[2]).resolve() == Path(given.output).resolve():
                raise InputError(f"--output={given.output}: is the --input, which would be lost")
            batches = stream.read(given.input, model.config, model.spec, model.take, given.split)
        rows = write(model, batches, given.what, given.output)
    except FieldError as error:
        if error.field == "data.text_column":  # which there is no flag for
            raise InputError(f"--input = {given.input!r}: must be a file of a document a line, as the run's") from error
        if error.field != "data.source":
            raise
        raise InputError(f"--input = {error.value!r}: {error.allowed}") from error
    seconds = time.perf_counter() - begin
    print(f"{given.output}: {given.what} of {rows} rows in {seconds:.2f} s, {rows / seconds:.0f} rows/s")
