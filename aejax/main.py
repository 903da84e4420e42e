"""Train an autoencoder, or resume a run that was stopped.

  python -m aejax.main --config=NAME|PATH[:SOURCE] [--workdir=DIR] [--config.section.field=value ...]

NAME is one of the shipped configs, such as vae; PATH is a file that defines get_config(source).

SOURCE is where the examples come from (default: digits, 1797 images that come with scikit-learn):
  digits | tinted_digits | idx:DIR | npz:FILE | npy:FILE | mat:FILE | csv:FILE | parquet:FILE |
  images:DIR | tfds:NAME[@DATA_DIR] | text:FILE | docstrings |
  control_charts | wav:DIR | series:FILE | periodic

  python -m aejax.main --config=configs/vae.py
  python -m aejax.main --config=configs/deep.py:idx:data/mnist --config.seed=1
  python -m aejax.main --config=configs/ae.py:csv:table.csv --config.objective.likelihood=squared_error
  python -m aejax.main --config=configs/vae.py --config.model.encoder.widths=500,200 --print_config

Several models in one program, each a run of its own in RUN/members/N:
  python -m aejax.main --config=configs/ae.py --config.population.seeds=5
  python -m aejax.main --config=configs/vae.py --sweep=objective.kl.weight=0.5,1,2 --config.population.seeds=3

A search: settings drawn from ranges, the worse ones stopped early, the best one chosen by validation:
  python -m aejax.main --config=configs/vae.py --search=20 --range=optim.learning_rate=1e-4..1e-2:log \\
    --range=objective.kl.weight=0.1..4 --config.data.validation_fraction=0.1

With --distributed several processes, on one machine or many, train one run. Start the same command in each of them.
Slurm, Kubernetes and TPU pods number the processes; elsewhere use --coordinator, --processes and --process_id. All
processes must see the run directory. launch/ has files that start them.

Exit codes: 0 done; 2 bad input; 3 non-finite loss; 4 another process was lost; 143 stopped by SIGTERM, 130 by
Ctrl-C, after saving.
"""

import shutil

from absl import flags

from aejax import cli

CONFIG = cli.define_config()
WORKDIR = flags.DEFINE_string("workdir", None, "run directory; default: runs/NAME-SOURCE-DIGEST of the config")
RESTART_STAGE = flags.DEFINE_integer(
    "restart_stage", None, "stage of pretraining to delete and train again, with the following ones", lower_bound=0
)
cli.define_distributed("train together with other processes")
SWEEP = flags.DEFINE_multi_string(
    "sweep", [], "FIELD=VALUE,VALUE,...: train a model for each value, and for each combination of several sweeps"
)
ZIP = flags.DEFINE_bool("zip", False, "pair the values of several sweeps, instead of every combination")
SEARCH = flags.DEFINE_integer(
    "search", None, "number of settings that are drawn from --range; needs a validation split"
)
RANGE = flags.DEFINE_multi_string(
    "range",
    [],
    "FIELD=LOW..HIGH, FIELD=LOW..HIGH:log or FIELD=VALUE,VALUE,...: what --search draws from; may be repeated",
)
PRINT_CONFIG = flags.DEFINE_bool("print_config", False, "print every field of the config, and end")


def main() -> None:
    from aejax import config
    from aejax.parallel import mesh, processes
    from aejax.storage import run_dir
    from aejax.training import members, plan

    with CONFIG.value.unlocked():
        CONFIG.value.population.sweep = (*CONFIG.value.population.sweep, *SWEEP.value)
        CONFIG.value.population.zip |= ZIP.value
        CONFIG.value.population.ranges = (*CONFIG.value.population.ranges, *RANGE.value)
        if SEARCH.value is not None:
            CONFIG.value.population.search = SEARCH.value
    several = members.several(CONFIG.value)
    if PRINT_CONFIG.value:
        print(config.describe(plan.resolve(CONFIG.value)))
        return
    if several or CONFIG.value.data.labeled_examples:  # whose settings and folds are a population
        mesh.split_cpu(run_dir.cores())
    cli.join()
    from aejax import population, run
    from aejax.page import diagnosis, results
    from aejax.storage import metrics

    with processes.guarded():
        if several:
            found = population.run(CONFIG.value, WORKDIR.value)
        else:
            found = run.run(CONFIG.value, WORKDIR.value, restart_stage=RESTART_STAGE.value)
        if processes.first():
            path = run.directory(CONFIG.value, WORKDIR.value)
            if several:
                print(population.table(path, shutil.get_terminal_size((160, 24)).columns))
            else:
                print(results.table(found, results.likelihood(CONFIG.value)))
            for note in [] if several else diagnosis.notes(CONFIG.value, found, metrics.read(path)):
                print(f"note: {note}")
            if (path / run_dir.REPORT).is_file():
                print(f"page: {path / run_dir.REPORT}")


if __name__ == "__main__":
    cli.run(main)
