"""Bags of words through 2000-500-250-125-10 with the categorical likelihood (Hinton & Salakhutdinov, 2006, figure 4).

python -m aejax.main --config=configs/text.py                this repository's README, one document a line
python -m aejax.main --config=configs/text.py:text:FILE      documents of your own
"""

from ml_collections import ConfigDict

from aejax.config import default


def get_config(source: str = "text:README.md") -> ConfigDict:
    config = default(source)
    config.name = "text"
    config.pair.name = "denoise"
    config.pair.denoise.corruption = "masking"
    config.pair.denoise.level = 0.5
    config.pair.input = "log"
    config.model.encoder.widths = (500, 250, 125)
    config.model.bottleneck.size = 10
    config.objective.likelihood = "categorical"
    config.optim.schedule = "cosine"
    config.train.batch_size = 100
    config.train.epochs = 30
    return config
