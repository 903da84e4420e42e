"""Deep autoencoder 1000-500-250-30 from a stack of restricted Boltzmann machines (Hinton & Salakhutdinov, 2006).

python -m aejax.main --config=configs/stacked_rbm.py            digits, a minute: test/squared_error 0.70
                                                                (4.00 from random weights)
python -m aejax.main --config=configs/stacked_rbm.py:idx:DIR    MNIST, 15 minutes: 2.99 (Hinton & Salakhutdinov: 3.00;
                                                                from random weights after 100 epochs 14.65)

Contrastive divergence with one Gibbs step, logistic units, a linear code, then fine-tuning of the unrolled network.
Unlike in the paper: momentum 0.9 from the first epoch on, falling learning rates, LeCun's initial weights, and Adam
instead of conjugate gradients for fine-tuning.
"""

from ml_collections import ConfigDict

from aejax.config import default, stages


def get_config(source: str = "digits") -> ConfigDict:
    config = default(source)
    config.name = "stacked_rbm"
    config.pretrain.widths = (1000, 500, 250, 30)
    config.model.encoder.activation = "sigmoid"
    config.optim.learning_rate = 4e-3
    config.optim.schedule = "cosine"
    config.train.batch_size = 100
    config.train.epochs = 50

    stages(config, 4)
    stage = config.pretrain.default
    stage.method.name = "contrastive"
    stage.objective.weight_l2.weight = 2e-4
    stage.optim.name = "sgd"
    stage.optim.learning_rate = 0.1
    stage.optim.momentum = 0.9
    stage.batch_size = 100
    stage.epochs = 100 if source == "digits" else 20
    top = config.pretrain.stage_3
    top.code_activation = "identity"  # unit-variance gaussian units: a smaller rate
    top.optim.learning_rate = 1e-3
    return config
