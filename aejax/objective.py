"""The objective: reconstruction plus weighted penalties, per example, and one mean at the end."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp

from aejax import likelihoods, models, pairs, penalties
from aejax.models import Code
from aejax.pairs import Batch, Example

PENALTIES: dict[str, Callable[..., jax.Array]] = {
    "kl": penalties.kl,
    "l1": penalties.l1,
    "kl_sparse": penalties.kl_sparse,
    "weight_l2": penalties.weight_l2,
    "code_l2": penalties.code_l2,
    "auxk": penalties.auxk,
    "contractive": penalties.contractive,
    "contractive_hessian": penalties.contractive_hessian,
    "contrastive_divergence": penalties.contrastive_divergence,
}
TRAINING = ("auxk",)  # of training alone: at use other units are kept
WEIGHT_FIELDS = ("weight", "schedule", "begin", "steps")

SCHEDULES: dict[str, Callable[[jax.Array, float], jax.Array]] = {
    # Fraction of the weight as a function of (steps since begin) / steps.
    "constant": lambda t, steps: jnp.where(t >= 0, 1.0, 0.0),
    "linear": lambda t, steps: jnp.clip(t / steps, 0.0, 1.0),
    "cyclic": lambda t, steps: jnp.where(t >= 0, jnp.minimum(2 * (t % steps) / steps, 1.0), 0.0),
}
STREAMS = ("binarize", "pair", "sample", "dropout", "penalty")


@dataclasses.dataclass(frozen=True)
class Penalty:
    """A term and the schedule of its weight."""

    term: Callable[[penalties.Context], jax.Array]
    weight: Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Objective:
    """loss = λ_0 (−log p(t | r)) + Σ_k λ_k Ω_k for a model, a pair, a likelihood and penalties."""

    model: models.Autoencoder
    pair: pairs.Pair
    likelihood: likelihoods.Likelihood
    sigma: float
    weight: Callable[[jax.Array], jax.Array]  # of the reconstruction
    penalties: Mapping[str, Penalty]
    dynamic_binarization: bool = False
    activation: Callable[[jax.Array], jax.Array] | None = None  # of an encoder that is one dense layer
    units: bool = False  # whether the use of the code's units is logged

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
        """Unweighted terms ([B], or a scalar for a statistic of the batch) and what they were made of.

        The terms are `reconstruction`, each penalty, `squared_error` on the reconstruction mean. In
        training the second result holds the new `variables` (batch statistics). `clean`: on the pair with
        nothing corrupted. A classifier is given the mean of a gaussian code, in training too.
        """
        keys = {name: jax.random.fold_in(key, i) for i, name in enumerate(STREAMS)}
        batch = pairs.scale(batch)
        if train and self.dynamic_binarization:
            batch = pairs.binarize(keys["binarize"], batch)
        example = self.pair(None if clean else keys["pair"], batch)
        rngs = {name: keys[name] for name, on in (("sample", not self.pair.supervised), ("dropout", train)) if on}
        (r, code), updates = self.model.apply(
            {"params": params, **variables},
            example.input,
            condition=example.condition,
            train=train,
            step=step,
            rngs=rngs,
            mutable=list(variables),
        )
        terms = {"reconstruction": self.reconstruction(params, example, r)}

        def decode(z: jax.Array) -> jax.Array:
            r = self.model.apply({"params": params, **variables}, z, code.context, method="decode")
            return self.likelihood.mean(cast(jax.Array, r))

        raw = self.likelihood.mean(r)
        ctx = penalties.Context(
            encode=self.encoder(params, variables),
            example=example,
            code=code,
            params=params,
            key=keys["penalty"],
            step=step,
            mask=mask,
            activation=self.activation,
            error=self.likelihood.target(example.target) - raw,
            decode=decode,
        )
        terms |= {name: penalty.term(ctx) for name, penalty in self.penalties.items() if train or name not in TRAINING}
        mean = pairs.output(example, raw)
        if not self.pair.supervised:
            terms["squared_error"] = likelihoods.squared_error(self.likelihood.target(example.target), mean)
        return terms, {"variables": updates, "example": example, "mean": mean, "code": code}

    def encoder(self, params: Any, variables: Any) -> Callable[[jax.Array], Code]:
        """x -> Code at these parameters, dropout off, no sampling, in float32 whatever the model's dtype."""
        exact = self.model.clone(encoder=self.model.encoder.clone(dtype="float32"))
        return lambda x: cast(Code, exact.apply({"params": params, **variables}, x, method="encode"))

    def reconstruction(self, params: Any, example: Example, r: jax.Array) -> jax.Array:
        """−log p(t | r) per example, [B]."""
        sigma = jnp.exp(params["head"]["log_sigma"]) if "head" in params else self.sigma
        return self.likelihood.term(example.target, r, example.weight, sigma=sigma)

    def loss(self, terms: Mapping[str, jax.Array], step: jax.Array) -> jax.Array:
        """The weighted sum of terms that have already been averaged; those of training alone may be missing."""
        present = {name: penalty for name, penalty in self.penalties.items() if name in terms or name not in TRAINING}
        weighted = [penalty.weight(step) * terms[name] for name, penalty in present.items()]
        return sum(weighted, self.weight(step) * terms["reconstruction"])

    @property
    def has_elbo(self) -> bool:
        # A decoder that sees the encoder's switches has no p(x|z).
        density = self.likelihood.density and not self.model.needs_context
        return "kl" in self.penalties and density and self.pair.bounds and not self.pair.supervised


