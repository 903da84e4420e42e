"""Recurrent autoencoder of series: an LSTM reads a series, another one writes it backwards (Srivastava et al. 2015).

python -m aejax.main --config=configs/recurrent.py             control charts, six classes
python -m aejax.main --config=configs/recurrent.py:npz:FILE    your own series [N, time, channels], with lengths [N]
"""

from ml_collections import ConfigDict

from aejax.config import default


def get_config(source: str = "control_charts") -> ConfigDict:
    config = default(source)
    config.name = "recurrent"
    config.data.kind = "series"
    config.model.name = "recurrent"
    config.model.encoder.widths = (64,)
    config.model.bottleneck.size = 8
    config.objective.likelihood = "squared_error"
    config.optim.learning_rate = 5e-3
    config.optim.schedule = "cosine"
    config.optim.clip = 1.0
    config.train.epochs = 60
    config.train.batch_size = 100
    return config
