"""Accepts connections of clients, gives each request a thread, and tells when it is time to end.

The process holds nothing that another command could wait for: while it is idle it has files open for reading only.
"""

import os
import queue
import select
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from colbertz.errors import UserError
from colbertz.resident.place import code_on_disk
from colbertz.resident.wire import LONGEST_REQUEST, PROTOCOL, Lines, Message, WireError, peer_user, send

# Seconds in which a client sends its request, and takes a message.
_CLIENT_S = 10.0
# Seconds between two looks at whether the client is still there.
_LOOK_S = 0.2
# Seconds between two messages to a client that waits.
_WORKING_S = 1.0
# Seconds that requests have to end once the process leaves.
_LEAVE_S = 30.0
# Connections at the same time; more are closed, and their clients work in their own processes.
_MOST_CONNECTIONS = 64


@dataclass
class Call:
    """One request of a client.

    Attributes:
        action: what to do.
        request: with what.
        wait_s: seconds to wait for changed files to be brought in; None: as long as it takes.
        progress: tells the client how many are done of how many, and of what.
        cancelled: set when the client has gone, or the request was given up.
    """

    action: str
    request: Message
    wait_s: float | None
    progress: Callable[[int, int, str], None]
    cancelled: threading.Event = field(default_factory=threading.Event)


class Answers(Protocol):
    """What does the work. Threads share it."""

    def answer(self, call: Call) -> Message:
        """The answer to a request; a `UserError` if it cannot be answered."""

    def facts(self) -> Message:
        """What is open, for `colbertz resident status`."""

    def is_busy(self) -> bool:
        """Whether work goes on that no client waits for."""

    def stop(self) -> None:
        """End that work as soon as what it did can be kept."""


@dataclass(frozen=True)
class Limits:
    """Times of the process, in seconds.

    Attributes:
        idle: without a request, after which it ends.
        stuck: without progress, after which it gives a request up and ends: a thread cannot be stopped from outside.
        look: between two looks at whether the process is idle, and whether its socket still has its name.
    """

    idle: float = 600.0
    stuck: float = 300.0
    look: float = 5.0


LIMITS = Limits()


class Server:
    """One listening socket and the requests that came through it."""

    def __init__(self, listener: socket.socket, lock: int, path: Path, limits: Limits, answers: Answers) -> None:
        """Take over a socket that listens at `path`, and its lock, a file descriptor."""
        self._listener = listener
        self._lock = lock
        self._path = path
        self._inode = path.stat().st_ino
        self._limits = limits
        self._answers = answers
        self._code = code_on_disk()
        self._threads: set[threading.Thread] = set()
        self._started = self._last_request = time.monotonic()
        self._leaving = threading.Event()
        self._changing = threading.Lock()
        self._wakes, self._wake = socket.socketpair()

    def run(self) -> None:
        """Serve until the process has been idle for too long, is asked to leave, or lost its socket's name."""
        while not self._leaving.is_set() and self._has_name() and not self._is_idle():
            select.select([self._listener, self._wakes], [], [], min(self._limits.look, self._limits.idle))
            self._accept()
        self._leave()

    def _has_name(self) -> bool:
        """Whether clients still find this socket: the folder of sockets may have been emptied."""
        try:
            return self._path.lstat().st_ino == self._inode
        except OSError:
            return False

    def _is_idle(self) -> bool:
        if self._threads or self._answers.is_busy():
            self._last_request = time.monotonic()
        return time.monotonic() - self._last_request >= self._limits.idle

    def _accept(self) -> None:
        """Give each client that waits a thread."""
        self._listener.setblocking(False)
        while True:
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                return
            if len(self._threads) >= _MOST_CONNECTIONS:
                connection.close()
                continue
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.add(thread)
            thread.start()

    def _leave(self) -> None:
        """Answer who connected before the name was given back, and let running requests end."""
        self._give_name_back()
        self._accept()
        self._listener.close()
        self._answers.stop()
        deadline = time.monotonic() + _LEAVE_S
        for thread in list(self._threads):
            thread.join(max(0.0, deadline - time.monotonic()))

    def _give_name_back(self) -> None:
        """Let the next client start another process, from now on, and this one end."""
        with self._changing:
            if self._leaving.is_set():
                return
            self._leaving.set()
            if self._has_name():
                self._path.unlink()
            os.close(self._lock)
            self._wake.send(b"\0")

    def _serve(self, connection: socket.socket) -> None:
        """Answer one client."""
        try:
            with connection:
                connection.settimeout(_CLIENT_S)
                if peer_user(connection) in (os.getuid(), None):
                    self._reply(connection, Lines(connection, LONGEST_REQUEST).next())
        except (OSError, WireError):
            pass  # the client has gone, or is none of ours
        finally:
            self._last_request = time.monotonic()
            self._threads.discard(threading.current_thread())

    def _reply(self, connection: socket.socket, message: Message) -> None:
        if message.get("action") == "leave":
            self._give_name_back()
            send(connection, {"answer": {}})
        elif message.get("protocol") != PROTOCOL or message.get("code") != self._code:
            if code_on_disk() == self._code:
                send(connection, {"other_code": "outdated client"})
            else:
                self._give_name_back()
                send(connection, {"other_code": "leaving"})
        elif message.get("action") == "facts":
            send(connection, {"answer": self._facts()})
        else:
            self._work(connection, message)

    def _facts(self) -> Message:
        idle_s = time.monotonic() - self._last_request
        return {
            "pid": os.getpid(),
            "code": self._code,
            "running_s": round(time.monotonic() - self._started),
            "ends_in_s": round(max(0.0, self._limits.idle - idle_s)),
            **self._answers.facts(),
        }

    def _work(self, connection: socket.socket, request: Message) -> None:
        """Let another thread answer, while this one passes messages on and looks whether the client is there."""
        messages: queue.SimpleQueue[Message] = queue.SimpleQueue()

        def progress(done: int, total: int, what: str) -> None:
            messages.put({"progress": [done, total, what]})

        call = Call(request["action"], request["request"], request["wait_s"], progress)
        threading.Thread(target=self._compute, args=(call, messages.put), daemon=True).start()
        last_sent = last_progress = time.monotonic()
        try:
            while True:
                try:
                    message = messages.get(timeout=_LOOK_S)
                except queue.Empty:
                    if _has_gone(connection):
                        return
                    now = time.monotonic()
                    if now - last_progress > self._limits.stuck:
                        self._give_name_back()
                        send(connection, {"failed": f"no progress in {self._limits.stuck:.0f} seconds"})
                        return
                    if now - last_sent > _WORKING_S:
                        send(connection, {"working": True})
                        last_sent = now
                    continue
                send(connection, message)
                if "progress" not in message:
                    return
                last_sent = last_progress = time.monotonic()
        finally:
            call.cancelled.set()

    def _compute(self, call: Call, tell: Callable[[Message], None]) -> None:
        try:
            tell({"answer": self._answers.answer(call)})
        except UserError as error:
            tell({"refused": str(error)})
        except BaseException as error:  # noqa: BLE001  the client does the work itself, and meets the error then
            traceback.print_exc(file=sys.stderr)
            tell({"failed": f"{type(error).__name__}: {error}"})


def _has_gone(connection: socket.socket) -> bool:
    """Whether the client has closed the connection: it sends nothing after its request."""
    readable, _, _ = select.select([connection], [], [], 0)
    return bool(readable) and not connection.recv(1)
