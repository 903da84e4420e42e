"""Soft assignment of codes to clusters, its target, and their divergence."""

import jax
import jax.numpy as jnp


def log_assignment(z: jax.Array, centres: jax.Array, alpha: float, width: float = 1.0) -> jax.Array:
    """log q_ij [N, K] of codes z [N, d] to centres μ [K, d], nats.

    q_ij = (1 + d_ij²/α)^(−(α+1)/2) / Σ_k (1 + d_ik²/α)^(−(α+1)/2) with d_ij = ‖z_i − μ_j‖ / width: Student's t with α
    degrees of freedom. Xie et al. (2016), equation 1, has width 1.
    """
    squares = jnp.sum((z[:, None] - centres[None]) ** 2, axis=-1) / width**2
    return jax.nn.log_softmax(-(alpha + 1) / 2 * jnp.log1p(squares / alpha), axis=-1)


def log_target(log_q: jax.Array, frequencies: jax.Array) -> jax.Array:
    """log p_ij [N, K], nats, p_ij = (q_ij² / f_j) / Σ_k (q_ik² / f_k), with f_j = Σ_i q_ij [K] over ALL training data.

    Xie et al. (2016), equation 3.
    """
    return jax.nn.log_softmax(2 * log_q - jnp.log(frequencies)[None], axis=-1)


def divergence(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
    """KL(P_i ‖ Q_i) = Σ_j p_ij log(p_ij / q_ij) of each example, nats, [N]. Xie et al. (2016), equation 2."""
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)
