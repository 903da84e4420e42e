"""Tangent planes: a denoising autoencoder whose reconstruction is near a projection on the manifold of the images.

python -m aejax.main --config=configs/manifold.py               digits, 30 seconds: manifold/dimension 9,
                                                                translation 0.63 (local PCA 0.57)
python -m aejax.main --config=configs/manifold.py:idx:DIR       MNIST
"""

from ml_collections import ConfigDict

from aejax.config import default


def get_config(source: str = "digits") -> ConfigDict:
    config = default(source)
    config.name = "manifold"
    config.pair.name = "denoise"
    config.pair.denoise.corruption = "gaussian"
    config.pair.denoise.level = 0.2
    config.model.encoder.widths = (500, 250)
    config.model.bottleneck.size = 20
    config.objective.likelihood = "squared_error"
    config.optim.schedule = "cosine"
    config.train.epochs = 200 if source == "digits" else 20
    config.uses.run = ("reconstruction", "manifold")
    return config
