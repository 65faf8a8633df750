"""What the demo prints between its results: titles of its stages, times, the next command; colours on terminals."""

import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager


def stages(total: int) -> Callable[[str], AbstractContextManager[None]]:
    """A context for each stage, which prints its number and title before it and its time after it."""
    numbers = itertools.count(1)

    @contextmanager
    def stage(title: str) -> Iterator[None]:
        print(f"\n{bold(f'{next(numbers)}/{total}  {title}')}", flush=True)
        started = time.perf_counter()
        yield
        print(dim(f"done in {duration(time.perf_counter() - started)}"), flush=True)

    return stage


def print_next(command: str) -> None:
    """Print the command that a user may want to run next."""
    print(f"Next: {bold(command)}", flush=True)


def duration(seconds: float) -> str:
    """Seconds, or minutes and seconds, for people."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


def has_colors() -> bool:
    """Whether stdout shows colours."""
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


def bold(text: str) -> str:
    return f"\x1b[1m{text}\x1b[0m" if has_colors() else text


def dim(text: str) -> str:
    return f"\x1b[2m{text}\x1b[0m" if has_colors() else text
