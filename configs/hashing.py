"""Semantic hashing: texts as short strings of bits, which are compared by their Hamming distance.

python -m aejax.main --config=configs/hashing.py    docstrings of NumPy and SciPy
launch/reproduce.sh DATA hashing                    20 Newsgroups, a minute: retrieval/bits_64/precision_at_100 0.572,
                                                    LSA 0.473
"""

from ml_collections import ConfigDict

from aejax.config import default


def get_config(source: str = "docstrings") -> ConfigDict:
    config = default(source)
    config.name = "hashing"
    config.pair.name = "denoise"
    config.pair.denoise.corruption = "masking"
    config.pair.denoise.level = 0.7
    config.model.encoder.widths = (500,)
    config.model.encoder.dropout = 0.5  # a few thousand texts: regularise strongly
    config.model.bottleneck.size = 128  # fewer bits are those of its first principal components
    config.objective.likelihood = "categorical"
    config.optim.name = "adamw"
    config.optim.weight_decay = 1.0
    config.optim.schedule = "cosine"
    config.train.batch_size = 100
    config.train.epochs = 15
    config.uses.run = ("retrieval",)
    config.uses.retrieval.bits = (32, 64, 128)
    if source.partition(":")[0] in ("docstrings", "text"):
        config.data.text = "tfidf"  # as the row's file of 20 Newsgroups has them
    if source == "docstrings":
        config.train.epochs = 60  # as many steps as 15 on 20 Newsgroups
    return config
