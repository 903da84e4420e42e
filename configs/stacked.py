"""Greedy layer-wise pretraining of sparse layers 784-200-200, then a softmax layer and fine-tuning (UFLDL).

python -m aejax.main --config=configs/stacked.py            digits, 15 s: test/error 3.9 % (7.2 % from random weights)
python -m aejax.main --config=configs/stacked.py:idx:DIR    MNIST, 2 minutes: test/error 1.54 % (1.81 %),
                                                            2.7 % with frozen pretrained layers

`--config.finetune.name=autoencoder` unrolls the stages instead; `--config.finetune.freeze` trains the last layer
alone. One stage: `--config.pretrain.stage_1.epochs=20`; all stages: `--config.pretrain.default.epochs=20`.
`--config.pretrain.widths=200,100,50` trains three stages, and their fields can be set in the same command.
"""

from ml_collections import ConfigDict

from aejax.config import default, stages


def get_config(source: str = "digits") -> ConfigDict:
    config = default(source)
    config.name = "stacked"
    config.pretrain.widths = (200, 200)
    config.model.encoder.activation = "sigmoid"
    config.model.code_activation = "sigmoid"
    config.model.encoder.dropout = 0.3
    config.finetune.name = "classifier"
    config.optim.schedule = "cosine"
    config.train.epochs = 60 if source == "digits" else 40

    stages(config, 2)
    stage = config.pretrain.default
    stage.tied = False
    stage.objective.likelihood = "bernoulli"
    stage.objective.kl_sparse.weight = 1.0
    stage.objective.kl_sparse.rho = 0.1
    stage.objective.weight_l2.weight = 1e-3  # the accuracy of a linear classifier depends on it most
    stage.optim.learning_rate = 5e-3
    stage.optim.schedule = "cosine"
    stage.epochs = 100 if source == "digits" else 30
    return config
