"""Ctrl-C and SIGTERM end a run after its current step."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Yield a list that collects the numbers of the signals SIGINT and SIGTERM, instead of ending the process.

    A second signal of the same number has its usual effect.
    """
    received: list[int] = []
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}

    def collect(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(number, handlers[signal.Signals(number)])

    try:
        for number in handlers:
            signal.signal(number, collect)
        yield received
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
