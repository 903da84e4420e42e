"""Decompress a file of aejax.compress.

  python -m aejax.decompress --workdir=DIR --input=FILE --output=FILE.npz|FILE.npy|FOLDER

DIR is the run that compressed the file. OUTPUT ends in .npz (array x, with the names of image files in `file`), .npy,
or for tables .csv or .parquet; any other name is a new folder of PNG files. A file without loss gives the values, shape
and type that were compressed, on every machine. A file of quantised codes gives the model's reconstructions.

A file that is truncated, altered, or of another model is refused, and nothing is written.

  python -m aejax.decompress --workdir=runs/lossless-digits-1b2c3d4e --input=binary.aejax --output=binary.npz
"""

import time
from pathlib import Path

from absl import flags

from aejax import cli
from aejax.errors import InputError


def define_flags() -> None:
    """The flags of the command; they are defined when it runs, since other commands have flags of the same names."""
    flags.DEFINE_string("workdir", None, "run directory of the model", required=True)
    flags.DEFINE_string("input", None, "file of aejax.compress", required=True)
    flags.DEFINE_string("output", None, "file to write, or a new folder of images", required=True)
    flags.DEFINE_enum("checkpoint", "last", ["last", "best"], "last, or best by validation loss")
    flags.DEFINE_integer(
        "batch_size", 1024, "rows that are computed together; the result does not depend on it", lower_bound=1
    )


def main() -> None:
    from aejax import archive  # here, so that --help need not wait for it
    from aejax.storage import saved

    given = flags.FLAGS
    path, output = Path(given.input).expanduser(), Path(given.output).expanduser()
    if path.resolve() == output.resolve():
        raise InputError(f"--output={given.output}: is the --input, which would be lost")
    start = time.perf_counter()
    model = saved.load(given.workdir, given.checkpoint)
    archive.check_output(model, output)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"--input={path}: cannot be read: {error.strerror}") from error
    fitted = saved.load_quantizer(given.workdir, model)
    x, form, _ = archive.decompress(model, content, f"--input={path}", fitted, given.batch_size)
    archive.write(model, output, x, form)
    print(f"{output}: {len(x):,} examples, {archive.kind(content)}, in {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    define_flags()
    cli.run(main)
