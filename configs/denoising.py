"""Denoising autoencoder (Vincent et al., 2010), 1000 sigmoid units, tied weights, 20 % of the input masked.

python -m aejax.main --config=configs/denoising.py            digits, 10 s: test/psnr 17.2 dB (input 14.3)
python -m aejax.main --config=configs/denoising.py:idx:DIR    MNIST, 6 minutes: test/probe_error 2.02 %
                                                              (Makhzani & Frey, 2014: 1.95 %)
"""

from ml_collections import ConfigDict

from aejax.config import default


def get_config(source: str = "digits") -> ConfigDict:
    config = default(source)
    config.name = "denoising"
    config.pair.name = "denoise"
    config.model.encoder.widths = ()
    config.model.bottleneck.size = 1000
    config.model.code_activation = "sigmoid"
    config.model.decoder.tied = True
    config.uses.run = ("reconstruction", "probe")
    config.optim.learning_rate = 1e-2
    config.optim.schedule = "cosine"
    config.train.epochs = 100 if source == "digits" else 60
    return config
