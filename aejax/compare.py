"""Runs side by side: the fields of their configs that differ, and their results.

  python -m aejax.compare RUN... [--sort=test/loss] [--csv=FILE] [--figure=FILE] [--allow_different_data]

RUN is a run directory. --sort names a result or a field of the config, with a minus before it from high to low:
  python -m aejax.compare runs/* --sort=test/squared_error --csv=runs.csv --figure=runs.png

Runs on different data are refused unless told otherwise; a run that is not finished has no results and comes last.
"""

import shutil
from pathlib import Path

from absl import flags

from aejax import cli


def command() -> None:
    sort = flags.DEFINE_string(
        "sort", None, "result or field to sort by, test/loss where there is one; -NAME: from high to low"
    )
    csv_file = flags.DEFINE_string("csv", None, "file to write the table to")
    figure_file = flags.DEFINE_string("figure", None, "file to draw to: .png, .pdf or .svg")
    different = flags.DEFINE_bool("allow_different_data", False, "compare runs on different data")

    def main(*paths: str) -> None:
        from aejax.page import comparison
        from aejax.page.plots import encode
        from aejax.storage import run_dir

        runs = comparison.read(paths, allow_different_data=different.value)
        found = comparison.measured(runs)
        usual = "test/loss" if "test/loss" in found else found[0]
        key = sort.value or usual
        runs = comparison.ordered(runs, key)
        if figure_file.value:
            shown = key.removeprefix("-")
            shown = shown if shown in found else usual
            path = Path(figure_file.value)
            figure = comparison.comparison(runs, comparison.labels(runs), shown)
            run_dir.write_output(path, encode(figure, path))
        if csv_file.value:
            run_dir.write_output(Path(csv_file.value), comparison.to_csv(runs))
        print(comparison.table(runs, shutil.get_terminal_size((160, 24)).columns))

    cli.run(main, arguments=True)


if __name__ == "__main__":
    command()
