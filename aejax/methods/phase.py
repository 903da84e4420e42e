"""A phase of training: a loss, the parameters it trains, and their optimiser."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import jax
import numpy as np
import optax

from aejax.data.spec import Spec
from aejax.errors import FieldError
from aejax.methods.objective import Objective
from aejax.pairs.example import Batch


class Loss(Protocol):
    """(params, variables, batch) -> loss, (new variables, averaged terms with `loss`). `params`: all parameters."""

    def __call__(
        self, params: Any, variables: Any, batch: Batch, *, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]: ...


class Phase(NamedTuple):
    """One of the updates that make up a step."""

    name: str
    loss: Loss
    optimizer: optax.GradientTransformation
    trained: tuple[str, ...] = ()  # components: names at the top of the parameters; () = all

    def select(self, params: Mapping[str, Any]) -> Any:
        """The parameters that the phase trains."""
        return {name: params[name] for name in self.trained} if self.trained else params

    def merge(self, params: Mapping[str, Any], trained: Any) -> Any:
        """All parameters, with new values of those that the phase trains."""
        return {**params, **trained} if self.trained else trained


@dataclasses.dataclass(frozen=True)
class Method:
    """How a model is trained: a frozen dataclass with fields of its own that gives objective and phases.

    This one is the default: one phase that minimises the objective over all parameters.
    """

    prior: ClassVar[bool] = False  # the codes are made to follow N(0, I), so that they can be sampled

    refreshes: ClassVar[bool] = False  # has a state that `refresh` changes between steps

    @property
    def refresh_steps(self) -> int:
        """Steps between two refreshes; the first one is at step 0. Used only if the method `refreshes`."""
        return 0

    def bind(self, spec: Spec, steps_per_epoch: int) -> Self:
        """The method for data of `spec`."""
        return self

    def objective(self, objective: Objective) -> Objective:
        """The objective of evaluation and of the first phase, from the config's."""
        return objective

    def init(self, key: jax.Array, objective: Objective) -> dict[str, Any]:
        """Components of the parameters besides the model's."""
        return {}

    def variables(self, params: Any, variables: Any) -> dict[str, Any]:
        """The initial state of a method that `refreshes`: arrays, which the objective sees as variables["method"]."""
        return {}

    def summary(self, objective: Objective, params: Any, variables: Any, batch: Batch) -> jax.Array:
        """What `refresh` needs of each example of a batch, [B, ...]; it is compiled."""
        raise NotImplementedError

    def refresh(self, state: Any, summaries: Callable[[], np.ndarray]) -> tuple[Any, dict[str, float]]:
        """The state with new parameters and variables, and metrics of the training split; on the host.

        `state` holds NumPy arrays, but no state of the optimiser. `summaries()` are those of all training examples in
        order, [N, ...], at this state.
        """
        raise NotImplementedError

    def over(self, variables: Any) -> str:
        """Why training ends before the last step, or ""; asked after each refresh and when a run resumes."""
        return ""

    def phases(self, objective: Objective, optimizer: optax.GradientTransformation) -> tuple[Phase, ...]:
        """The updates of a step, in order.

        The components are encoder and decoder, bottleneck if it has parameters, head if sigma is learned, and
        those of `init`. A phase must not name a component that does not exist; a component that no phase trains keeps
        its initial value. Metrics of the first phase keep their names, those of the others become PHASE_name.
        The phases of a step see the same batch and the same key.
        """
        return (Phase("train", objective.average, optimizer),)

    def check(self, config: Any) -> Iterator[FieldError]:
        """Errors of the method's fields together and with the rest of the config."""
        return iter(())

    def check_data(self, config: Any, spec: Spec) -> Iterator[FieldError]:
        """Errors of the method on data of `spec`."""
        return iter(())
