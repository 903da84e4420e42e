"""k-sparse autoencoder (Makhzani & Frey, 2014): 1000 linear units, tied, of which the 25 largest are kept.

python -m aejax.main --config=configs/k_sparse.py            digits, 15 s: test/probe_error 1.4 %, test/dead_units 83
python -m aejax.main --config=configs/k_sparse.py:idx:DIR    MNIST, 8 minutes: test/probe_error 1.64 %
                                                             (paper, 5000 epochs: 1.35 %), test/dead_units 0

L2 on the weights gives better codes but leaves units dead. The auxiliary loss (Gao et al., 2024) trains these units to
decode the residual of the others.
"""

from ml_collections import ConfigDict

from aejax.config import default


def get_config(source: str = "digits") -> ConfigDict:
    config = default(source)
    config.name = "k_sparse"
    config.model.encoder.widths = ()
    config.model.bottleneck.name = "topk"
    config.model.bottleneck.size = 1000
    config.model.bottleneck.topk.k = 25
    config.model.bottleneck.topk.begin = 100
    config.model.bottleneck.topk.steps = 1000 if source == "digits" else 10_000
    # Chosen by validation/probe_error, on the digits from 25, 50 and 100, on MNIST from 50, 75, 100, 150 and 250.
    config.model.bottleneck.topk.test = 100 if source == "digits" else 150
    config.model.decoder.tied = True
    config.objective.likelihood = "squared_error"
    config.objective.weight_l2.weight = 1e-3
    config.objective.auxk.weight = 1.0
    config.train.log_units = True
    config.uses.run = ("reconstruction", "probe")
    config.optim.schedule = "cosine"
    config.train.epochs = 200 if source == "digits" else 60
    return config
