"""Compress data with a trained model.

  python -m aejax.compress --workdir=DIR --input=SOURCE --output=FILE [--step=0.5]
  python -m aejax.decompress --workdir=DIR --input=FILE --output=FILE.npz

SOURCE is written as the data source of a config, such as npz:new.npz. FILE holds the examples in their order, and a
checksum. aejax.decompress needs the same run.

A variational autoencoder with objective.likelihood = 'bernoulli' compresses binary examples without loss: images of 0
and 255 (floats: 0 and 1), or tables of 0 and 1. Grey images are refused. Any other model, and a run with --step, stores
quantised codes: the decompressed examples are the model's reconstructions. This needs the use `compression` of the run
(python -m aejax.evaluate --use=compression); its uses.compression.steps are the values of --step.

  python -m aejax.compress --workdir=runs/lossless-digits-1b2c3d4e --input=npz:binary.npz --output=binary.aejax
"""

import time
from pathlib import Path

from absl import flags

from aejax import cli
from aejax.errors import InputError


def define_flags() -> None:
    """The flags of the command; they are defined when it runs, since other commands have flags of the same names."""
    flags.DEFINE_string("workdir", None, "run directory of the model", required=True)
    flags.DEFINE_string("input", None, "source of the examples, such as npz:FILE; left out: the run's own source")
    flags.DEFINE_string("output", None, "file to write", required=True)
    flags.DEFINE_enum(
        "split", "all", ["all", "train", "validation", "test"], "split of the run's own source; all: all rows"
    )
    flags.DEFINE_float(
        "step", 0, "store quantised codes with this step; 0: without loss, or the first step", lower_bound=0
    )
    flags.DEFINE_enum("checkpoint", "last", ["last", "best"], "last, or best by validation loss")
    flags.DEFINE_integer(
        "batch_size", 1024, "rows that are computed together; the file does not depend on it", lower_bound=1
    )


def main() -> None:
    from aejax import archive  # here, so that --help need not wait for it
    from aejax.storage import run_dir, saved

    given = flags.FLAGS
    source = given.input or ""
    if Path(source.partition(":")[2] or source).resolve() == Path(given.output).resolve():
        raise InputError(f"--output={given.output}: is the --input, which would be lost")
    output, start = Path(given.output).expanduser(), time.perf_counter()
    archive.check_file(output)
    model = saved.load(given.workdir, given.checkpoint)
    fitted = saved.load_quantizer(given.workdir, model)
    examples = archive.read(model, given.input, given.split)
    content = archive.compress(model, examples, fitted, given.step, given.batch_size)
    run_dir.write_output(output, content)
    n, values = examples.x.shape[0], examples.x.size
    print(
        f"{given.output}: {n:,} examples in {len(content):,} bytes, {8 * len(content) / values:.4f} bits per value, "
        f"{archive.kind(content)}, in {time.perf_counter() - start:.1f} s"
    )


if __name__ == "__main__":
    define_flags()
    cli.run(main)
