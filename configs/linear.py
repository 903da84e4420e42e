"""Linear autoencoder with code 30: finds PCA's subspace (Baldi & Hornik, 1989).

python -m aejax.main --config=configs/linear.py            digits, 20 s: test/squared_error 0.209 (PCA 0.209)
python -m aejax.main --config=configs/linear.py:idx:DIR    MNIST, 20 s: 13.866 (PCA 13.866), test/pca_angle 2 degrees
"""

from ml_collections import ConfigDict

from aejax.config import default


def get_config(source: str = "digits") -> ConfigDict:
    config = default(source)
    config.name = "linear"
    config.model.encoder.widths = ()
    config.model.bottleneck.size = 30
    config.objective.likelihood = "squared_error"
    config.optim.learning_rate = 3e-3
    config.optim.schedule = "cosine"
    config.train.batch_size = 256
    config.train.epochs = 3000 if source == "digits" else 60
    return config
