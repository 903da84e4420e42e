"""Measure a trained run again: run uses on it, at any time after training.

  python -m aejax.evaluate --workdir=DIR --use=probe,jacobian [--input=SOURCE] [--USE.field=value ...]
  python -m aejax.evaluate --workdir=DIR --use=all        every use that the model and the data allow

SOURCE is written like the data source of a config. Its test split is measured, or all its rows if it has none. The
default is the run's own test split. Numbers, tables and figures are written to uses/ of the run directory, and its page
is written again. Nothing else of the run changes.

  python -m aejax.evaluate --workdir=runs/contractive-digits-1b2c3d4e --use=jacobian --jacobian.examples=100
"""

import re
import sys
from pathlib import Path

from absl import flags

from aejax import cli
from aejax.errors import FieldError, InputError

ALL = "all"
OF_A_USE = re.compile(r"--(\w+)\.(\w+)=(.*)")


def command() -> None:
    own = [match for argument in sys.argv[1:] if (match := OF_A_USE.fullmatch(argument))]
    sys.argv = [argument for argument in sys.argv if not OF_A_USE.fullmatch(argument)]
    workdir = flags.DEFINE_string("workdir", None, "run directory", required=True)
    use = flags.DEFINE_list("use", None, "uses to run, or all", required=True)
    source = flags.DEFINE_string("input", None, "source of the test examples, such as csv:FILE; default: the run's")
    checkpoint = flags.DEFINE_enum("checkpoint", "last", ["last", "best"], "last, or best by validation loss")

    def main() -> None:
        from aejax import fields
        from aejax.config import set_field
        from aejax.page import report, results
        from aejax.storage import run_dir, saved
        from aejax.uses import USES, runner
        from aejax.uses.data import Data, with_input

        everything = use.value == [ALL]
        names = list(USES) if everything else use.value
        unknown = [name for name in names if name not in USES]
        if unknown or not names:
            raise InputError(f"--use={','.join(use.value)}: must be {ALL}, or some of {', '.join(USES)}")
        path = Path(workdir.value)
        model = saved.load(path, checkpoint.value)
        config = model.config.copy_and_resolve_references()
        for name, field, text in (match.groups() for match in own):
            known = fields.declared(USES[name].measure) if name in USES else {}
            if name not in names or field not in known:
                listed = ", ".join(f"--{n}.{f}" for n in names for f in fields.declared(USES[n].measure)) or "none"
                raise InputError(f"--{name}.{field}: no such field of the uses {', '.join(names)}; there are {listed}")
            value = known[field].parse(f"--{name}.{field}", text)
            for error in known[field].check(f"uses.{name}.{field}", value):
                raise InputError(f"--{name}.{field}={text}: {error.allowed}")
            set_field(config, f"uses.{name}.{field}", value)
        for name in list(names):
            for error in USES[name].check(config, model.spec):
                value = ",".join(map(str, error.value)) if isinstance(error.value, tuple) else error.value
                part, _, field = error.field.partition(".")
                flag = "--use" if field == "run" else f"--{field}" if part == "uses" else f"config.{error.field}"
                said = f"{flag}={value}: {error.allowed}"
                if not everything:
                    raise InputError(said)
                print(f"use {name}: left out: {said}")
                names.remove(name)
                break
        try:
            data = Data(model.experiment, with_input(config, model.spec, source.value))
        except FieldError as error:
            if error.field == "data.source" and source.value:
                raise InputError(f"--input = {error.value!r}: {error.allowed}") from error
            raise
        found = runner.run(model, data, names, path, config.uses)
        if found:
            print(results.table(found))
        if run_dir.read_results(path) is not None and config.figures.enabled:
            report.write(path)
            print(path / run_dir.REPORT)

    cli.run(main)


if __name__ == "__main__":
    command()
