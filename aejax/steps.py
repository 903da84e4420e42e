"""One experiment as pure functions: its state, the train step, the eval step."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from aejax import models, objective, optim, pairs, prng
from aejax.data.dataset import Spec
from aejax.evaluators import classification, quality, units

Metrics = dict[str, Any]
EVALUATION = 0xE7A1  # folded into the root key: evaluation draws the same numbers at every step


@flax.struct.dataclass
class State:
    """Everything that training changes. Nothing random is in it: draws are functions of the step."""

    step: jax.Array
    params: Any
    variables: Any  # not trained by gradient: batch statistics
    opt_state: Any
    ema: Any  # average of the parameters, or None


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything that training does not change."""

    objective: objective.Objective
    optimizer: optax.GradientTransformation
    learning_rate: optax.Schedule
    key: jax.Array
    shape: tuple[int, ...]  # of an example
    accumulate: int
    ema: float


def build(config: ConfigDict, spec: Spec, steps: int) -> Experiment:
    """The experiment of a config on data described by `spec`."""
    tuning = config.finetune
    return Experiment(
        objective=objective.build(config, build_model(config, spec)),
        optimizer=optim.build(config.optim, steps, freeze=tuning.freeze, layer_decay=tuning.layer_decay),
        learning_rate=optim.schedule(config.optim, steps),
        key=prng.key(config.seed),
        shape=spec.shape,
        accumulate=config.optim.accumulate,
        ema=config.optim.ema,
    )


def build_model(config: ConfigDict, spec: Spec) -> models.Autoencoder:
    """The model of a config: what it gives out has the shape of the pair's target."""
    shape = pairs.build(config.pair, len(spec.classes)).shapes(spec.shape).target.shape[1:]
    head = models.LogSigma(float(np.log(config.objective.sigma))) if config.objective.learn_sigma else None
    return models.build(**config.model.to_dict(), shape=shape, head=head)


def init(experiment: Experiment, spec: Spec) -> State:
    """The state at step 0."""
    example = experiment.objective.pair.shapes(spec.shape)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), example)
    variables = dict(experiment.objective.model.init(experiment.key, zeros.input, condition=zeros.condition))
    params = variables.pop("params")
    ema = jax.tree.map(jnp.copy, params) if experiment.ema else None
    return State(jnp.zeros((), jnp.int32), params, variables, experiment.optimizer.init(params), ema)


def train_step(
    state: State, batch: pairs.Batch, *, experiment: Experiment, skip: Any = False
) -> tuple[State, Any, Metrics]:
    """One update: the new state, the gradients, the metrics. One that is skipped, or of a loss that is not finite,
    changes nothing.
    """
    key = jax.random.fold_in(experiment.key, state.step)
    gradients, variables, terms = backward(state, batch, key, experiment)
    learning_rate = jnp.asarray(experiment.learning_rate(state.step), jnp.float32)
    finite = jnp.isfinite(terms["loss"])
    state = _choose(finite & ~jnp.asarray(skip), functools.partial(update, experiment), state, gradients, variables)
    return state, gradients, {**terms, "learning_rate": learning_rate, "finite": finite}


def update(experiment: Experiment, state: State, gradients: Any, variables: Any) -> State:
    """The state after a step with these gradients and new variables."""
    updates, opt_state = experiment.optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = optax.incremental_update(params, state.ema, 1 - experiment.ema) if experiment.ema else None
    return State(state.step + 1, params, variables, opt_state, ema)


def _choose(do: jax.Array, update: Callable[..., State], state: State, *arguments: Any) -> State:
    """update(state, *arguments) where `do`, else the state.

    On the CPU the update is a branch, which works in place: a choice between old and new arrays is not fused into it
    there, and reads and writes all of them once more. Elsewhere it is fused, and a branch waits for the host.
    """

    def branch(do: jax.Array, state: State, *arguments: Any) -> State:
        return jax.lax.cond(do, update, lambda state, *_: state, state, *arguments)

    def choice(do: jax.Array, state: State, *arguments: Any) -> State:
        return jax.tree.map(functools.partial(jnp.where, do), update(state, *arguments), state)

    return jax.lax.platform_dependent(do, state, *arguments, cpu=branch, default=choice)


