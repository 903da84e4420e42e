"""The objective: reconstruction plus weighted penalties, per example, and one mean at the end."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp

from aejax import fields, losses, models, pairs
from aejax.data.spec import Spec
from aejax.errors import FieldError
from aejax.losses import PENALTIES, Forward, likelihoods, units, weight
from aejax.models import Code
from aejax.pairs.example import Batch, Example, Examples, binarize, output, scale

# The random streams of a step. The position of a stream is folded into its key: append only.
STREAMS = ("binarize", "pair", "sample", "dropout", "penalty")


@dataclasses.dataclass(frozen=True)
class Term:
    """A penalty with its fields, and the schedule of its weight."""

    term: Callable[[Forward], jax.Array]
    weight: Callable[[jax.Array], jax.Array]
    training_only: bool = False


@dataclasses.dataclass(frozen=True)
class Objective:
    """loss = λ_0 (−log p(t | r)) + Σ_k λ_k Ω_k for a model, a pair, a likelihood and penalties."""

    model: models.Autoencoder
    examples: Examples
    likelihood: likelihoods.Likelihood  # of the head
    sigma: float
    weight: Callable[[jax.Array], jax.Array]  # of the reconstruction
    penalties: Mapping[str, Term]
    dynamic_binarization: bool = False
    activation: Callable[[jax.Array], jax.Array] | None = None  # of an encoder that is one dense layer
    units: bool = False  # whether the use of the code's units is logged

    @property
    def pair(self) -> pairs.Pair:
        return self.examples.pair

    def terms(
        self,
        params: Any,
        variables: Any,
        batch: Batch,
        *,
        key: jax.Array,
        step: jax.Array,
        mask: jax.Array | None = None,
        train: bool = False,
        clean: bool = False,
    ) -> tuple[dict[str, jax.Array], dict[str, Any]]:
        """Unweighted terms ([B], or a scalar for a statistic of the batch) and the intermediate results.

        The terms are `reconstruction`, each penalty, `squared_error` on the reconstruction mean, and the metrics of
        the bottleneck. In training the second result holds the new `variables` (batch statistics). With
        `clean` nothing is corrupted. A classifier takes the mean of a gaussian code, in training too.
        """
        keys = {name: jax.random.fold_in(key, i) for i, name in enumerate(STREAMS)}
        batch = scale(batch)
        if train and self.dynamic_binarization:
            batch = binarize(keys["binarize"], batch)
        example = self.examples(None if clean else keys["pair"], batch)
        rngs = {name: keys[name] for name, on in (("sample", not self.pair.supervised), ("dropout", train)) if on}
        (outputs, code), updates = self.model.apply(
            {"params": params, **variables},
            example.input,
            condition=example.condition,
            train=train,
            step=step,
            rngs=rngs,
            mutable=list(variables),
        )
        terms = {"reconstruction": self.reconstruction(params, example, outputs)}

        def decode(z: jax.Array) -> jax.Array:
            made = self.model.apply({"params": params, **variables}, z, code.context, method="decode")
            return self.mean(cast(dict[str, jax.Array], made))

        raw = self.mean(outputs)
        forward = Forward(
            encode=self.encoder(params, variables),
            example=example,
            code=code,
            params=params,
            key=keys["penalty"],
            step=step,
            mask=mask,
            activation=self.activation,
            error=_observed(example, self.likelihood.target(example.target) - raw),
            variables=variables,
            clean=lambda: self.examples(None, batch).input,
            decode=decode,
        )
        terms |= {name: own.term(forward) for name, own in self.penalties.items() if train or not own.training_only}
        mean = output(example, raw)
        if not self.pair.supervised:
            target = self.likelihood.target(example.target)
            terms["squared_error"] = likelihoods.squared_error(target, mean, example.observed)
        return terms | code.metrics, {"variables": updates, "example": example, "mean": mean, "code": code}

    def average(
        self, params: Any, variables: Any, batch: Batch, *, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
        """The loss of a batch in training, the new variables, and the averaged terms with the loss."""
        terms, made = self.terms(params, variables, batch, key=key, step=step, train=True)
        terms = mean(terms)
        total = self.loss(terms, step)
        if self.units:
            n = made["code"].h.shape[0]
            terms |= units.summary(units.sums(made["code"], jnp.ones(n)), n)
        return total, (made["variables"], {"loss": total, **terms})

    def encoder(self, params: Any, variables: Any) -> Callable[[jax.Array], Code]:
        """x -> Code at these parameters, dropout off, no sampling, in float32 whatever the model's dtype."""
        exact = self.model.clone(encoder=self.model.encoder.clone(dtype="float32"))
        return lambda x: cast(Code, exact.apply({"params": params, **variables}, x, method="encode"))

    def mean(self, outputs: Mapping[str, jax.Array]) -> jax.Array:
        """The mean of the target, from the outputs of the model."""
        return self.likelihood.mean(outputs[self.model.output])

    def reconstruction(self, params: Any, example: Example, outputs: Mapping[str, jax.Array]) -> jax.Array:
        """−log p(t | r) per example, [B]."""
        sigma = jnp.exp(params["head"]["log_sigma"]) if "head" in params else self.sigma
        return self.likelihood.term(example.target, outputs[example.head], example.weight, sigma=sigma)

    def loss(self, terms: Mapping[str, jax.Array], step: jax.Array) -> jax.Array:
        """The weighted sum of averaged terms; those that are `training_only` may be missing."""
        present = {name: own for name, own in self.penalties.items() if name in terms or not own.training_only}
        weighted = [own.weight(step) * terms[name] for name, own in present.items()]
        return sum(weighted, self.weight(step) * terms["reconstruction"])

    @property
    def has_elbo(self) -> bool:
        # A decoder that sees the encoder's switches has no p(x|z).
        density = self.likelihood.density and not self.model.needs_context
        return "kl" in self.penalties and density and self.pair.is_bound and not self.pair.supervised


