"""How the units of the code are used: mean activation, active and dead units."""

import jax
import jax.numpy as jnp

from aejax.models import Code

ACTIVE = 0.01  # |z_j| above it counts as active


def sums(code: Code, mask: jax.Array) -> dict[str, jax.Array]:
    """Sums over the examples where mask [B] is 1 of |h_j| and of |z_j| > 0.01, [units] each."""
    h, z = (jnp.abs(a).reshape(a.shape[0], -1) for a in (code.h, code.z))
    return {"activation": mask @ h, "active": mask @ (z > ACTIVE).astype(jnp.float32)}


def summary(totals: dict[str, jax.Array], n: float) -> dict[str, jax.Array]:
    """Numbers of a set of n examples from its sums.

    mean_activation: mean of |h_j| over units and examples; activation_p5, _p95: percentiles over the
    units of their means ρ̂_j; active_units: mean count in an example; dead_units: units never active.
    """
    rho = totals["activation"] / n
    low, high = jnp.percentile(rho, jnp.array([5.0, 95.0]))
    return {
        "mean_activation": jnp.mean(rho),
        "activation_p5": low,
        "activation_p95": high,
        "active_units": jnp.sum(totals["active"]) / n,
        "dead_units": jnp.sum(totals["active"] == 0).astype(jnp.float32),
    }
