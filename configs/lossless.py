"""Lossless compression of binary images by bits-back coding (Townsend, Bird & Barber, 2019): a variational autoencoder
with two hidden layers of 500 relu units and batch normalisation, code 40, dynamic binarisation.

python -m aejax.main --config=configs/lossless.py             digits, a minute: compression/bits_per_pixel 0.60 (gzip
                                                              0.68)
python -m aejax.main --config=configs/lossless.py:idx:DIR     MNIST, 5 minutes: compression/bits_per_pixel 0.169 (gzip
                                                              0.33, bz2 0.25)
"""

from ml_collections import ConfigDict

from aejax.config import default


def get_config(source: str = "digits") -> ConfigDict:
    config = default(source)
    config.name = "lossless"
    config.data.binarize = "dynamic"
    config.model.encoder.widths = (500, 500)
    config.model.encoder.norm = "batch"
    config.model.bottleneck.name = "gaussian"
    config.model.bottleneck.size = 40
    config.optim.learning_rate = 2e-3
    config.optim.schedule = "cosine"
    config.train.batch_size = 200
    config.train.epochs = 300 if source == "digits" else 60
    config.uses.run = ("reconstruction", "compression")
    return config
