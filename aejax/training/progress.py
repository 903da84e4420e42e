"""What a run says on the standard error while it works, so that it is never silent for long."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from tqdm import tqdm

TERMINAL, LOG = 10.0, 30.0  # seconds between signs of life
LINE = "{desc}{n_fmt} of {total_fmt} {unit}s in {elapsed}, {remaining} left{postfix}"


def interactive() -> bool:
    """Whether somebody watches: a terminal, or a notebook, whose standard error is none."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


@contextlib.contextmanager
def every(seconds: float, act: Callable[[], None], *, first: float | None = None) -> Iterator[None]:
    """Within, a thread calls `act` after `first` seconds, and then again and again."""
    ended = threading.Event()

    def repeat() -> None:
        wait = seconds if first is None else first
        while not ended.wait(wait):
            act()
            wait = seconds

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextlib.contextmanager
def said(what: str | Callable[[], str], shown: bool = True) -> Iterator[None]:
    """Within, a line says what goes on, once it has taken five seconds, and how long, while it does."""
    begin = time.perf_counter()

    def say() -> None:
        text = what if isinstance(what, str) else what()
        print(f"{text}: {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)

    with every(TERMINAL if interactive() else LOG, say, first=5.0) if shown else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def bar(total: int, unit: str, shown: bool, **given: Any) -> Iterator[tqdm]:
    """A progress bar; where nobody watches, a line every 30 seconds."""
    watched = interactive()
    log = {} if watched else {"file": _Lines(), "bar_format": LINE, "delay": LOG, "mininterval": float("inf")}
    with contextlib.ExitStack() as stack:
        made = stack.enter_context(tqdm(total=total, unit=unit, disable=not shown, **log, **given))
        if shown:  # a long step does not stop the clock
            stack.enter_context(every(TERMINAL if watched else LOG, made.refresh))
        yield made


class _Lines:
    """The standard error, where a bar is a line of its own each time it is drawn."""

    def write(self, text: str) -> None:
        if text.strip():
            sys.stderr.write(text.strip() + "\n")

    def flush(self) -> None:
        sys.stderr.flush()
