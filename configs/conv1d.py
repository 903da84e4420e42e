"""Convolutional autoencoder of series: three dilated convolutions of 32 channels, mirrored; a code of eight units.

python -m aejax.main --config=configs/conv1d.py             control charts, six classes
python -m aejax.main --config=configs/conv1d.py:npz:FILE    your own series [N, time, channels]
"""

from ml_collections import ConfigDict

from aejax.config import default


def get_config(source: str = "control_charts") -> ConfigDict:
    config = default(source)
    config.name = "conv1d"
    config.data.kind = "series"
    config.model.name = "conv1d"
    config.model.encoder.widths = ()
    config.model.bottleneck.size = 8
    config.objective.likelihood = "squared_error"
    config.optim.learning_rate = 2e-3
    config.optim.schedule = "cosine"
    config.optim.clip = 1.0
    config.train.epochs = 40
    config.train.batch_size = 100
    return config
