"""The train step and the eval step of an experiment, as pure functions."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from aejax.experiment import Experiment, State
from aejax.losses import classification, quality, units
from aejax.methods.phase import Phase
from aejax.pairs.example import Batch
from aejax.pairs.splits import EVALUATION

Metrics = dict[str, Any]


def train_step(state: State, batch: Batch, *, experiment: Experiment, skip: Any = False) -> tuple[State, Any, Metrics]:
    """One update: the new state, the gradients, the metrics. Each phase starts from the parameters that the one before
    it left. A skipped step, and a step in which the loss of a phase is not finite, leave the state unchanged.

    With several phases the gradients are a dict by phase, and the metrics of all but the first phase are named
    PHASE_name.
    """
    key, final = jax.random.fold_in(experiment.key, state.step), experiment.phases[-1]
    proposed, losses = state, []
    gradients: dict[str, Any] = {}
    metrics: Metrics = {}
    for phase in experiment.phases:
        gradients[phase.name], variables, terms = backward(phase, proposed, batch, key, experiment)
        metrics |= {f"{phase.name}_{name}" if metrics else name: term for name, term in terms.items()}
        losses.append(terms["loss"])
        if phase is not final:
            proposed = update(experiment, phase, proposed, gradients[phase.name], variables)
    learning_rate = jnp.asarray(experiment.learning_rate(state.step), jnp.float32)
    finite = functools.reduce(jnp.logical_and, map(jnp.isfinite, losses))
    do, end = finite & ~jnp.asarray(skip), functools.partial(update, experiment, final)
    if proposed is state:
        state = _choose(do, end, state, gradients[final.name], variables)
    else:
        state = _choose(do, lambda _, *rest: end(*rest), state, proposed, gradients[final.name], variables)
    found = gradients if len(gradients) > 1 else gradients[final.name]
    return state, found, {**metrics, "learning_rate": learning_rate, "finite": finite}


def update(experiment: Experiment, phase: Phase, state: State, gradients: Any, variables: Any) -> State:
    """The state after a phase with these gradients and new variables; the last phase ends the step."""
    several, last = len(experiment.phases) > 1, phase is experiment.phases[-1]
    opt_state = state.opt_state[phase.name] if several else state.opt_state
    updates, opt_state = phase.optimizer.update(gradients, opt_state, phase.select(state.params))
    params = phase.merge(state.params, optax.apply_updates(phase.select(state.params), updates))
    if several:
        opt_state = {**state.opt_state, phase.name: opt_state}
    if not last:
        return State(state.step, params, variables, opt_state, state.ema)
    ema = optax.incremental_update(params, state.ema, 1 - experiment.ema) if experiment.ema else None
    return State(state.step + 1, params, variables, opt_state, ema)


def _choose(do: jax.Array, update: Callable[..., State], state: State, *arguments: Any) -> State:
    """update(state, *arguments) where `do`, else the state.

    On the CPU this is a branch, which works in place; a choice between old and new arrays is not fused there, and
    reads and writes all of them once more. On other devices the choice is fused, whereas a branch waits for the host.
    """

    def branch(do: jax.Array, state: State, *arguments: Any) -> State:
        return jax.lax.cond(do, update, lambda state, *_: state, state, *arguments)

    def choice(do: jax.Array, state: State, *arguments: Any) -> State:
        return jax.tree.map(functools.partial(jnp.where, do), update(state, *arguments), state)

    return jax.lax.platform_dependent(do, state, *arguments, cpu=branch, default=choice)


def backward(
    phase: Phase, state: State, batch: Batch, key: jax.Array, experiment: Experiment
) -> tuple[Any, Any, dict[str, jax.Array]]:
    """Gradient of a phase's loss, new variables and averaged terms; computed in `accumulate` parts."""

    def loss(trained: Any, variables: Any, part: Batch, key: jax.Array) -> tuple[jax.Array, tuple[Any, Any]]:
        return phase.loss(phase.merge(state.params, trained), variables, part, key=key, step=state.step)

    gradient, trained = jax.grad(loss, has_aux=True), phase.select(state.params)
    if experiment.accumulate == 1:
        gradients, (variables, terms) = gradient(trained, state.variables, batch, key)
        return gradients, variables, terms

    def body(variables: Any, xs: tuple[Batch, jax.Array]) -> tuple[Any, tuple[Any, Any]]:
        part, i = xs
        gradients, (variables, terms) = gradient(trained, variables, part, jax.random.fold_in(key, i))
        return variables, (gradients, terms)

    k = experiment.accumulate
    parts = jax.tree.map(lambda x: x.reshape(k, x.shape[0] // k, *x.shape[1:]), dict(batch))
    variables, stacked = jax.lax.scan(body, state.variables, (parts, jnp.arange(k)))
    gradients, terms = jax.tree.map(lambda x: x.mean(0), stacked)
    return gradients, variables, terms


def no_gradients(experiment: Experiment, params: Any) -> Any:
    """Zeros in the shape of the gradients that `train_step` returns."""
    zeros = {phase.name: jax.tree.map(jnp.zeros_like, phase.select(params)) for phase in experiment.phases}
    return zeros if len(zeros) > 1 else next(iter(zeros.values()))


def take(data: Batch, rows: jax.Array, shape: Sequence[int]) -> dict[str, jax.Array]:
    """The batch of rows [B]; the resident examples lie flat, since wide rows are gathered several times faster."""
    return shaped({name: values[rows] for name, values in data.items()}, shape)


def shaped(batch: Batch, shape: Sequence[int]) -> dict[str, jax.Array]:
    """A batch of flat examples [B, D] with each in its shape."""
    return {name: values.reshape(-1, *shape) if name == "x" else values for name, values in batch.items()}


def train_steps(
    state: State, data: Batch | None, rows: Any, skip: jax.Array, *, experiment: Experiment
) -> tuple[State, Metrics]:
    """k steps in one dispatch: rows [k, B] of the resident data, skip [k]. Steps after a failed one are skipped.

    Without resident data the rows are the examples themselves, flat [k, B, D], and their labels [k, B].

    Metrics are [k]. Some are computed only after the last step, since at every step they would take 5 to 8 % of the
    time: the norms; `intact`: the state, and the norm of the gradients unless a step failed, are finite; `failed`: a
    step failed, or the state is not intact.
    """

    def body(carry: tuple[State, Any, jax.Array], xs: tuple[Any, jax.Array]) -> Any:
        state, _, failed = carry
        row, skip = xs
        batch = shaped(row, experiment.shape) if data is None else take(data, row, experiment.shape)
        batch = jax.lax.optimization_barrier(batch)  # the step is the same program for resident and streamed batches
        state, gradients, metrics = train_step(state, batch, experiment=experiment, skip=skip | failed)
        return (state, gradients, failed | (~metrics["finite"] & ~skip)), metrics

    initial = (state, no_gradients(experiment, state.params), jnp.zeros((), bool))
    (state, gradients, failed), metrics = jax.lax.scan(body, initial, (rows, skip))
    norms = {"gradient_norm": optax.tree.norm(gradients), "parameter_norm": optax.tree.norm(state.params)}
    # Sums take a third of the time of checking each number.
    finite = [jnp.isfinite(leaf.sum()) for leaf in jax.tree.leaves((state, norms["parameter_norm"]))]
    intact = jnp.stack(finite).all() & (failed | jnp.isfinite(norms["gradient_norm"]))
    return state, {**metrics, **norms, "intact": intact, "failed": failed | ~intact}


def eval_step(
    state: State, data: Batch, rows: jax.Array, mask: jax.Array, *, experiment: Experiment, first: Any = None
) -> dict[str, Any]:
    """Sums over the examples of rows [B] where mask [B] is 1: of every term and its weight, and of the units.

    Terms are the objective's and the quality of images. They are under ""; for a pair that corrupts, those of
    the clean input are under "clean/". first: the number of the batch's first example in its data, which decides the
    draws; rows[0] unless the data are part of larger ones.
    """
    params = state.params if state.ema is None else state.ema
    key = jax.random.fold_in(
        jax.random.fold_in(experiment.evaluation_key, EVALUATION), rows[0] if first is None else first
    )
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
