"""Fields of the config: a part declares each of its fields once, with default, meaning and range.

A part is a function, a dataclass or a Flax module. A parameter of it becomes a field of the config by its annotation:

    def denoise(key, batch, *, level: Annotated[float, Field("probability of an entry", at_least(0))] = 0.2): ...

`config.py` assembles the config from these declarations and checks every value against them.

A field is a bool, an int, a float, a string, or a tuple of such; only a tuple may be None. Its type is that of its
default, so that 1.0 declares a float and 1 an integer. The name of a part is the name of its section: it consists of
letters, digits and underscores, and differs from the fields and sections beside it.
"""

import ast
import dataclasses
import functools
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Annotated, Any, NamedTuple, get_args, get_origin

from aejax.errors import FieldError, InputError


class Allowed(NamedTuple):
    """The values that a field may take: the text that follows "must" in an error message, and the test.

    The text is a function if it lists a registry, which may grow.
    """

    text: str | Callable[[], str]
    accepts: Callable[[Any], bool]

    def __str__(self) -> str:
        return self.text if isinstance(self.text, str) else self.text()


def at_least(low: float) -> Allowed:
    return Allowed(f"be at least {low}", lambda v: v >= low)


def above(low: float) -> Allowed:
    return Allowed(f"be greater than {low}", lambda v: v > low)


def within(low: float, high: float, *, brackets: str = "[]") -> Allowed:
    """The interval from `low` to `high`; `brackets` as in mathematics: a round one excludes its end."""

    def accepts(v: float) -> bool:
        return (low < v if brackets[0] == "(" else low <= v) and (v < high if brackets[1] == ")" else v <= high)

    return Allowed(f"lie in {brackets[0]}{low}, {high}{brackets[1]}", accepts)


def one_of(names: Collection[str]) -> Allowed:
    """One of these names; a registry stands for its keys."""
    return Allowed(lambda: f"be one of {', '.join(names)}", lambda v: v in names)


def some_of(names: Collection[str]) -> Allowed:
    """A tuple of these names."""
    return Allowed(lambda: f"be a tuple of {', '.join(names)}", lambda v: set(v) <= set(names))


def each(allowed: Allowed, kind: type, plural: str) -> Allowed:
    """A tuple of allowed values of type `kind`; also null if the default is null."""

    def accepts(values: Any) -> bool:
        return values is None or all(type(v) is kind and allowed.accepts(v) for v in values)

    return Allowed(f"be a tuple of {plural}", accepts)


WIDTHS = each(at_least(1), int, "integers of at least 1")


@dataclasses.dataclass(frozen=True)
class Field:
    """The meaning of a field, with its unit, and the values that it may take (None: any of its type)."""

    about: str
    allowed: Allowed | None = None


@dataclasses.dataclass(frozen=True)
class Declared:
    """A field as declared by a part."""

    default: Any
    kind: Any  # its type; a union with None takes null
    about: str
    allowed: Allowed | None

    def check(self, path: str, value: Any) -> Iterator[FieldError]:
        """The error of a value that is not allowed."""
        if self.allowed is not None and not self.allowed.accepts(value):
            yield FieldError(path, value, f"must {self.allowed}")

    def parse(self, name: str, text: str) -> Any:
        """The value that a text on the command line stands for; raises InputError."""
        kind = type(self.default) if self.default is not None else tuple
        try:
            if kind is bool:
                return {"true": True, "false": False}[text.lower()]
            return _tuple(text) if kind is tuple else kind(text)
        except (ValueError, SyntaxError, KeyError) as error:
            raise InputError(f"{name}={text}: must be of the type {kind.__name__}") from error


def _tuple(text: str) -> tuple[Any, ...]:
    """The tuple of a text such as `1, 2` or `(1, 2)`; other texts give strings: `a, b`."""
    try:
        value = ast.literal_eval(f"({text.rstrip(', ')},)" if text else "()")
    except (ValueError, SyntaxError):
        words = tuple(word.strip() for word in text.rstrip(", ").split(","))
        if not all(words):
            raise
        return words
    return value[0] if len(value) == 1 and isinstance(value[0], tuple) else value


@functools.cache
def declared(*parts: Any) -> dict[str, Declared]:
    """The fields of a part, or of several that share a section: name -> declaration, in the order of the signatures.

    Raises TypeError if two parts declare one field differently, or a field has no default.
    """
    found: dict[str, Declared] = {}
    for part in parts:
        for name, annotation in _annotations(part).items():
            if get_origin(annotation) is not Annotated:
                continue
            kind, *notes = get_args(annotation)
            field = next((note for note in notes if isinstance(note, Field)), None)
            if field is None:
                continue
            own = Declared(_default(part, name), kind, field.about, field.allowed)
            if name in found and (found[name].default, found[name].about) != (own.default, own.about):
                raise TypeError(f"{part}: declares the field {name} differently from another part of its section")
            found[name] = own
    return found


def chosen(part: Any, section: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a section of the config that `part` declares, as its keyword arguments."""
    return {name: section[name] for name in declared(part)}


def _annotations(part: Any) -> dict[str, Any]:
    own: dict[str, Any] = {}
    for owner in reversed(part.__mro__) if inspect.isclass(part) else (part,):
        found = inspect.get_annotations(owner)
        if any(isinstance(annotation, str) for annotation in found.values()):  # from __future__ import annotations
            found = inspect.get_annotations(owner, eval_str=True)
        own |= found
    return own


def _default(part: Any, name: str) -> Any:
    default = inspect.signature(part).parameters[name].default
    if default is inspect.Parameter.empty:
        raise TypeError(f"{part}: the field {name} needs a default")
    return default
