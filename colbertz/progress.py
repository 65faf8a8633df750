"""How far a long job is, on stderr: how much of it is done, and how long the rest will take.

On a terminal that is tqdm's bar. Elsewhere (a pipe, a file, a notebook's log), where a bar cannot be drawn again in
place, it is a line every 30 seconds. A job that is part of another one shows nothing: there is one bar at a time.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TextIO

from tqdm import tqdm

# Seconds before anything is shown: a job that ends before needs no bar.
_DELAY = 1.0
# Seconds between two lines where there is no terminal.
_LINE_SECONDS = 30.0
_LINE = "{desc}: {n_fmt} of {total_fmt}{unit} ({percentage:.0f} %) in {elapsed}, {remaining} left"
_LINE_WITHOUT_TOTAL = "{desc}: {n_fmt}{unit} in {elapsed}"

_is_shown: ContextVar[bool] = ContextVar("_is_shown", default=False)


class _Lines:
    """A stream for tqdm that begins a new line where tqdm goes back to the start of its line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.encoding = getattr(stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> None:
        if line := text.strip("\r\n "):
            self._stream.write(line + "\n")

    def flush(self) -> None:
        self._stream.flush()


@contextmanager
def progress(
    what: str,
    total: int | None,
    unit: str,
    show: bool | None = None,
    *,
    initial: int = 0,
    line_seconds: float = _LINE_SECONDS,
) -> Iterator[Any]:
    """Show how far a job is while the context is open.

    Args:
        what: the job, such as "encoding".
        total: how much there is to do; None if that is not known, and then nothing is said of the rest.
        unit: what `total` counts, such as "texts".
        show: None to show jobs that take longer than a second, True for all, False for none.
        initial: how much was done before.
        line_seconds: seconds between two lines where there is no terminal.

    Yields:
        tqdm's bar; call its `update(count)`. If the job fails or is interrupted, its line is ended.
    """
    is_terminal = sys.stderr.isatty()
    settings: dict[str, Any] = {"delay": 0.0 if show else _DELAY}
    if not is_terminal:
        settings = {
            "file": _Lines(sys.stderr),
            "mininterval": line_seconds,
            "miniters": 0,
            "delay": 0.0 if show else line_seconds,
            "bar_format": _LINE if total is not None else _LINE_WITHOUT_TOTAL,
        }
    is_part = _is_shown.get()
    bar = tqdm(
        total=total,
        desc=what,
        unit=f" {unit}",
        initial=initial,
        unit_scale=total is None or total >= 100_000,
        disable=show is False or is_part,
        **settings,
    )
    _is_shown.set(is_part or not bar.disable)
    try:
        with bar:
            yield bar
    finally:
        _is_shown.set(is_part)
