"""A penalty of one's own: the codes of a batch are decorrelated.

python -m aejax.main --config=docs/examples/penalty.py    digits, 15 s
"""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from aejax.config import default
from aejax.losses import PENALTIES, Forward, Penalty
from aejax.losses.penalties import weights


def decorrelation(forward: Forward) -> jax.Array:
    """Σ_{i≠j} C_ij², a scalar; C is the covariance matrix of the codes z over the batch."""
    z, share = forward.code.z, weights(forward)[:, None]  # [B, code]; [B, 1], 0 for a row that only fills the batch
    z = z - jnp.sum(share * z, axis=0, keepdims=True)
    covariance = (share * z).T @ z
    return jnp.sum(jnp.square(covariance)) - jnp.sum(jnp.square(jnp.diag(covariance)))


PENALTIES["decorrelation"] = Penalty(decorrelation)


def get_config(source: str = "digits") -> ConfigDict:
    config = default(source)
    config.name = "decorrelated"
    config.objective.likelihood = "squared_error"
    config.objective.decorrelation.weight = 1.0
    config.model.bottleneck.size = 10
    config.train.epochs = 100
    return config
