"""Contractive autoencoder (Rifai et al., 2011): 1000 sigmoid units, tied weights, λ ‖∂h/∂x‖²_F.

python -m aejax.main --config=configs/contractive.py            digits, 15 s: test/jacobian_norm 2.09, probe_error 1.9 %
python -m aejax.main --config=configs/contractive.py:idx:DIR    MNIST, 6 minutes: test/jacobian_norm 3.78 (51.9 without
                                                                the penalty), test/probe_error 1.80 % (3.31 %)
"""

from ml_collections import ConfigDict

from aejax.config import default


def get_config(source: str = "digits") -> ConfigDict:
    config = default(source)
    config.name = "contractive"
    config.model.encoder.widths = ()
    config.model.bottleneck.size = 1000
    config.model.code_activation = "sigmoid"
    config.model.decoder.tied = True
    config.objective.contractive.weight = 0.5 if source == "digits" else 2.0
    config.uses.run = ("reconstruction", "probe", "jacobian")
    config.optim.learning_rate = 3e-3
    config.optim.schedule = "cosine"
    config.train.epochs = 200 if source == "digits" else 50
    return config
