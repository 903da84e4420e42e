"""Adversarial autoencoder (Makhzani et al., 2016): a discriminator makes an 8-dimensional code follow N(0, I).

python -m aejax.main --config=configs/aae.py            digits
python -m aejax.main --config=configs/aae.py:idx:DIR    MNIST
"""

from ml_collections import ConfigDict

from aejax.config import default


def get_config(source: str = "digits") -> ConfigDict:
    config = default(source)
    config.name = "aae"
    config.method.name = "adversarial"
    config.model.encoder.widths = (256, 256)
    config.model.bottleneck.size = 8
    config.optim.name = "rmsprop"
    config.optim.momentum = 0.0  # with momentum encoder and discriminator circle around each other
    config.optim.schedule = "cosine"
    config.uses.run = ("reconstruction", "prior")
    config.train.epochs = 200 if source == "digits" else 50
    return config
