"""The weight of a term of the objective, as a function of the step."""

from collections.abc import Callable, Iterator
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from aejax.errors import FieldError
from aejax.fields import Field, at_least, one_of

SCHEDULES: dict[str, Callable[[jax.Array, float], jax.Array]] = {
    # Fraction of the weight as a function of (steps since begin) / steps.
    "constant": lambda t, steps: jnp.where(t >= 0, 1.0, 0.0),
    "linear": lambda t, steps: jnp.clip(t / steps, 0.0, 1.0),
    "cyclic": lambda t, steps: jnp.where(t >= 0, jnp.minimum(2 * (t % steps) / steps, 1.0), 0.0),
}


def schedule(
    *,
    weight: Annotated[float, Field("factor of the term; 0 = off", at_least(0))] = 0.0,
    schedule: Annotated[
        str,
        Field(
            "schedule of the weight: constant | linear (from 0 to weight) | cyclic (linear, repeated)",
            one_of(SCHEDULES),
        ),
    ] = "constant",
    begin: Annotated[int, Field("step before which the weight is 0", at_least(0))] = 0,
    steps: Annotated[
        int, Field("linear: steps of the rise; cyclic: steps of a cycle, half of it rising", at_least(0))
    ] = 0,
) -> Callable[[jax.Array], jax.Array]:
    """step -> weight: 0 before `begin`; then constant, linear from 0 over `steps`, or cyclic.

    Cyclic: in each cycle of `steps` the weight rises linearly over the first half and stays over the
    second (Fu et al., 2019).
    """
    return lambda step: weight * SCHEDULES[schedule](jnp.asarray(step, jnp.float32) - begin, steps)


def check(path: str, section: Any) -> Iterator[FieldError]:
    if section.schedule != "constant" and section.steps < 1:
        yield FieldError(f"{path}.steps", section.steps, f"must be at least 1 for a {section.schedule} schedule")
