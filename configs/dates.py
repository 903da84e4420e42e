"""Sequence to sequence: dates as people write them -> ISO 8601, by LSTMs with attention (Luong et al. 2015).

python -m aejax.main --config=configs/dates.py                     12,000 generated dates
python -m aejax.main --config=configs/dates.py:text_pairs:FILE     your own pairs, a tab between the two texts of a line
"""

from ml_collections import ConfigDict

from aejax.config import default


def get_config(source: str = "dates") -> ConfigDict:
    config = default(source)
    config.name = "dates"
    config.data.validation_fraction = 0.1
    config.pair.name = "caption"
    config.model.name = "seq2seq"
    config.model.encoder.widths = (128,)
    config.model.bottleneck.size = 128
    config.objective.likelihood = "categorical"
    config.optim.learning_rate = 2e-3
    config.optim.schedule = "cosine"
    config.optim.clip = 1.0
    config.train.epochs = 5
    config.train.batch_size = 60
    config.uses.run = ("sequence",)
    return config
