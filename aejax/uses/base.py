"""The contract of a use: a trained model and data in, numbers, tables and figures out."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from aejax.data.spec import Spec
from aejax.errors import FieldError

if TYPE_CHECKING:  # every command imports this file; matplotlib takes a second
    from matplotlib.figure import Figure

Draw: TypeAlias = "Callable[[], Figure | None]"


class Metric(NamedTuple):
    """The meaning of a number."""

    about: str
    unit: str = ""
    better: str = ""  # lower | higher; "" = neither


@dataclasses.dataclass(frozen=True)
class Result:
    """What a use measured. Names of numbers are full, such as test/probe_error; the last part names the metric.

    The numbers are added to the results of the run and replace results of the same name. The columns of a table have
    equal length. Arrays are those that a later command needs, such as a fitted detector. Figures are drawn if
    `figures.enabled` is set. On the page a figure replaces another one of the same name; a figure named `loss` is not
    shown.
    """

    numbers: Mapping[str, float]
    tables: Mapping[str, Mapping[str, Sequence[Any]]] = dataclasses.field(default_factory=dict)  # column -> values
    figures: Mapping[str, Draw] = dataclasses.field(default_factory=dict)
    notes: Sequence[str] = ()  # printed: what was left out, or chosen, and why
    arrays: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)  # stored as NAME.npz


class Skip(Exception):
    """A use cannot be computed on this model or these data; the message says why, in one line."""


class Use(NamedTuple):
    """measure(trained, data, **fields) -> Result. Its fields are the keywords of `measure`; it may raise Skip.

    `metrics` explains each number by its last part, in the terminal and on the page. Import matplotlib inside the
    functions, since every command imports the file of a use. check(config, spec): errors of the config on data of
    `spec`, which end a run before it trains. ensemble: whether `measure` takes the models of a population too.
    """

    measure: Callable[..., Result]
    metrics: Mapping[str, Metric]
    check: Callable[[Any, Spec], Iterator[FieldError]] = lambda config, spec: iter(())
    ensemble: bool = False
