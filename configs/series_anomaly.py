"""Anomaly detection in long series: a denoising autoencoder of windows. The score of a step is the mean over the
windows that cover it.

python -m aejax.main --config=configs/series_anomaly.py                a generated periodic series with seven anomalies
python -m aejax.main --config=configs/series_anomaly.py:series:FILE    your own: CSV, Parquet, or an npz of value, label
                                                                      and train
"""

from ml_collections import ConfigDict

from aejax.config import default


def get_config(source: str = "periodic") -> ConfigDict:
    config = default(source)
    config.name = "series_anomaly"
    config.data.kind = "series"
    config.data.least_window = 100
    config.data.center_windows = True
    config.pair.name = "denoise"
    config.pair.denoise.corruption = "gaussian"
    config.pair.denoise.level = 0.3
    config.model.encoder.widths = (64,)
    config.model.bottleneck.size = 16
    config.objective.likelihood = "squared_error"
    config.optim.learning_rate = 1e-3
    config.optim.schedule = "cosine"
    config.train.steps = 1000
    config.uses.run = ("reconstruction", "anomaly")
    config.uses.anomaly.terms = ("standardized", "code_knn")
    config.uses.anomaly.weights = (1.0, 1.0)
    return config
