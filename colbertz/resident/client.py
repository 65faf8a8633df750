"""Asking the background process. Only the standard library is imported, and little of it: a search waits for this."""

import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache

from colbertz.errors import UserError
from colbertz.resident.place import PACKAGE_PARENT, Place, code_on_disk, find_place, is_enabled
from colbertz.resident.wire import LONGEST_MESSAGE, PROTOCOL, Lines, Message, NoReply, WireError, peer_user, send

Progress = Callable[[int, int, str], None]
# Seconds without any message after which the process counts as stopped. It sends one at least every second, but may be
# unable to while PyTorch is loaded from a slow disk.
_LONGEST_SILENCE = 15.0
# Seconds in which a process that another client has just started begins to listen.
_LONGEST_START = 5.0
# Seconds between two looks for the socket of a process that is being started, and how many looks.
_POLL_S = 0.01
_POLLS = 10
_NO_PROGRESS: Progress = lambda done, total, what: None  # noqa: E731
# `-P` and this: the folder that a command was started in must not be searched for modules.
_RUN = (
    "import sys; parent = sys.argv.pop(1); parent in sys.path or sys.path.insert(0, parent); "
    "from colbertz.resident.process import main; main(sys.argv[1:])"
)


def command() -> list[str]:
    """The command line that starts the process, from the same installation as this one."""
    return [sys.executable, "-P", "-c", _RUN, PACKAGE_PARENT]


def ask(
    action: str,
    request: Message,
    *,
    wait_s: float | None = None,
    on_progress: Progress = _NO_PROGRESS,
    silence_s: float = _LONGEST_SILENCE,
    start: Sequence[str] | None = None,
) -> Message | None:
    """Ask the background process, which is started if there is none.

    An exception of `on_progress`, or an interruption, ends the connection, and the process gives the request up.

    Args:
        action: "search" or another action of `answers.Answers`.
        request: what JSON can hold, with absolute paths.
        wait_s: seconds to wait for files that changed since they were indexed to be brought in, before an answer
            without them; None: as long as it takes.
        on_progress: is called with how many of how many are done, and of what, while files are brought in.
        silence_s: seconds without any message after which the process is given up.
        start: the command line that starts the process; None: that of this installation.

    Returns:
        The answer, or None if there is no process, or none that answers: do the work in this process.

    Raises:
        UserError: if the request cannot be answered by anybody, such as a filter with an error in it.
    """
    message = {"protocol": PROTOCOL, "code": _code(), "action": action, "request": request, "wait_s": wait_s}
    place = find_place() if is_enabled() else None
    if place is None:
        return None
    # Twice, because the first process may be about to end, or be one of an older version, which ends when it is asked.
    for _ in range(2):
        try:
            with _connected(place, start or command(), silence_s) as connection:
                send(connection, message)
                last = _last_message(connection, on_progress)
        except (NoReply, ConnectionError):
            continue
        except (OSError, WireError):
            return None
        if "refused" in last:
            raise UserError(last["refused"])
        if "answer" in last:
            return last["answer"]
        if last.get("other_code") != "leaving":
            return None
    return None


@cache
def _code() -> str:
    """The code of this process, as it was on the disk when the process first asked."""
    return code_on_disk()


def wake() -> None:
    """Start the process if there is none, and return while it still loads what takes long."""
    place = find_place() if is_enabled() else None
    if place is not None:
        with suppress(OSError, WireError), _connected(place, command(), _LONGEST_SILENCE):
            pass


def tell(place: Place, action: str, silence_s: float = _LONGEST_SILENCE) -> Message | None:
    """Send an action without a request to a process that runs; None if none runs. Nothing is started."""
    message = {"protocol": PROTOCOL, "code": _code(), "action": action, "request": {}, "wait_s": None}
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(silence_s)
            connection.connect(str(place.socket))
            _check_peer(connection)
            send(connection, message)
            return _last_message(connection, _NO_PROGRESS)
    except (OSError, WireError):
        return None


def _last_message(connection: socket.socket, on_progress: Progress) -> Message:
    lines = Lines(connection, LONGEST_MESSAGE)
    while True:
        message = lines.next()
        if "progress" in message:
            done, total, what = message["progress"]
            on_progress(done, total, what)
        elif "working" not in message:
            return message


@contextmanager
def _connected(place: Place, start: Sequence[str], silence_s: float) -> Iterator[socket.socket]:
    """A connection to the process, which is started if nothing listens."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(silence_s)
        deadline = time.monotonic() + _LONGEST_START
        while (code := connection.connect_ex(str(place.socket))) != 0:
            if time.monotonic() > deadline:
                raise OSError(code, os.strerror(code), str(place.socket))
            # Again, if nothing listens after it: a process that was just ending may still have had the lock.
            _start(place, start)
            _wait_for_name(place)
        _check_peer(connection)
        yield connection


def _wait_for_name(place: Place) -> None:
    """Wait a moment for a process to begin to listen that another client has just started."""
    for _ in range(_POLLS):
        if place.socket.exists():
            return
        time.sleep(_POLL_S)


def _start(place: Place, start: Sequence[str]) -> None:
    """Run the command that starts the process. It returns once the process listens, or another one is about to."""
    import subprocess

    with place.log.open("wb") as log:
        done = subprocess.run(
            [*start, str(place.socket), str(place.lock)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            cwd="/",
            check=False,
            timeout=_LONGEST_START * 2,
        )
    if done.returncode != 0:
        raise OSError(f"the background process could not be started (status {done.returncode}): see {place.log}")


def _check_peer(connection: socket.socket) -> None:
    if peer_user(connection) not in (os.getuid(), None):
        raise WireError("the process at the other end belongs to another user")
