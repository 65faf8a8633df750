"""How far a long job is, on stderr: how much of it is done, and how long the rest will take.

On a terminal that is tqdm's bar. Elsewhere (a pipe, a file, a notebook's log), where a bar cannot be drawn again in
place, it is a line every 30 seconds, or as many as the variable COLBERTZ_PROGRESS_SECONDS says; with 0, whenever there
is news, of short jobs too. A job that is part of another one shows nothing: there is one bar at a time.
"""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
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
_LINE_OF_STEPS = "{desc} ({percentage:.0f} % of all) in {elapsed}, {remaining} left"
_BAR_OF_STEPS = "{desc} {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}]"
_STEP_WITHOUT_TOTAL = "{desc} in {elapsed}"

# What the job that is shown does when a job that is part of it has done so much; None while none is shown.
_on_part: ContextVar[Callable[[float], None] | None] = ContextVar("_on_part", default=None)


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


class Steps:
    """One bar over a job of several steps, each with a unit of its own; `steps` makes it.

    The bar counts the percentage of the time that the job takes: each step has the share that `steps` was given.
    """

    def __init__(
        self, bar: Any, what: str, shares: Mapping[str, float], outer: Callable[[float], None] | None = None
    ) -> None:
        self._bar, self._what, self._shares = bar, what, shares
        # What the job that this one is part of does for each further percent, and the percentage that it knows of.
        self._outer, self._told = outer, 0.0
        # tqdm's bars that are disabled have hardly any attributes.
        self._format = None if bar.disable else bar.bar_format
        self._step, self._unit = "", ""
        self._total: float | None = None
        # Of the step: how much was done at the last update, and how much its parts have done since.
        self._done, self._ahead = 0.0, 0.0

    def begin(self, step: str, total: float | None, unit: str, done: float = 0) -> None:
        """Begin a step.

        Args:
            step: its name, one of the keys of the shares.
            total: how much there is to do in it; None if that is not known, and then nothing is said of the rest.
            unit: what `total` counts, such as "documents".
            done: how much of it was done before; it counts for no time.
        """
        self._step, self._total, self._unit = step, total, unit
        self._done, self._ahead = done, 0.0
        if not self._bar.disable:
            self._bar.bar_format = self._format if total else _STEP_WITHOUT_TOTAL
            self._bar.initial += self._place(done) - self._place(0)
        self._show(done)

    def update(self, count: float) -> None:
        """Say that so much more of the step is done."""
        self._done, self._ahead = self._done + count, 0.0
        self._show(self._done)

    def part(self, count: float) -> None:
        """Show that a job within the step has done so much more; the next `update` counts it for good."""
        self._ahead += count
        self._show(self._done + self._ahead)

    def _place(self, done: float) -> float:
        """The percentage of the job where so much of the step is done."""
        names = list(self._shares)
        before = sum(self._shares[name] for name in names[: names.index(self._step)])
        part = min(1.0, done / self._total) if self._total else 0.0
        return 100 * (before + self._shares[self._step] * part) / sum(self._shares.values())

    def _show(self, done: float) -> None:
        if self._outer is not None:
            place = self._place(done)
            self._outer(place - self._told)
            self._told = place
        if self._bar.disable:
            return
        of = f" of {self._total:,.0f}" if self._total else ""
        self._bar.set_description_str(f"{self._what}, {self._step}: {done:,.0f}{of} {self._unit}", refresh=False)
        self._bar.update(self._place(done) - self._bar.n)


@contextmanager
def steps(what: str, shares: Mapping[str, float], show: bool | None = None) -> Iterator[Steps]:
    """Show how far a job of several steps is while the context is open.

    Args:
        what: the job, such as "indexing".
        shares: the names of its steps, in order, and how long each takes in proportion to the others.
        show: as for `progress`.

    Yields:
        the bar; call its `begin` for each step, and `update`. A job that is part of the step moves it too; if it has
        steps itself, it does 100 parts in all.
    """
    formats = {"terminal": _BAR_OF_STEPS, "lines": _LINE_OF_STEPS}
    bar = _bar(what, show, _line_seconds(), formats, total=100.0, smoothing=0)
    outer = None if show is False else _on_part.get()
    job = Steps(bar, what, shares, outer)
    with _shown(bar, job.part, is_part=outer is not None):
        yield job


@contextmanager
def progress(
    what: str,
    total: int | None,
    unit: str,
    show: bool | None = None,
    *,
    initial: int = 0,
    line_seconds: float | None = None,
) -> Iterator[Any]:
    """Show how far a job is while the context is open.

    Args:
        what: the job, such as "encoding".
        total: how much there is to do; None if that is not known, and then nothing is said of the rest.
        unit: what `total` counts, such as "texts".
        show: None to show jobs that take longer than a second, True for all, False for none.
        initial: how much was done before.
        line_seconds: seconds between two lines where there is no terminal; None for those of the environment, or 30.

    Yields:
        tqdm's bar; call its `update(count)`. If the job fails or is interrupted, its line is ended.
    """
    formats = {"lines": _LINE if total is not None else _LINE_WITHOUT_TOTAL}
    bar = _bar(
        what,
        show,
        _line_seconds() if line_seconds is None else line_seconds,
        formats,
        total=total,
        unit=f" {unit}",
        initial=initial,
        unit_scale=total is None or total >= 100_000,
    )
    on_part = _on_part.get()
    if on_part is not None and show is not False:
        yield _Part(on_part)
        return
    # Parts may have another unit: they do not count, but a line that is due is written.
    with _shown(bar, lambda count: bar.update(0)):
        yield bar


class _Part:
    """In place of the bar of a job that is part of another one."""

    def __init__(self, on_part: Callable[[float], None]) -> None:
        self.update = on_part


@contextmanager
def _shown(bar: Any, on_part: Callable[[float], None], is_part: bool = False) -> Iterator[None]:
    """Close the bar at the end. If it is shown or part of one, jobs within call `on_part` and show nothing."""
    outer = _on_part.get()
    _on_part.set(on_part if is_part or not bar.disable else outer)
    try:
        with bar:
            yield
    finally:
        _on_part.set(outer)


def _bar(what: str, show: bool | None, line_seconds: float, formats: Mapping[str, str], **settings: Any) -> Any:
    """Tqdm's bar, or what writes lines in its place; `formats` are those on a "terminal" and of "lines"."""
    if sys.stderr.isatty():
        settings |= {"delay": 0.0 if show else min(_DELAY, line_seconds), "bar_format": formats.get("terminal")}
    else:
        settings |= {
            "file": _Lines(sys.stderr),
            "mininterval": line_seconds,
            "delay": 0.0 if show else line_seconds,
            "bar_format": formats["lines"],
        }
    return tqdm(desc=what, miniters=0, disable=show is False or _on_part.get() is not None, **settings)


def _line_seconds() -> float:
    return float(os.environ.get("COLBERTZ_PROGRESS_SECONDS", _LINE_SECONDS))
