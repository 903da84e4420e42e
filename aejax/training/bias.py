"""Initialise the bias of the decoder's last layer with the mean of the data (Hinton, 2012, section 8.1)."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from aejax.data.bags import dense
from aejax.data.dataset import Dataset
from aejax.data.lazy import chunks
from aejax.experiment import Experiment
from aejax.pairs.example import scale


def data_mean(params: Any, *, experiment: Experiment, data: Dataset) -> Any:
    """`params` with b = g(mean target of the training examples), where g inverts r -> mean of the target.

    For a Bernoulli likelihood b_j = log p_j / (1 − p_j). A layer with one bias per channel takes the mean over
    positions too. Empty cells do not count.
    """
    likelihood, sums, counts = experiment.objective.likelihood, np.zeros(experiment.shape), np.zeros(experiment.shape)
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        for part in _parts(data.train["x"]):
            target = np.asarray(likelihood.target(scale({"x": jnp.asarray(dense(part))})["x"]), np.float64)
            sums += np.nansum(target, axis=0)
            counts += np.sum(~np.isnan(target), axis=0)
    decoder, name = params["decoder"], experiment.model.decoder.last
    bias = decoder[name]["bias"]
    mean = sums / np.maximum(counts, 1)
    mean = mean.reshape(-1, *bias.shape).mean(axis=0)
    begun = np.asarray(likelihood.link(jnp.asarray(mean, jnp.float32)), bias.dtype)
    return {**params, "decoder": {**decoder, name: {**decoder[name], "bias": begun}}}


def _parts(x: Any) -> Iterator[Any]:
    """The rows, in blocks."""
    return (x[begin : begin + 1024] for begin in range(0, x.shape[0], 1024)) if sparse.issparse(x) else chunks(x)
