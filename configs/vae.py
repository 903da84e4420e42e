"""Variational autoencoder (Kingma & Welling, 2014), 400 relu units, code 20, dynamic binarisation.

python -m aejax.main --config=configs/vae.py            digits, 25 s: test/elbo -23.6 nats
python -m aejax.main --config=configs/vae.py:idx:DIR    MNIST, 10 epochs, half a minute: test/elbo -102.6 nats
"""

from ml_collections import ConfigDict

from aejax.config import default


def get_config(source: str = "digits") -> ConfigDict:
    config = default(source)
    config.name = "vae"
    config.data.binarize = "dynamic"
    config.model.encoder.widths = (400,)
    config.model.bottleneck.name = "gaussian"
    config.model.bottleneck.size = 20
    config.train.epochs = 300 if source == "digits" else 10
    return config
