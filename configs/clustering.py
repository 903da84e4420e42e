"""Codes for clustering images: a deep autoencoder that undoes random deformations, with a code of ten units.

python -m aejax.main --config=configs/clustering.py             digits, 75 seconds: clustering/gmm/ari 0.79,
                                                                pixels 0.71, PCA 0.63
python -m aejax.main --config=configs/clustering.py:idx:DIR     MNIST
"""

from ml_collections import ConfigDict

from aejax.config import default


def get_config(source: str = "digits") -> ConfigDict:
    config = default(source)
    config.name = "clustering"
    config.pair.name = "denoise"
    config.pair.denoise.corruption = "deform"
    config.pair.denoise.level = 0.12
    config.model.encoder.widths = (1000, 500, 250)
    config.model.encoder.norm = "batch"
    config.model.bottleneck.size = 10
    config.objective.likelihood = "squared_error"
    config.optim.name = "adamw"
    config.optim.weight_decay = 0.1
    config.optim.schedule = "cosine"
    config.train.batch_size = 200
    config.train.epochs = 200
    config.uses.run = ("reconstruction", "clustering")
    config.uses.clustering.methods = ("gmm", "kmeans", "hdbscan")
    config.uses.clustering.scale = "length"
    return config
