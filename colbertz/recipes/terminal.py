"""What the recipes print between their results: numbered stages, times, the next command; colours on terminals."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

# Stages that took less were done before, or are too short to estimate from.
_LEAST_SECONDS = 1.0


def stages(
    shares: Sequence[float], clock: Callable[[], float] = time.perf_counter
) -> Callable[[str], AbstractContextManager[None]]:
    """A context for each stage, which prints its number, its title and the time left before it, and its time after it.

    Args:
        shares: how long each stage takes, in proportion to the others. What the first ones took tells how long the rest
            will take.
        clock: the time in seconds.
    """
    left = list(shares)
    measured = [0.0, 0.0]  # seconds of the stages so far that took some time, and their shares

    @contextmanager
    def stage(title: str) -> Iterator[None]:
        estimate = f"  (about {duration(measured[0] / measured[1] * sum(left))} left)" if measured[1] else ""
        share = left.pop(0)
        print(f"\n{bold(f'{len(shares) - len(left)}/{len(shares)}  {title}')}{dim(estimate)}", flush=True)
        started = clock()
        yield
        seconds = clock() - started
        if seconds >= _LEAST_SECONDS:
            measured[0] += seconds
            measured[1] += share
        print(dim(f"done in {duration(seconds)}"), flush=True)

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
