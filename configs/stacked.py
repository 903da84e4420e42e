"""Greedy layer-wise pretraining of sparse layers 784-200-200, then a softmax layer and fine-tuning (UFLDL).

python -m aejax.main --config=configs/stacked.py    digits, a minute

`--config.finetune.name=autoencoder` unrolls the stages instead; `--config.finetune.freeze` trains the last layer
alone. A stage's own fields: `--config.pretrain.stage_1.epochs=20`; those of all: `--config.pretrain.default.epochs=20`.
"""

from ml_collections import ConfigDict

from aejax.config import default, stages


def get_config(source: str = "digits") -> ConfigDict:
    config = default(source)
    config.name = "stacked"
    config.pretrain.widths = (200, 200)
    config.model.encoder.activation = "sigmoid"
    config.model.code_activation = "sigmoid"
    config.finetune.name = "classifier"
    config.optim.schedule = "cosine"
    config.train.epochs = 60 if source == "digits" else 20

    stages(config, 2)
    stage = config.pretrain.default
    stage.tied = False
    stage.objective.likelihood = "squared_error"
    stage.objective.kl_sparse.weight = 6.0  # UFLDL: 3 beside half the squared error
    stage.objective.kl_sparse.rho = 0.1
    stage.objective.weight_l2.weight = 6e-3
    stage.optim.schedule = "cosine"
    stage.epochs = 100 if source == "digits" else 20
    return config
