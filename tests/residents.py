"""Helpers of tests that start background processes."""

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

ECHO = Path(__file__).parent / "resident" / "echo.py"


def processes_of(runtime: Path) -> list[int]:
    """The background processes that have, or had, a socket in a runtime directory."""
    found = []
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if any(word.startswith(os.fsencode(runtime)) for word in command.read_bytes().split(b"\0")):
                found.append(int(command.parent.name))
    return found


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that happens in another process; fails after a minute."""
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen within a minute")


def echo(*options: str) -> list[str]:
    """The command line that starts echo.py."""
    return [sys.executable, str(ECHO), *options]
