"""Bags of words through 500-250-125-10 with the categorical likelihood (Hinton & Salakhutdinov, 2006, figure 4).

python -m aejax.main --config=configs/text.py              docstrings of NumPy and SciPy, half a minute:
                                                           test/precision_at_10 0.636, LSA 0.607
python -m aejax.main --config=configs/text.py:text:FILE    documents of your own
launch/reproduce.sh DATA text text_2d                      20 Newsgroups, 2 minutes each: test/precision_at_10 0.50,
                                                           LSA 0.43; with 2 units (--config.model.bottleneck.size=2)
                                                           0.23, LSA 0.11
"""

from ml_collections import ConfigDict

from aejax.config import default


def get_config(source: str = "docstrings") -> ConfigDict:
    config = default(source)
    config.name = "text"
    config.pair.name = "denoise"  # thousands of documents are few for millions of parameters
    config.pair.denoise.corruption = "masking"
    config.pair.denoise.level = 0.5
    config.pair.input = "log"
    config.model.encoder.widths = (500, 250, 125)
    config.model.bottleneck.size = 10
    config.objective.likelihood = "categorical"
    config.optim.schedule = "cosine"
    config.train.batch_size = 100
    config.train.epochs = 30
    if source == "docstrings":  # 1630 documents, with labels
        config.data.vocabulary = 1000
        config.train.epochs = 60
        config.train.eval_epochs = 5
        config.uses.run = ("reconstruction", "retrieval")
    return config
