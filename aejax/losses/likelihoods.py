"""Reconstruction terms: −log p(t | r), summed over the event, per example.

Each takes target t and output r [B, ...] and returns [B]; `weight` multiplies each entry's term.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from aejax.errors import FieldError
from aejax.fields import Field, above, one_of
from aejax.pairs.example import proportions


def squared_error(
    target: jax.Array, r: jax.Array, weight: jax.Array | None = None, *, sigma: jax.Array | float = 1.0
) -> jax.Array:
    """‖t − r‖² = Σ_j (t_j − r_j)², factor 1 and no constant; an image's sum runs over its pixels.

    Not a density. The measure of Hinton & Salakhutdinov (2006), figure 2. `sigma` is ignored.
    """
    t, r = _flat(target, r)
    return _sum((t - r) ** 2, target, weight)


def gaussian(
    target: jax.Array, r: jax.Array, weight: jax.Array | None = None, *, sigma: jax.Array | float = 1.0
) -> jax.Array:
    """−log N(t; r, σ² I) = Σ_j [(t_j − r_j)² / (2 σ²) + log σ + ½ log 2π], in nats."""
    t, r = _flat(target, r)
    return _sum(((t - r) / sigma) ** 2 / 2 + jnp.log(sigma) + math.log(2 * math.pi) / 2, target, weight)


def bernoulli(
    target: jax.Array, r: jax.Array, weight: jax.Array | None = None, *, sigma: jax.Array | float = 1.0
) -> jax.Array:
    """−Σ_j [t_j log s(r_j) + (1 − t_j) log(1 − s(r_j))], in nats; r are logits, s the logistic function.

    Computed as max(r, 0) − t r + log(1 + e^(−|r|)), which neither over- nor underflows. For t
    strictly between 0 and 1 this is the cross-entropy, not a likelihood. `sigma` is ignored.
    """
    t, r = _flat(target, r)
    # max and |·| from one comparison: on their own their gradients at r = 0 do not add up to s(0) - t.
    positive = r >= 0
    terms = jnp.where(positive, r, 0) - t * r + jnp.log1p(jnp.exp(jnp.where(positive, -r, r)))
    return _sum(terms, target, weight)


def categorical(
    target: jax.Array, r: jax.Array, weight: jax.Array | None = None, *, sigma: jax.Array | float = 1.0
) -> jax.Array:
    """−Σ_j t_j log p_j with p = softmax(r), in nats; t is one-hot, or t_j counts word j in a document.

    Of targets [B, ..., D] each of the positions has a softmax of its own, over the last axis, and the sum runs over
    positions too: [B].

    With N = Σ_j t_j words this is N times the cross-entropy of the proportions t / N and p: the multi-class
    cross-entropy of Hinton & Salakhutdinov (2006), where a document of N words counts N times. It is the
    negative log-probability of the words in their order, so without the multinomial coefficient. `sigma` is
    ignored.
    """
    (terms,) = _flat(-target * jax.nn.log_softmax(r, axis=-1))
    return _sum(terms, target, weight)


class Likelihood(NamedTuple):
    """A likelihood of the target t, given the decoder's output r.

    r has the shape of t. `term` takes (t, r, weight, sigma). Declare a likelihood's own fields in `Fields` below,
    and the range of t that it needs in `experiment._check_values`.
    """

    term: Callable[..., jax.Array]  # −log p(t | r), [B]
    mean: Callable[[jax.Array], jax.Array]  # r -> the mean of t
    density: bool  # whether exp(−term) is a density, which an ELBO needs
    link: Callable[[jax.Array], jax.Array] = lambda m: m  # the inverse of `mean`
    target: Callable[[jax.Array], jax.Array] = lambda t: t  # t on the scale of the mean


def _logit(m: jax.Array) -> jax.Array:
    """The logit of m clipped to [1e-4, 1 − 1e-4]: a pixel that is never on in training would have the logit −∞."""
    return jax.scipy.special.logit(jnp.clip(m, 1e-4, 1 - 1e-4))


def _log(m: jax.Array) -> jax.Array:
    return jnp.log(jnp.maximum(m, 1e-9))


LIKELIHOODS = {
    "squared_error": Likelihood(squared_error, lambda r: r, False),
    "gaussian": Likelihood(gaussian, lambda r: r, True),
    "bernoulli": Likelihood(bernoulli, jax.nn.sigmoid, True, _logit),
    "categorical": Likelihood(categorical, jax.nn.softmax, True, _log, proportions),
}


def mixed(base: Likelihood, groups: Sequence[tuple[int, int]], size: int) -> Likelihood:
    """−log p of rows [B, size] whose columns first..end-1 of each group are one-hot.

    The sum of `base` for the other columns and the categorical term of each group, in nats.
    """
    others = np.setdiff1d(np.arange(size), [j for first, end in groups for j in range(first, end)])

    def term(
        target: jax.Array, r: jax.Array, weight: jax.Array | None = None, *, sigma: jax.Array | float = 1.0
    ) -> jax.Array:
        weights = None if weight is None else jnp.broadcast_to(weight, target.shape)
        parts = [(others, base.term), *((np.arange(*group), categorical) for group in groups)]
        terms = [
            own(target[:, chosen], r[:, chosen], None if weights is None else weights[:, chosen], sigma=sigma)
            for chosen, own in parts
            if len(chosen)
        ]
        return functools.reduce(jnp.add, terms)

    def mean(r: jax.Array) -> jax.Array:
        made = jnp.zeros_like(r).at[:, others].set(base.mean(r[:, others]))
        for first, end in groups:
            made = made.at[:, first:end].set(jax.nn.softmax(r[:, first:end]))
        return made

    def link(m: jax.Array) -> jax.Array:
        r = base.link(m)
        for first, end in groups:
            r = r.at[..., first:end].set(LIKELIHOODS["categorical"].link(m[..., first:end]))
        return r

    return Likelihood(term, mean, base.density, link)


@dataclasses.dataclass(frozen=True)
class Fields:
    likelihood: Annotated[
        str,
        Field(
            "likelihood: squared_error (not a density) | gaussian | bernoulli | categorical (counts or labels)",
            one_of(LIKELIHOODS),
        ),
    ] = "bernoulli"
    sigma: Annotated[
        float, Field("gaussian: standard deviation of the decoder, in units of the model's data", above(0))
    ] = 1.0
    learn_sigma: Annotated[bool, Field("gaussian: train sigma, starting from `sigma`")] = False


def check(config: Any) -> Iterator[FieldError]:
    if config.objective.learn_sigma and config.objective.likelihood != "gaussian":
        yield FieldError("objective.learn_sigma", True, "needs objective.likelihood = 'gaussian'")


def _flat(*arrays: jax.Array) -> list[jax.Array]:
    # Loops over one long axis are several times faster on the CPU than over height, width, 1 channel.
    return [array.reshape(array.shape[0], -1) for array in arrays]


def _sum(terms: jax.Array, target: jax.Array, weight: jax.Array | None) -> jax.Array:
    if weight is not None:
        terms = terms * jnp.broadcast_to(weight, target.shape).reshape(terms.shape)
    return jnp.sum(terms, axis=-1)
