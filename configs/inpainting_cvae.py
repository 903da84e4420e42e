"""Conditional VAE (Sohn et al., 2015): three hidden quadrants given the visible one, grey targets.

python -m aejax.main --config=configs/inpainting_cvae.py            digits, under a minute: test/elbo -17.2
python -m aejax.main --config=configs/inpainting_cvae.py:idx:DIR    MNIST, 10 epochs, a few minutes: test/elbo -68.6

`test/elbo` is the bound on log p(hidden | visible) in nats, one posterior sample. Pyro's tutorial reaches
-71.8 with a baseline network and a 200-dimensional code; nearest neighbours reach -100.4.
"""

from ml_collections import ConfigDict

from aejax.config import default


def get_config(source: str = "digits") -> ConfigDict:
    config = default(source)
    config.name = "inpainting_cvae"
    config.pair.name = "inpaint"
    config.pair.inpaint.mask = "quadrants"
    config.pair.inpaint.visible = ("bottom_left",)
    config.pair.inpaint.channel = False  # the mask is the same for every image
    config.pair.inpaint.conditional = True
    config.pair.inpaint.beta = 0.0  # log p of the hidden part alone
    config.model.encoder.widths = (500, 500)
    config.model.bottleneck.name = "gaussian"
    config.model.bottleneck.size = 50
    config.model.bottleneck.gaussian.prior_widths = (500, 500)
    config.optim.schedule = "cosine"
    config.train.epochs = 100 if source == "digits" else 10
    return config