def build(config: Any, model: models.Autoencoder, spec: Spec) -> Objective:
    """The objective of a config: penalties whose weight is 0 are left out."""
    active: dict[str, Term] = {}
    for name, penalty in PENALTIES.items():
        section = config.objective[name]
        on = penalty.inherent(config) if penalty.inherent else section.weight
        if not isinstance(on, jax.Array) and not on:  # one that is traced is not 0
            continue
        own, schedule = fields.chosen(penalty.term, section), weight.schedule(**fields.chosen(weight.schedule, section))
        if surrogate := penalty.surrogate(own):  # minimised instead of the term, which is only logged
            active[surrogate[0]] = Term(_bind(surrogate[1], own), schedule)
            schedule = _off
        active[name] = Term(_bind(penalty.term, own), schedule, penalty.training_only)
    return Objective(
        model=model,
        examples=pairs.build(config.pair, spec, shown=models.FAMILIES[config.model.name].reads_missing),
        likelihood=_likelihood(config, spec, model),
        sigma=config.objective.sigma,
        weight=weight.schedule(**config.objective.reconstruction.to_dict()),
        penalties=active,
        dynamic_binarization=config.data.binarize == "dynamic",
        activation=models.ACTIVATIONS[config.model.code_activation] if models.is_one_layer(config.model) else None,
        units=config.train.log_units,
    )


def check(config: Any) -> Iterator[FieldError]:
    """Errors of the section `objective` with the rest of the config."""
    yield from likelihoods.check(config)
    for name in ("reconstruction", *PENALTIES):
        yield from weight.check(f"objective.{name}", config.objective[name])
    for name, penalty in losses.PENALTIES.items():
        if config.objective[name].weight:
            yield from penalty.check(config)


def _likelihood(config: Any, spec: Spec, model: models.Autoencoder) -> likelihoods.Likelihood:
    base, x = likelihoods.LIKELIHOODS[config.objective.likelihood], spec.x
    return likelihoods.mixed(base, x.groups, x.shape[0]) if x.groups and model.output == "x" else base


def _off(step: jax.Array) -> jax.Array:
    return jnp.zeros(())


def _observed(example: Example, error: jax.Array) -> jax.Array:
    return error if example.observed is None else error * example.observed


def mean(terms: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """The mean of each term over the batch; scalars are unchanged."""
    return {name: jnp.mean(term) for name, term in terms.items()}


def _bind(term: Callable[..., jax.Array], own: dict[str, Any]) -> Callable[[Forward], jax.Array]:
    return lambda forward: term(forward, **own)
