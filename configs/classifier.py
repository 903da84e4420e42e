"""Small convolutional classifier of images; the use `generation` takes its code of 64 units as features of images.

python -m aejax.main --config=configs/classifier.py            digits, 15 s: test/error 3.3 %
python -m aejax.main --config=configs/classifier.py:idx:DIR    MNIST: 1.3 % after 4 of 6 epochs
"""

from ml_collections import ConfigDict

from aejax.config import default


def get_config(source: str = "digits") -> ConfigDict:
    config = default(source)
    config.name = "classifier"
    config.pair.name = "label"
    config.objective.likelihood = "categorical"
    config.model.name = "conv"
    config.model.conv.channels = (16, 32)
    config.model.conv.kernel_size = 5
    config.model.conv.downsample = "stride"
    config.model.encoder.widths = ()
    config.model.decoder.widths = ()
    config.model.bottleneck.size = 64
    config.model.code_activation = "relu"
    config.optim.schedule = "cosine"
    config.train.epochs = 30 if source == "digits" else 6
    config.uses.run = ()
    return config
