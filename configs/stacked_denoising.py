"""Stacked denoising autoencoders, 3 layers of 1000 units, then a classifier (Vincent et al., 2010).

python -m aejax.main --config=configs/stacked_denoising.py            digits, a minute: test/error 3.6 %
                                                                      (3.9 % from random weights)
python -m aejax.main --config=configs/stacked_denoising.py:idx:DIR    MNIST, 12 minutes: test/error 1.22 %
                                                                      (Vincent et al.: 1.28 %)
"""

from ml_collections import ConfigDict

from aejax.config import default, stages


def get_config(source: str = "digits") -> ConfigDict:
    config = default(source)
    config.name = "stacked_denoising"
    config.pretrain.widths = (1000, 1000, 1000)
    config.model.encoder.activation = "sigmoid"
    config.model.encoder.dropout = 0.3
    config.model.code_activation = "sigmoid"
    config.finetune.name = "classifier"
    config.optim.schedule = "cosine"
    config.train.epochs = 60 if source == "digits" else 30

    stages(config, 3)
    stage = config.pretrain.default
    stage.pair.name = "denoise"
    stage.pair.denoise.level = 0.25
    stage.objective.weight_l2.weight = 1e-3
    stage.optim.learning_rate = 5e-3
    stage.optim.schedule = "cosine"
    stage.epochs = 50 if source == "digits" else 15
    return config
