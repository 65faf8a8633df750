"""`colbertz resident`: look at the background process that makes searches of folders start at once, or end it."""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from colbertz.cli.output import print_line
from colbertz.resident.client import tell
from colbertz.resident.place import ENABLED, find_place, is_enabled
from colbertz.text.counted import counted
from colbertz.text.printable import printable

HELP = "show or stop the background process of folder search"
EXAMPLES = """\
  colbertz resident status
  colbertz resident stop
"""
# Seconds that the process has to end its requests in.
_STOP_S = 35.0
_POLL_S = 0.05


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=("status", "stop"), help="status: show it; stop: let it end")


def run(args: argparse.Namespace) -> int:
    """Show or stop; returns 1 if no process runs, or it does not end."""
    place = find_place()
    if place is None or not is_enabled():
        reason = f"{ENABLED}=0" if not is_enabled() else "no folder that only you can use was found for its socket"
        print_line(f"there is no background process: {reason}")
        return 1
    facts = tell(place, "facts" if args.what == "status" else "leave")
    if facts is None:
        print_line("no background process is running")
        return 1
    if args.what == "stop":
        return _wait_until_gone(place.socket)
    if "other_code" in facts:
        print_line("a background process of another version is running; the next search replaces it")
        return 0
    for line in _lines(facts["answer"]):
        print_line(line)
    print_line(f"  socket {place.socket}\n  log    {place.log}")
    return 0


def _lines(facts: dict[str, Any]) -> Iterator[str]:
    yield (
        f"process {facts['pid']}, running for {_minutes(facts['running_s'])}, ends after "
        f"{_minutes(facts['ends_in_s'])} more without a search"
    )
    yield f"  code   {facts['code']}"
    for folder in facts.get("folders", ()):
        yield f"  folder {printable(folder)}"


def _minutes(seconds: int) -> str:
    return counted(seconds, "second") if seconds < 120 else counted(seconds // 60, "minute")


def _wait_until_gone(socket: Path) -> int:
    deadline = time.monotonic() + _STOP_S
    while socket.exists():
        if time.monotonic() > deadline:
            print(f"the background process still answers a request; it ends after that ({socket})", file=sys.stderr)
            return 1
        time.sleep(_POLL_S)
    print_line("the background process has ended")
    return 0
