"""Ordered codes by nested dropout (Rippel, Gelbart & Adams, 2014): one model compresses at every rate.

python -m aejax.main --config=configs/nested_dropout.py             digits, a minute: compression/file_ratio 0.70
python -m aejax.main --config=configs/nested_dropout.py:idx:DIR     MNIST, 14 minutes: compression/file_ratio 0.56
"""

from ml_collections import ConfigDict

from aejax.config import default


def get_config(source: str = "digits") -> ConfigDict:
    config = default(source)
    config.name = "nested_dropout"
    config.model.encoder.widths = (500, 250)
    config.model.encoder.norm = "batch"
    config.model.bottleneck.name = "nested"
    config.model.bottleneck.size = 32
    config.model.bottleneck.nested.p = 0.1
    config.objective.likelihood = "squared_error"
    config.optim.learning_rate = 2e-3
    config.optim.schedule = "cosine"
    config.train.batch_size = 200
    config.train.epochs = 300 if source == "digits" else 25
    config.uses.run = ("reconstruction", "compression")
    config.uses.compression.components = 10 if source == "digits" else 30
    return config
