"""Denoiser of images: three convolutional blocks, a code larger than the image, Gaussian noise of deviation 0.4.

python -m aejax.main --config=configs/restoration.py            digits, a minute: restoration/psnr 16.6 dB,
                                                                best filter 12.9
python -m aejax.main --config=configs/restoration.py:idx:DIR    MNIST, 17 minutes: restoration/psnr
                                                                22.1 dB, best filter 16.7
"""

from ml_collections import ConfigDict

from aejax.config import default


def get_config(source: str = "digits") -> ConfigDict:
    config = default(source)
    config.name = "restoration"
    config.pair.name = "denoise"
    config.pair.denoise.corruption = "gaussian"
    config.pair.denoise.level = 0.4
    config.model.name = "conv"
    config.model.conv.channels = (32, 64, 128)
    config.model.conv.downsample = "stride"
    config.model.conv.output_layer = True
    config.model.encoder.widths = ()
    config.model.encoder.norm = "batch"
    config.model.bottleneck.size = 0
    config.model.code_activation = "relu"
    config.objective.likelihood = "squared_error"
    config.optim.learning_rate = 3e-3
    config.optim.schedule = "cosine"
    config.train.batch_size = 100
    config.train.epochs = 60 if source == "digits" else 15
    config.uses.run = ("restoration",)
    return config
