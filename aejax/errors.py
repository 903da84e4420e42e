"""What ends a run other than success, each with the exit code of the process."""

from typing import Any


class InputError(ValueError):
    """A field, value, shape or file that cannot be used; the message is one line."""

    exit_code = 2


class FieldError(InputError):
    """A field of the config that cannot be used."""

    def __init__(self, field: str, value: Any, allowed: str):
        super().__init__(f"config.{field} = {value!r}: {allowed}")
        self.field, self.value, self.allowed = field, value, allowed


class LostError(RuntimeError):
    """Of several processes some did not come, or are gone."""

    exit_code = 4


class NonFiniteError(ArithmeticError):
    """A loss or gradient that is not finite; the last good state is in the checkpoint."""

    exit_code = 3


class Stopped(Exception):
    """SIGTERM or an interrupt (Ctrl-C) was received and the state has been saved."""

    exit_code = 143  # 130 after an interrupt
