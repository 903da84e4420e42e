"""How the units of the code are used: mean activation, active and dead units."""

import jax
import jax.numpy as jnp
import numpy as np

from aejax.losses import penalties
from aejax.models.autoencoder import Code

ACTIVE = 0.01  # |z_j| above it counts as active


def sums(code: Code, mask: jax.Array) -> dict[str, jax.Array]:
    """Sums over the examples where mask [B] is 1 of |h_j| and of |z_j| > 0.01, [units] each.

    For a gaussian code h is the mean; the sums of mean_j, of its square and of the KL of each unit are added.
    """
    h, z = (jnp.abs(a).reshape(a.shape[0], -1) for a in (code.h, code.z))
    totals = {"activation": mask @ h, "active": mask @ (z > ACTIVE).astype(jnp.float32)}
    if "logvar" in code.stats:
        mean = code.stats["mean"]
        totals |= {"mean": mask @ mean, "square": mask @ mean**2, "kl": mask @ penalties.kl_per_unit(code)}
    return totals


def summary(totals: dict[str, jax.Array], n: float) -> dict[str, jax.Array]:
    """Numbers of a set of n examples from its sums.

    mean_activation: mean of |h_j| over units and examples; activation_p5, _p95: percentiles over the
    units of their means ρ̂_j; active_units: mean count in an example; dead_units: units never active.
    A unit of a gaussian code is active if Var_x(mean_j) > 0.01 (Burda et al., 2016, section 5.2); active_units
    counts these units, dead_units the others. kl_unit_j: KL of unit j, nats, mean over the examples.
    """
    rho = totals["activation"] / n
    low, high = jnp.percentile(rho, jnp.array([5.0, 95.0]))
    used = {
        "mean_activation": jnp.mean(rho),
        "activation_p5": low,
        "activation_p95": high,
        "active_units": jnp.sum(totals["active"]) / n,
        "dead_units": jnp.sum(totals["active"] == 0).astype(jnp.float32),
    }
    if "mean" in totals:
        variance = totals["square"] / n - (totals["mean"] / n) ** 2
        active = jnp.sum(variance > ACTIVE).astype(jnp.float32)
        used |= {"active_units": active, "dead_units": len(variance) - active}
        used |= {f"kl_unit_{j}": kl for j, kl in enumerate(totals["kl"] / n)}
    return used


def dead(codes: np.ndarray, gaussian: bool) -> int:
    """The `dead_units` of `summary`, from codes z [N, units]; for a gaussian code, from its means."""
    used = codes.var(axis=0) > ACTIVE if gaussian else (np.abs(codes) > ACTIVE).any(axis=0)
    return int((~used).sum())
