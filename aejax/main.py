"""Train an autoencoder, or go on with a run that was stopped.

  python -m aejax.main --config=configs/NAME.py[:SOURCE] [--workdir=DIR] [--config.section.field=value ...]

SOURCE is where the examples come from (default: digits, 1797 images that come with scikit-learn):
  digits | tinted_digits | idx:DIR | npz:FILE | npy:FILE | csv:FILE | parquet:FILE | images:DIR |
  tfds:NAME[@DATA_DIR] | text:FILE

  python -m aejax.main --config=configs/vae.py
  python -m aejax.main --config=configs/deep.py:idx:data/mnist --config.seed=1
  python -m aejax.main --config=configs/ae.py:csv:table.csv --config.objective.likelihood=squared_error
  python -m aejax.main --config=configs/vae.py --config.model.encoder.widths=500,200 --print_config

Exit codes: 0 done; 2 bad input; 3 non-finite loss; 143 stopped by SIGTERM, after saving.
"""

from absl import flags

from aejax import cli

CONFIG = cli.define_config()
WORKDIR = flags.DEFINE_string("workdir", None, "run directory; default: runs/NAME-SOURCE-DIGEST of the config")
RESTART_STAGE = flags.DEFINE_integer(
    "restart_stage", None, "stage of pretraining to delete and train again, with all that follows it", lower_bound=0
)
PRINT_CONFIG = flags.DEFINE_bool("print_config", False, "print the resolved config and end")


def main() -> None:
    from aejax import config, plan, results, train, validation

    if PRINT_CONFIG.value:
        validation.validate(CONFIG.value)
        print(config.to_json(plan.resolve(CONFIG.value)))
        return
    print(results.table(train.run(CONFIG.value, WORKDIR.value, restart_stage=RESTART_STAGE.value)))


if __name__ == "__main__":
    cli.run(main)
