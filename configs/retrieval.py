"""Codes for image search: a deep autoencoder that undoes random deformations, so that its code hardly knows them.

python -m aejax.main --config=configs/retrieval.py             digits, 20 seconds
python -m aejax.main --config=configs/retrieval.py:idx:DIR     MNIST, 5 minutes: retrieval/precision_at_100 0.957,
                                                               pixels 0.872
"""

from ml_collections import ConfigDict

from aejax.config import default


def get_config(source: str = "digits") -> ConfigDict:
    config = default(source)
    config.name = "retrieval"
    config.pair.name = "denoise"
    config.pair.denoise.corruption = "deform"
    config.pair.denoise.level = 0.12
    config.model.encoder.widths = (1000, 500, 250)
    config.model.encoder.norm = "batch"
    config.model.bottleneck.size = 64
    config.objective.likelihood = "squared_error"
    config.optim.name = "adamw"
    config.optim.weight_decay = 0.1
    config.optim.schedule = "cosine"
    config.train.batch_size = 200
    config.train.epochs = 60
    config.uses.run = ("reconstruction", "retrieval")
    config.uses.retrieval.bits = (64,)
    return config
