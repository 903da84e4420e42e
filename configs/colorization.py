"""Colourisation: the grey image in, its colours out; on digits tinted by class.

python -m aejax.main --config=configs/colorization.py    20 s: test/psnr 21.7 dB (grey input 15.6), ssim 0.85 (0.63)
"""

from ml_collections import ConfigDict

from aejax.config import default


def get_config(source: str = "tinted_digits") -> ConfigDict:
    config = default(source)
    config.name = "colorization"
    config.pair.name = "colorize"
    config.model.encoder.widths = (256, 128)
    config.model.bottleneck.size = 32
    config.optim.schedule = "cosine"
    config.train.epochs = 200
    return config
