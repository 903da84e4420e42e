"""Inpainting: a square of half the image's side is hidden at random and reconstructed from the rest.

python -m aejax.main --config=configs/inpainting.py    digits, 40 s: test/psnr 19.9 dB (input 11.5), hidden part 16.0
"""

from ml_collections import ConfigDict

from aejax.config import default


def get_config(source: str = "digits") -> ConfigDict:
    config = default(source)
    config.name = "inpainting"
    config.pair.name = "inpaint"
    config.model.encoder.widths = (500, 250)
    config.model.bottleneck.size = 64
    config.optim.schedule = "cosine"
    config.train.epochs = 200 if source == "digits" else 20
    return config
