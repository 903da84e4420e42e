"""The penalties by name. Likelihoods, in-step metrics and the Jacobian have files of their own."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax

from aejax.errors import FieldError
from aejax.losses import jacobian, penalties
from aejax.losses.forward import Forward

Term = Callable[..., jax.Array]  # (Forward, **fields) -> [B], or a scalar for a statistic of the batch


class Penalty(NamedTuple):
    """A penalty, and how the objective uses it. Its fields are the keywords of `term`.

    `term` returns [B], one value for each example, or a scalar for a statistic of the batch; the mean over the batch is
    taken later. The value is not weighted. The section `objective.NAME` has the fields weight, schedule, begin and
    steps, so `term` must not declare these names. The term is logged under its own name, which must differ from
    reconstruction, squared_error and loss.
    """

    term: Term
    weight: float = 0.0  # the default
    check: Callable[[Any], Iterator[FieldError]] = lambda config: iter(())  # against the rest of the config, when on
    training_only: bool = False  # not computed on held-out examples
    # Whether the term belongs to the model whatever its weight; None: it is computed if its weight is not 0.
    inherent: Callable[[Any], bool] | None = None
    # (name, term) that is minimised instead of `term`, or None; `term` is then logged with weight 0.
    surrogate: Callable[[Mapping[str, Any]], tuple[str, Term] | None] = lambda fields: None


# The order is the order of the sums, which determines the last bits of a loss: append only.
PENALTIES: dict[str, Penalty] = {
    "kl": Penalty(
        penalties.kl,
        weight=1.0,
        inherent=lambda config: config.model.bottleneck.name == "gaussian",
        surrogate=lambda fields: ("free_bits", penalties.free_bits) if fields["free_bits"] else None,
    ),
    "l1": Penalty(penalties.l1),
    "kl_sparse": Penalty(penalties.kl_sparse, check=penalties.check_kl_sparse),
    "weight_l2": Penalty(penalties.weight_l2),
    "code_l2": Penalty(penalties.code_l2),
    "auxk": Penalty(penalties.auxk, check=penalties.check_auxk, training_only=True),
    "contractive": Penalty(jacobian.contractive, check=jacobian.check("contractive")),
    "contractive_hessian": Penalty(jacobian.contractive_hessian, check=jacobian.check("contractive_hessian")),
}

__all__ = ["PENALTIES", "Forward", "Penalty", "Term"]
