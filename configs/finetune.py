"""Classifiers from 100, 1000 and 3000 labels, starting from a pretrained encoder and from random parameters.

python -m aejax.main --config=configs/contractive.py --workdir=runs/pretrained
python -m aejax.main --config=configs/finetune.py --config.init_from=runs/pretrained    digits, 2 minutes

Errors with 100 and 400 labels on the digits: 10.1 and 5.3 %, from random parameters 11.0 and 5.5 %. With 100, 1000
and 3000 labels of MNIST (25 minutes): 13.2, 4.8 and 3.5 %, from random parameters 23.3, 9.8 and 6.0 %.

The model must have the same encoder as the pretrained run; here that is one layer of 1000 sigmoid units.
"""

from ml_collections import ConfigDict

from aejax.config import default


def get_config(source: str = "digits") -> ConfigDict:
    config = default(source)
    config.name = "finetune"
    config.model.encoder.widths = ()
    config.model.bottleneck.size = 1000
    config.model.code_activation = "sigmoid"
    config.finetune.name = "classifier"
    config.data.labeled_examples = (100, 400) if source == "digits" else (100, 1000, 3000)
    config.few_labels.learning_rates = (1e-2, 3e-3, 1e-3)  # 100 labels are 100 steps: frozen encoders need large rates
    config.few_labels.freezes = (True, False)
    config.few_labels.folds = 3
    config.few_labels.dropouts = (0.0,)
    config.optim.schedule = "cosine"
    config.train.batch_size = 50
    config.train.epochs = 50
    return config
