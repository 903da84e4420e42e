"""IDEC: an autoencoder is trained, then its codes and cluster centres together (Guo et al., 2017).

python -m aejax.main --config=configs/idec.py     digits, 70 seconds: clustering/centres/ari 0.82
"""

from ml_collections import ConfigDict

from aejax.config import default


def get_config(source: str = "digits") -> ConfigDict:
    config = default(source)
    config.name = "idec"
    config.pair.name = "denoise"
    config.pair.denoise.corruption = "deform"
    config.pair.denoise.level = 0.12
    config.model.encoder.widths = (1000, 500, 250)
    config.model.encoder.norm = "batch"
    config.model.bottleneck.size = 10
    config.objective.likelihood = "squared_error"
    config.method.name = "clustering"
    config.method.clustering.start_epochs = 100
    config.method.clustering.initial = "gmm"
    config.method.clustering.gamma = 6.4  # 0.1 for the mean over 64 pixels
    config.optim.name = "adamw"
    config.optim.weight_decay = 0.1
    config.optim.schedule = "cosine"
    config.train.batch_size = 200
    config.train.epochs = 200
    config.uses.run = ("reconstruction", "clustering")
    config.uses.clustering.methods = ("centres", "gmm", "kmeans")
    return config
