"""The errors that end a run, each with the exit code of the process."""

import difflib
from collections.abc import Iterable, Sequence
from typing import Any


class InputError(ValueError):
    """A field, value, shape or file that cannot be used; the message is one line."""

    exit_code = 2


class FieldError(InputError):
    """A field of the config that cannot be used."""

    def __init__(self, field: str, value: Any, allowed: str):
        super().__init__(f"config.{field} = {value!r}: {allowed}")
        self.field, self.value, self.allowed = field, value, allowed


class FieldErrors(InputError):
    """Several fields of the config that cannot be used, in one line."""

    def __init__(self, errors: Sequence[FieldError]):
        super().__init__(f"{len(errors)} problems: " + "; ".join(map(str, errors)))
        self.errors = tuple(errors)


def raise_all(errors: Iterable[FieldError]) -> None:
    """Raise the errors, if there are any: a single one unchanged, several in one line."""
    found = list(errors)
    if len(found) == 1:
        raise found[0]
    if found:
        raise FieldErrors(found)


def did_you_mean(name: str, known: Sequence[str], prefix: str = "") -> str:
    """The end of a message on an unknown name: "; did you mean PREFIX+NAME?" with the most similar one, or nothing."""
    near = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {prefix}{near[0]}?" if near else ""


class LostError(RuntimeError):
    """Some of several processes did not join, or were lost."""

    exit_code = 4


class NonFiniteError(ArithmeticError):
    """A loss or gradient that is not finite; the last good state is in the checkpoint."""

    exit_code = 3


class Stopped(Exception):
    """SIGTERM or an interrupt (Ctrl-C) was received and the state has been saved."""

    exit_code = 143  # 130 after an interrupt
