"""Composite video LSTM (Srivastava et al. 2015): one reads frames, one writes them backwards, one predicts the next.

python -m aejax.main --config=configs/video.py                          one or two moving digits of 8x8 pixels
python -m aejax.main --config=configs/video.py:moving_digits:idx:DIR    those of MNIST
python -m aejax.main --config=configs/video.py:npz:FILE.npz             your own x [N, frames, height, width, channels]
"""

from ml_collections import ConfigDict

from aejax.config import default


def get_config(source: str = "moving_digits") -> ConfigDict:
    config = default(source)
    config.name = "video"
    config.data.kind = "video"
    config.pair.name = "forecast"
    config.pair.forecast.steps = 5
    config.model.name = "recurrent"
    config.model.recurrent.future = 5
    config.model.encoder.widths = (256,)
    config.model.bottleneck.size = 256
    config.optim.learning_rate = 2e-3
    config.optim.schedule = "cosine"
    config.optim.clip = 1.0
    config.train.epochs = 10
    config.train.batch_size = 50
    config.uses.run = ("forecast",)
    return config
