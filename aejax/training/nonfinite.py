"""Non-finite steps: the step, its first non-finite term, and the last good state."""

import functools
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax

from aejax.errors import NonFiniteError
from aejax.experiment import State
from aejax.training import step as step_lib


class Steps(Protocol):
    """The part of a trainer that is needed to find a step again."""

    experiment: Any

    def run(self, state: State, start: int, end: int) -> tuple[State, dict[str, float]]: ...
    def batch(self, step: int) -> Any: ...


class FailedSteps(NonFiniteError):
    """One of the steps start..end-1 is not finite; `before` is the state before it, None if it is lost."""

    def __init__(self, start: int, end: int, before: State | None, leaf: str):
        where = f"step {start}" if end - start == 1 else f"one of steps {start} to {end - 1}"
        super().__init__(f"{where}: not finite: {leaf}")
        self.before, self.start, self.end = before, start, end


def failed_step(trainer: Steps, before: State, step: int) -> FailedSteps:
    """The failure of a step, from the state before it."""
    return FailedSteps(step, step + 1, before, _diagnose(trainer, before, step))


def lost(after: State, start: int, end: int) -> FailedSteps:
    """The failure of one of these steps, from the state after them: the state before the failure is lost."""
    return FailedSteps(start, end, None, _not_finite(after))


def last_good(
    trainer: Steps, failed: FailedSteps, replay: Callable[[], State], start: int, end: int
) -> tuple[int, State, NonFiniteError]:
    """The step that failed, the state before it, and the error that names the step and its first non-finite term.

    `replay` recomputes the state before step `start`; it is called if `failed` has lost the state.
    """
    if failed.before is None:
        state = replay()
        while end - start > 1:  # bisection
            middle = (start + end) // 2
            try:
                state, start = trainer.run(jax.tree.map(jnp.copy, state), start, middle)[0], middle
            except FailedSteps:
                end = middle
        failed = failed_step(trainer, state, start)
        assert failed.before is not None
    return (
        failed.start,
        failed.before,
        NonFiniteError(
            f"{failed}; the state before it is saved; lower config.optim.learning_rate, or set config.optim.clip"
        ),
    )


def _diagnose(trainer: Steps, state: State, step: int) -> str:
    """The first term, gradient or array of the new state that is not finite at `step`, from the state before."""
    experiment = trainer.experiment
    batch, key = trainer.batch(step), jax.random.fold_in(experiment.key, state.step)
    for phase in experiment.phases:
        backward = functools.partial(step_lib.backward, phase, experiment=experiment)
        gradients, variables, terms = jax.jit(backward)(state, batch, key)
        for name, value in terms.items():
            if name != "loss" and not jnp.isfinite(value):
                return f"term {name} = {float(value)}"
        if leaf := _first(gradients, _is_bounded):
            return f"gradient of {leaf}"
        if not jnp.isfinite(terms["loss"]):
            return "loss" if phase is experiment.phases[0] else f"loss of the phase {phase.name}"
        state = jax.jit(functools.partial(step_lib.update, experiment, phase))(state, gradients, variables)
    return _not_finite(state)


def _not_finite(state: State) -> str:
    """The first array that is not finite after an update."""
    path = _first(state.params, _is_bounded) or _first(state, _is_finite)
    return f"update of {path}" if path else "norm of the gradient or of the parameters"


@jax.jit
def _is_bounded(leaf: jax.Array) -> jax.Array:
    return jnp.isfinite(optax.tree.norm(leaf))


@jax.jit
def _is_finite(leaf: jax.Array) -> jax.Array:
    return jnp.isfinite(leaf).all()


def _first(tree: Any, is_finite: Callable[[jax.Array], jax.Array]) -> str:
    """Path of the first array that is not finite, or ""."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not is_finite(leaf):
            return jax.tree_util.keystr(path, simple=True, separator="/")
    return ""
