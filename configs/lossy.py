"""Lossy compression of images by quantised codes: a variational autoencoder with a gaussian likelihood, whose standard
deviation sets the rate at which it works best.

python -m aejax.main --config=configs/lossy.py             digits, a minute: compression/file_ratio 0.66
python -m aejax.main --config=configs/lossy.py:idx:DIR     MNIST, 7 minutes: compression/file_ratio 0.37
"""

from ml_collections import ConfigDict

from aejax.config import default


def get_config(source: str = "digits") -> ConfigDict:
    config = default(source)
    config.name = "lossy"
    config.model.encoder.widths = (500, 250)
    config.model.encoder.norm = "batch"
    config.model.bottleneck.name = "gaussian"
    config.model.bottleneck.size = 24
    config.objective.likelihood = "gaussian"
    config.objective.sigma = 0.3 if source == "digits" else 0.6
    config.optim.learning_rate = 2e-3
    config.optim.schedule = "cosine"
    config.train.batch_size = 200
    config.train.epochs = 300 if source == "digits" else 25
    config.uses.run = ("reconstruction", "compression")
    config.uses.compression.components = 10 if source == "digits" else 30
    return config