def backward(
    state: State, batch: pairs.Batch, key: jax.Array, experiment: Experiment
) -> tuple[Any, Any, dict[str, jax.Array]]:
    """Gradient of the loss, new variables and averaged terms; in `accumulate` parts where asked."""

    def loss(params: Any, variables: Any, part: pairs.Batch, key: jax.Array) -> tuple[jax.Array, tuple[Any, Any]]:
        terms, made = experiment.objective.terms(params, variables, part, key=key, step=state.step, train=True)
        terms = objective.mean(terms)
        total = experiment.objective.loss(terms, state.step)
        if experiment.objective.units:
            n = made["code"].h.shape[0]
            terms |= units.summary(units.sums(made["code"], jnp.ones(n)), n)
        return total, (made["variables"], {"loss": total, **terms})

    gradient = jax.grad(loss, has_aux=True)
    if experiment.accumulate == 1:
        gradients, (variables, terms) = gradient(state.params, state.variables, batch, key)
        return gradients, variables, terms

    def body(variables: Any, xs: tuple[pairs.Batch, jax.Array]) -> tuple[Any, tuple[Any, Any]]:
        part, i = xs
        gradients, (variables, terms) = gradient(state.params, variables, part, jax.random.fold_in(key, i))
        return variables, (gradients, terms)

    k = experiment.accumulate
    parts = jax.tree.map(lambda x: x.reshape(k, x.shape[0] // k, *x.shape[1:]), dict(batch))
    variables, stacked = jax.lax.scan(body, state.variables, (parts, jnp.arange(k)))
    gradients, terms = jax.tree.map(lambda x: x.mean(0), stacked)
    return gradients, variables, terms


def take(data: pairs.Batch, rows: jax.Array, shape: Sequence[int]) -> dict[str, jax.Array]:
    """The batch of rows [B]; the resident examples lie flat, since wide rows are gathered several times faster."""
    return shaped({name: values[rows] for name, values in data.items()}, shape)


def shaped(batch: pairs.Batch, shape: Sequence[int]) -> dict[str, jax.Array]:
    """A batch of flat examples [B, D] with each in its shape."""
    return {name: values.reshape(-1, *shape) if name == "x" else values for name, values in batch.items()}


def train_steps(
    state: State, data: pairs.Batch | None, rows: Any, skip: jax.Array, *, experiment: Experiment
) -> tuple[State, Metrics]:
    """Steps in one dispatch: rows [k, B] of the resident data, skip [k]. After a failed step, none is taken.

    Without resident data the rows are the examples themselves, flat [k, B, D], and their labels [k, B].

    Metrics are [k], but for what is computed after the last step alone, since at every step it would take 5 to 8 % of
    the time: the norms; `intact`, whether the state, and where no step failed the gradients' norm, are finite; and
    `failed`, whether a step did or the state is not intact.
    """

    def body(carry: tuple[State, Any, jax.Array], xs: tuple[Any, jax.Array]) -> Any:
        state, _, failed = carry
        row, skip = xs
        batch = shaped(row, experiment.shape) if data is None else take(data, row, experiment.shape)
        batch = jax.lax.optimization_barrier(batch)  # the step is then the same program wherever its batch is from
        state, gradients, metrics = train_step(state, batch, experiment=experiment, skip=skip | failed)
        return (state, gradients, failed | (~metrics["finite"] & ~skip)), metrics

    begin = (state, jax.tree.map(jnp.zeros_like, state.params), jnp.zeros((), bool))
    (state, gradients, failed), metrics = jax.lax.scan(body, begin, (rows, skip))
    norms = {"gradient_norm": optax.tree.norm(gradients), "parameter_norm": optax.tree.norm(state.params)}
    # By sums, in a third of the time of a look at each number.
    finite = [jnp.isfinite(leaf.sum()) for leaf in jax.tree.leaves((state, norms["parameter_norm"]))]
    intact = jnp.stack(finite).all() & (failed | jnp.isfinite(norms["gradient_norm"]))
    return state, {**metrics, **norms, "intact": intact, "failed": failed | ~intact}


def eval_step(
    state: State, data: pairs.Batch, rows: jax.Array, mask: jax.Array, *, experiment: Experiment
) -> dict[str, Any]:
    """Sums over the examples of rows [B] where mask [B] is 1: of every term and its weight, and of the units.

    Terms are the objective's and the quality of images. They lie under "", and for a pair that corrupts the
    same at the clean input under "clean/".
    """
    params = state.params if state.ema is None else state.ema
    key = jax.random.fold_in(jax.random.fold_in(experiment.key, EVALUATION), rows[0])
    batch = take(data, rows, experiment.shape)

    def measure(clean: bool) -> dict[str, Any]:
        terms, made = experiment.objective.terms(
            params, state.variables, batch, key=key, step=state.step, mask=mask, clean=clean
        )
        # A scalar describes the batch and counts for each of its examples.
        measured = {name: (term, mask) for name, term in terms.items()}
        if experiment.objective.pair.supervised:
            measured["error"] = classification.wrong(made["example"], made["mean"], mask)
        elif made["example"].target.ndim == 4:
            degraded = experiment.objective.pair.degrades and not clean
            images = quality.measures(made["example"], made["mean"], degraded=degraded)
            measured |= {name: (value, weight * mask) for name, (value, weight) in images.items()}
        sums: dict[str, Any] = {n: (jnp.sum(value * w), jnp.sum(w)) for n, (value, w) in measured.items()}
        return sums | ({"units": units.sums(made["code"], mask)} if experiment.objective.units else {})

    sums = {"": measure(clean=False)}
    if experiment.objective.pair.corrupts:
        sums["clean/"] = measure(clean=True)
    return sums
