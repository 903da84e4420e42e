"""Anomaly detection in images: a denoising autoencoder with a narrow code.

python -m aejax.main --config=configs/anomaly_images.py               digits, half a minute: the nines are anomalies
python -m aejax.main --config=configs/anomaly_images.py:images:DIR    images of your own
"""

from ml_collections import ConfigDict

from aejax.config import default


def get_config(source: str = "digits") -> ConfigDict:
    config = default(source)
    config.name = "anomaly_images"
    config.pair.name = "denoise"
    config.pair.denoise.corruption = "gaussian"
    config.pair.denoise.level = 0.6  # with much noise the code holds only what the examples have in common
    config.model.encoder.widths = (512,)
    config.model.bottleneck.size = 20
    config.optim.learning_rate = 2e-3
    config.optim.schedule = "cosine"
    config.train.batch_size = 64
    config.train.steps = 3000
    config.data.validation_fraction = 0.1
    config.uses.run = ("anomaly",)
    if source == "digits":
        config.data.train_labels = tuple(range(9))
        config.pair.denoise.level = 0.3  # 64 pixels of nine classes leave less to guess
        config.model.bottleneck.size = 64
    return config
