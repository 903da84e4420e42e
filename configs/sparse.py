"""Sparse autoencoder: 196 sigmoid units whose mean activation is held at ρ = 0.1 by KL(ρ ‖ ρ̂).

python -m aejax.main --config=configs/sparse.py            digits, 10 s: test/mean_activation 0.102, squared_error 1.05
python -m aejax.main --config=configs/sparse.py:idx:DIR    MNIST, 40 s: test/mean_activation 0.103

UFLDL's exercise: its λ = 3e-3 and β = 3 go with ½ ‖x − r‖², so they are doubled for ‖x − r‖².
"""

from ml_collections import ConfigDict

from aejax.config import default


def get_config(source: str = "digits") -> ConfigDict:
    config = default(source)
    config.name = "sparse"
    config.model.encoder.widths = ()
    config.model.bottleneck.size = 196
    config.model.code_activation = "sigmoid"
    config.objective.likelihood = "squared_error"
    config.objective.kl_sparse.weight = 6.0
    config.objective.kl_sparse.rho = 0.1
    config.objective.weight_l2.weight = 6e-3
    config.train.log_units = True
    config.optim.learning_rate = 1e-2 if source == "digits" else 1e-3
    config.optim.schedule = "cosine"
    config.train.batch_size = 256
    config.train.epochs = 200 if source == "digits" else 50
    return config
