"""The background process: how it comes to be.

The command that starts it takes the lock, binds the socket and forks; the parent ends at once, so that the client that
ran it can connect, and the child is the process. If another process has the lock, the command ends without doing
anything: clients that find nobody and start a process at the same time all meet the same one.
"""

import fcntl
import gc
import os
import socket
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from colbertz.resident.server import LIMITS, Answers, Limits, Server

# Connections that wait for being accepted.
_BACKLOG = 64
# New objects between two collections of garbage, as for the command line: importing PyTorch makes half a million.
_GC_THRESHOLD = 100_000


def main(argv: Sequence[str]) -> None:
    """Become the process that listens at a socket: `argv` has the paths of the socket and of its lock."""

    def folders() -> Answers:
        gc.set_threshold(_GC_THRESHOLD)
        from colbertz.resident.answers import FolderAnswers

        return FolderAnswers()

    become(Path(argv[0]), Path(argv[1]), folders)


def become(socket_path: Path, lock_path: Path, answers: Callable[[], Answers], limits: Limits = LIMITS) -> None:
    """Let a process in the background listen, until it has been idle for too long or is asked to leave.

    Returns in the process that called it, as soon as the other one listens; the other one does not return.

    Args:
        socket_path: where to listen. What a killed process left there is removed.
        lock_path: the lock of the socket. If another process has it, nothing is done.
        answers: is called in the background process after that listens, and may import what takes long.
        limits: after which time what is given up.
    """
    lock = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    listener = _bound(socket_path)
    if os.fork():
        return
    os.setsid()
    os.chdir("/")
    status = 1
    try:
        Server(listener, lock, socket_path, limits, answers()).run()
        status = 0
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        # Not an ordinary end of Python: threads of PyTorch, and of requests that were given up, may still run.
        os._exit(status)


def _bound(path: Path) -> socket.socket:
    """A socket that listens at `path`, and that only the user can connect to from the first moment on."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    mask = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(mask)
    listener.listen(_BACKLOG)
    return listener
