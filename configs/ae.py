"""Symmetric autoencoder 256-128-64-2: a two-dimensional code for plots.

python -m aejax.main --config=configs/ae.py            digits, 15 s: test/squared_error 2.60 (PCA 3.49)
python -m aejax.main --config=configs/ae.py:idx:DIR    MNIST, 20 epochs
"""

from ml_collections import ConfigDict

from aejax.config import default


def get_config(source: str = "digits") -> ConfigDict:
    config = default(source)
    config.name = "ae"
    config.objective.likelihood = "squared_error"
    config.train.epochs = 200 if source == "digits" else 20
    return config
