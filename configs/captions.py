"""Captions of videos: convolutions of each frame and an LSTM read, an LSTM with attention writes (Donahue et al. 2015).

python -m aejax.main --config=configs/captions.py                          one or two moving digits of 8x8 pixels
python -m aejax.main --config=configs/captions.py:moving_digits:idx:DIR    those of MNIST
python -m aejax.main --config=configs/captions.py:npz:FILE.npz             your own x [N, T, H, W, C] and caption [N]
"""

from ml_collections import ConfigDict

from aejax.config import default


def get_config(source: str = "moving_digits") -> ConfigDict:
    config = default(source)
    config.name = "captions"
    config.data.kind = "video"
    config.data.validation_fraction = 0.1
    config.pair.name = "caption"
    config.model.name = "seq2seq"
    config.model.seq2seq.channels = (16, 32, 64)
    config.model.encoder.widths = (128,)
    config.model.encoder.dropout = 0.2
    config.model.bottleneck.size = 128
    config.objective.likelihood = "categorical"
    config.optim.learning_rate = 2e-3
    config.optim.schedule = "cosine"
    config.optim.clip = 1.0
    config.train.epochs = 12
    config.train.batch_size = 50
    config.uses.run = ("sequence",)
    return config
