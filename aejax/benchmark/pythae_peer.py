"""The variational autoencoder of a config in pythae, trained by pythae's trainer, to compare aejax with."""

import logging
import tempfile
from collections.abc import Sequence

import numpy as np
import torch
from ml_collections import ConfigDict
from pythae.data.datasets import BaseDataset
from pythae.models import VAE, VAEConfig
from pythae.trainers import BaseTrainer, BaseTrainerConfig

from aejax import config as config_lib
from aejax.benchmark import torch_peer
from aejax.data.dataset import Dataset
from aejax.errors import FieldError
from aejax.storage import run_dir

WIDTHS = (512,)  # of the encoder and decoder that pythae gives a VAE
FIXED = {
    "model.bottleneck.name": ("gaussian",),
    "model.encoder.widths": (WIDTHS,),
    "model.encoder.activation": ("relu",),
    "objective.likelihood": ("bernoulli",),
    "data.binarize": ("none",),
    "model.dtype": ("float32",),
    "optim.name": ("adam",),
    "optim.schedule": ("constant",),
}


class Training:
    """A model, its trainer and its data: `run` trains for one epoch, whatever its arguments."""

    def __init__(self, config: ConfigDict, data: Dataset):
        torch.set_num_threads(run_dir.cores())
        logging.getLogger("pythae").setLevel(logging.ERROR)
        logging.getLogger("pythae.trainers.base_trainer.base_trainer").setLevel(logging.ERROR)
        x = np.moveaxis(data.train["x"], -1, 1)
        scaled = x / np.float32(255) if x.dtype == np.uint8 else x.astype(np.float32)
        shape = scaled.shape[1:]
        model = VAE(VAEConfig(input_dim=shape, latent_dim=config.model.bottleneck.size, reconstruction_loss="bce"))
        training = BaseTrainerConfig(
            output_dir=tempfile.mkdtemp(),
            learning_rate=config.optim.learning_rate,
            per_device_train_batch_size=config.train.batch_size,
            num_epochs=config.train.epochs,
            seed=config.seed,
        )
        examples = BaseDataset(torch.from_numpy(scaled), torch.zeros(len(scaled)))
        self.trainer = BaseTrainer(model, examples, training_config=training, callbacks=[])
        self.trainer.prepare_training()
        self.trainer.callback_handler.callbacks.clear()  # its progress bar
        self.device, self.epoch = self.trainer.device, 0

    def run(self, begin: int, end: int) -> float:
        """An epoch; returns its mean loss."""
        self.epoch += 1
        return float(self.trainer.train_step(self.epoch))


def check(config: ConfigDict, shape: Sequence[int]) -> None:
    """Raise InputError if a config differs from pythae's default VAE."""
    torch_peer.check(config, shape)
    for field, allowed in FIXED.items():
        value = config_lib.get(config, field)
        value = tuple(value) if isinstance(value, list | tuple) else value
        if value not in allowed:
            raise FieldError(field, value, f"must be {' or '.join(map(repr, allowed))} to compare with pythae's VAE")
