"""L2 penalty on a two-dimensional code: the codes are near 0, and an even grid there decodes to images.

python -m aejax.main --config=configs/code_l2.py    digits, 15 s: test/squared_error 2.40, test/code_l2 0.18
"""

from ml_collections import ConfigDict

from aejax.config import default


def get_config(source: str = "digits") -> ConfigDict:
    config = default(source)
    config.name = "code_l2"
    config.objective.likelihood = "squared_error"
    config.objective.code_l2.weight = 0.1
    side = 0.7 if source == "digits" else 1.5
    config.figures.box = (-side, side, -side, side)
    config.train.epochs = 200 if source == "digits" else 20
    return config
