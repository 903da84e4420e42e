"""Write a run's page again: report.html in its directory, one offline file.

  python -m aejax.report --workdir=DIR

Training writes it at the end.
"""

from pathlib import Path

from absl import flags

from aejax import cli


def command() -> None:
    workdir = flags.DEFINE_string("workdir", None, "run directory", required=True)

    def main() -> None:
        from aejax.page import report
        from aejax.storage import run_dir

        report.write(Path(workdir.value))
        print(Path(workdir.value) / run_dir.REPORT)

    cli.run(main)


if __name__ == "__main__":
    command()
