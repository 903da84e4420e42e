"""Progress on standard error, so that a run is never silent for long."""

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
    """Whether somebody watches, in a terminal or in a notebook, whose standard error is not a terminal."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


@contextlib.contextmanager
def every(seconds: float, act: Callable[[], None], *, first: float | None = None) -> Iterator[None]:
    """Context manager: a thread calls `act` after `first` seconds, then every `seconds`."""
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
def said(what: str, shown: bool = True) -> Iterator[None]:
    """Context manager: after five seconds, and at intervals from then on, print `what` and the time so far."""
    begin = time.perf_counter()

    def say() -> None:
        print(f"{what}: {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)

    with every(TERMINAL if interactive() else LOG, say, first=5.0) if shown else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def bar(total: int, unit: str, shown: bool, **given: Any) -> Iterator[tqdm]:
    """A progress bar; if nobody watches, a line every 30 seconds."""
    watched = interactive()
    log = {} if watched else {"file": _Lines(), "bar_format": LINE, "delay": LOG, "mininterval": float("inf")}
    with contextlib.ExitStack() as stack:
        made = stack.enter_context(tqdm(total=total, unit=unit, disable=not shown, **log, **given))
        if shown:  # a long step does not stop the clock
            stack.enter_context(every(TERMINAL if watched else LOG, made.refresh))
        yield made


class _Lines:
    """Standard error, with a line of its own each time the bar is drawn."""

    def write(self, text: str) -> None:
        if text.strip():
            sys.stderr.write(text.strip() + "\n")

    def flush(self) -> None:
        sys.stderr.flush()
