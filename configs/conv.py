"""Convolutional autoencoder of 28,353 parameters: two convolutions of 32 channels, each max-pooled, mirrored.

python -m aejax.main --config=configs/conv.py                    digits, 15 s: 14.9 nats
python -m aejax.main --config=configs/conv.py:idx:DIR            MNIST, 10 minutes: 50.49 nats, 0.0644 per pixel
"""

from ml_collections import ConfigDict

from aejax.config import default


def get_config(source: str = "digits") -> ConfigDict:
    config = default(source)
    config.name = "conv"
    config.model.name = "conv"
    config.model.encoder.widths = ()
    config.model.conv.output_layer = True
    config.model.bottleneck.size = 0
    config.model.code_activation = "relu"
    config.optim.learning_rate = 4e-3
    config.optim.schedule = "cosine"
    config.train.epochs = 100 if source == "digits" else 10
    return config