def build(config: Any, model: models.Autoencoder) -> Objective:
    """The objective of a config: penalties whose weight is 0 are left out."""
    gaussian = config.model.bottleneck.name == "gaussian"
    active = {}
    for name, term in PENALTIES.items():
        fields = config.objective[name].to_dict()
        # Without a gaussian bottleneck there is no KL; with one it is logged even at weight 0.
        if (name == "kl" and gaussian) or (name != "kl" and fields["weight"]):
            own = {k: v for k, v in fields.items() if k not in WEIGHT_FIELDS}
            weight = weight_schedule(**{k: fields[k] for k in WEIGHT_FIELDS})
            nats = own.pop("free_bits", 0.0)
            if nats:  # trained on instead of the KL itself, which is logged all the same
                active["free_bits"] = Penalty(_bind(penalties.free_bits, {"nats": nats}), weight)
                weight = _off
            active[name] = Penalty(_bind(term, own), weight)
    return Objective(
        model=model,
        pair=pairs.build(config.pair, model.decoder.shape[-1]),
        likelihood=likelihoods.LIKELIHOODS[config.objective.likelihood],
        sigma=config.objective.sigma,
        weight=weight_schedule(**config.objective.reconstruction.to_dict()),
        penalties=active,
        dynamic_binarization=config.data.binarize == "dynamic",
        activation=models.ACTIVATIONS[config.model.code_activation] if one_layer(config) else None,
        units=config.evaluate.units,
    )


def one_layer(config: Any) -> bool:
    """Whether the encoder is one dense layer with an elementwise activation."""
    return config.model.name == "mlp" and not config.model.encoder.widths


def weight_schedule(*, weight: float, schedule: str, begin: int, steps: int) -> Callable[[jax.Array], jax.Array]:
    """step -> weight: 0 before `begin`; constant; linear from 0 over `steps`; or cyclic.

    Cyclic: in each cycle of `steps` the weight rises linearly over the first half and stays over the
    second (Fu et al., 2019).
    """
    return lambda step: weight * SCHEDULES[schedule](jnp.asarray(step, jnp.float32) - begin, steps)


def _off(step: jax.Array) -> jax.Array:
    return jnp.zeros(())


def mean(terms: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """The one mean over the batch; a scalar stays."""
    return {name: jnp.mean(term) for name, term in terms.items()}


def _bind(term: Callable[..., jax.Array], fields: dict[str, Any]) -> Callable[[penalties.Context], jax.Array]:
    return lambda ctx: term(ctx, **fields)
