"""Runs side by side: the fields of their configs that differ, and their results.

  python -m aejax.compare RUN... [--sort=test/loss] [--csv=FILE] [--figure=FILE] [--allow_different_data]

RUN is a run directory. Runs that differ only by their seed form one row: mean ± sample standard deviation (n - 1), and
n, the number of finished runs. The CSV file has the columns n, METRIC_mean and METRIC_std; METRIC_std is empty if
n = 1. --sort takes a result or a field of the config; a minus before the name sorts from high to low:
  python -m aejax.compare runs/* --sort=test/squared_error --csv=runs.csv --figure=runs.png

The figure shows a result (--metric) during training and at its end, and against a numeric field of the config
(--against; default: the only one that differs). Bands and bars are one standard deviation:
  python -m aejax.compare runs/* --figure=runs.png --metric=test/probe_error --against=model.bottleneck.size

Runs on different data are refused without --allow_different_data. Unfinished runs have no results and come last.
"""

import shutil
from pathlib import Path

from absl import flags

from aejax import cli
from aejax.errors import InputError


def command() -> None:
    sort = flags.DEFINE_string(
        "sort", None, "result or field to sort by, default: test/loss if there is one; -NAME: from high to low"
    )
    csv_file = flags.DEFINE_string("csv", None, "file to write the table to")
    figure_file = flags.DEFINE_string("figure", None, "file to draw to: .png, .pdf or .svg")
    metric = flags.DEFINE_string("metric", None, "result in the figure; default: the one of --sort, else test/loss")
    against = flags.DEFINE_string("against", None, "numeric field for the figure, such as model.bottleneck.size")
    different = flags.DEFINE_bool("allow_different_data", False, "compare runs on different data")

    def main(*paths: str) -> None:
        from aejax.page import comparison, comparison_figure
        from aejax.plots import encode
        from aejax.storage import run_dir

        for flag in (metric, against):
            if flag.value and not figure_file.value:
                raise InputError(f"--{flag.name}={flag.value}: needs --figure=FILE")
        groups = comparison.grouped(comparison.read(paths, allow_different_data=different.value))
        found = comparison.measured(groups)
        usual = comparison.usual(groups)
        key = sort.value or usual
        groups = comparison.ordered(groups, key)
        if figure_file.value:
            sorted_by = key.removeprefix("-")
            shown = comparison_figure.metric(groups, metric.value or (sorted_by if sorted_by in found else usual))
            path, field = Path(figure_file.value), comparison_figure.against(groups, against.value)
            run_dir.write_output(path, encode(comparison_figure.figure(groups, shown, field), path))
        if csv_file.value:
            run_dir.write_output(Path(csv_file.value), comparison.to_csv(groups))
        print(comparison.table(groups, shutil.get_terminal_size((160, 24)).columns))

    cli.run(main, arguments=True)


if __name__ == "__main__":
    command()
