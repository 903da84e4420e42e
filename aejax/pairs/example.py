"""An example of training: the input of the encoder, and the targets of the decoder."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp

from aejax.data.spec import Spec
from aejax.errors import FieldError

Batch = Mapping[str, jax.Array]  # arrays by field


class Target(NamedTuple):
    """The target of one head of the decoder; the likelihood sums weight times its term over the event."""

    value: jax.Array  # [B, ...]
    weight: jax.Array | None = None  # broadcasts against the value; None = 1


class Example(NamedTuple):
    """One batch of inputs and targets."""

    input: jax.Array  # [B, ...]
    targets: dict[str, Target]  # by head; most models have one
    condition: Any = None  # [B, ...] seen by prior and decoder besides the code
    hidden: jax.Array | None = None  # broadcasts against the target; 1 = corrupted or hidden; None = no such entries
    observed: jax.Array | None = None  # [B, ...] 0 = an empty cell, which no loss counts; None = none is empty

    @property
    def head(self) -> str:
        """The name of the only head."""
        (name,) = self.targets
        return name

    @property
    def target(self) -> jax.Array:
        """The value of the only head."""
        return self.targets[self.head].value

    @property
    def weight(self) -> jax.Array | None:
        """The weight of the only head."""
        return self.targets[self.head].weight

    def weighted(self, weight: jax.Array | None) -> Self:
        """The same example with this weight for its only head."""
        return self._replace(targets={self.head: Target(self.target, weight)})


def example(
    input: jax.Array,
    target: jax.Array,
    weight: jax.Array | None = None,
    condition: Any = None,
    hidden: jax.Array | None = None,
    *,
    head: str = "x",
) -> Example:
    """An example with one head."""
    return Example(input, {head: Target(target, weight)}, condition, hidden)


class Pair:
    """batch -> Example. A pair derives from this class: a frozen dataclass with fields of its own and `make`.

    `make` is traced by JAX and draws from its key alone. The batch holds x, scaled to the model's units, and y if
    the data have labels (-1 = none). Images of a pair that `degrades` are compared and drawn (figures/NAME.png): their
    input must broadcast to the shape of the target, apart from appended channels.
    """

    degrades: ClassVar[bool] = False  # the input holds less than the target
    rows: ClassVar[tuple[str, str, str]] = ("input", "output", "target")  # names in figures, all different

    def make(self, key: jax.Array | None, batch: Batch) -> Example:
        """With key None nothing is corrupted: the input of a trained model, and of `test/clean/*`."""
        raise NotImplementedError

    def bind(self, spec: Spec) -> "Pair":
        """The pair for data of `spec`."""
        return self

    def check(self, config: Any) -> Iterator[FieldError]:
        """Errors of the pair's fields together and with the rest of the config."""
        return iter(())

    def check_data(self, config: Any, spec: Spec) -> Iterator[FieldError]:
        """Errors of the pair on data of `spec`."""
        return iter(())

    @property
    def corrupts(self) -> bool:
        """`make` with key None gives the uncorrupted target as the input."""
        return False

    @property
    def conditional(self) -> bool:
        """Prior and decoder see a condition."""
        return False

    @property
    def supervised(self) -> bool:
        """The target is a label or a caption, not an example."""
        return False

    @property
    def writes(self) -> bool:
        """The target is a sequence of tokens, and the condition what a decoder reads that learns to write it."""
        return False

    @property
    def is_bound(self) -> bool:
        """Each entry of the target counts once or not at all, so that −log p + KL is a bound."""
        return True


@dataclasses.dataclass(frozen=True)
class Examples:
    """A pair, and the transform of the encoder's input: (key, batch) -> Example."""

    pair: Pair
    transform: Callable[[jax.Array], jax.Array]
    masked: bool = (
        False  # empty cells are NaN: 0 at the input (the mean of a standardised column), weight 0 in the loss
    )
    shown: bool = False  # the encoder sees which cells are empty: they stay NaN at its input
    others: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)  # shapes of the fields but x and y

    def __call__(self, key: jax.Array | None, batch: Batch) -> Example:
        observed = None
        if self.masked:
            observed = (~jnp.isnan(batch["x"])).astype(batch["x"].dtype)
            batch = {**batch, "x": jnp.nan_to_num(batch["x"]), "observed": observed}
        made = self.pair.make(key, batch)
        if observed is not None and "x" in made.targets:
            value, weight = made.targets["x"]
            weighted = Target(value, observed if weight is None else observed * weight)
            made = made._replace(targets={**made.targets, "x": weighted}, observed=observed)
        if self.shown and observed is not None:
            made = made._replace(input=jnp.where(_shown(observed, made.input) > 0, made.input, jnp.nan))
        return made._replace(input=self.transform(made.input))

    def shapes(self, shape: Sequence[int]) -> Example:
        """The example of one row of `shape`, as jax.ShapeDtypeStruct."""
        batch = {"x": jax.ShapeDtypeStruct((1, *shape), jnp.float32), "y": jax.ShapeDtypeStruct((1,), jnp.int32)}
        batch |= {name: jax.ShapeDtypeStruct((1, *own), jnp.int32) for name, own in self.others.items()}
        return jax.eval_shape(self, jax.eval_shape(lambda: jax.random.key(0)), batch)


def _shown(observed: jax.Array, input: jax.Array) -> jax.Array:
    """Where an input [B, ...] is not NaN; a channel that the pair appended is so up to the last observed step.

    The input of a forecast lacks the last steps.
    """
    observed = observed[:, : input.shape[1]]
    if input.shape == observed.shape:
        return observed
    there = jax.lax.cummax(observed.max(-1, keepdims=True), axis=1, reverse=True)
    return jnp.concatenate([observed, jnp.repeat(there, input.shape[-1] - observed.shape[-1], -1)], -1)


def seen(example: Example) -> jax.Array:
    """The input as an image in the target's shape: without mask channel, grey repeated."""
    given = example.input if example.condition is None else example.condition
    return jnp.broadcast_to(given[..., : example.target.shape[-1]], example.target.shape)


def output(example: Example, mean: jax.Array) -> jax.Array:
    """The reconstruction mean; where an entry is visible and has weight 0, the target itself."""
    if example.hidden is None or example.weight is None:
        return mean
    known = jnp.broadcast_to((example.hidden == 0) & (example.weight == 0), mean.shape)
    return jnp.where(known, example.target, mean)


def emphasis(hidden: jax.Array | None, alpha: float, beta: float) -> jax.Array | None:
    """alpha where hidden, beta elsewhere; None if that is 1 everywhere."""
    return None if hidden is None or alpha == beta == 1 else jnp.where(hidden == 1, alpha, beta)


def proportions(t: jax.Array) -> jax.Array:
    """t / Σ_j t_j of each row [B, D]; a row of zeros is unchanged."""
    return t / jnp.maximum(jnp.sum(t, axis=-1, keepdims=True), 1e-12)


# --- the batch before the pair ----------------------------------------------------------------------


def scale(batch: Batch) -> dict[str, jax.Array]:
    """uint8 images of 0..255 -> float32 in [0, 1]; anything else -> float32."""
    x = batch["x"]
    scaled = x.astype(jnp.float32) / 255 if x.dtype == jnp.uint8 else x.astype(jnp.float32)
    return {**batch, "x": scaled}


def binarize(key: jax.Array, batch: Batch) -> dict[str, jax.Array]:
    """x in [0, 1] -> {0, 1}, drawn with probability x (Salakhutdinov & Murray, 2008)."""
    return {**batch, "x": jax.random.bernoulli(key, batch["x"]).astype(jnp.float32)}
