"""Running `colbertz serve` as a process of its own, and talking to it over a socket."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

# The tokens and the limits of the strict server of tests/server/http.
READER = "reader-0123456789"
WRITER = "writer-0123456789"
ADMIN = "admin-0123456789"
LIMITS = {
    "max-body-bytes": 20_000,
    "max-texts": 5,
    "max-tokens": 500,
    "max-queries": 3,
    "max-top-k": 20,
    "max-in-flight": 3,
    "header-seconds": 1,
    "body-seconds": 1,
    "filter-seconds": 0.5,
}
# Seconds after which a server that does not start or end is a failure; both take a few.
_PATIENCE = 120


@dataclass
class Server:
    """A server that runs.

    Attributes:
        url: of its root.
        log: the lines that it has written, in the order of writing.
    """

    url: str
    process: subprocess.Popen[str]
    log: list[dict[str, Any]] = field(default_factory=list)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        return httpx.request(method, self.url + path, timeout=60, **options)

    def add(self, name: str, texts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Declare an index, add texts, and return the task once it is done."""
        self.request("POST", "/indices", json={"name": name}).raise_for_status()
        path = f"/indices/{name}/update_with_encoding?wait=true"
        answer = self.request("POST", path, json={"documents": texts, "metadata": metadata})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def line(self, request_id: str) -> dict[str, Any]:
        """The line of the log about a request. It is written after the answer, and read by a thread."""
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            for line in self.log:
                if line.get("request_id") == request_id:
                    return line
            time.sleep(0.01)
        raise AssertionError(f"the log has no request {request_id}")

    def connect(self) -> socket.socket:
        """A connection on which a test can send what no client would."""
        address = urlsplit(self.url)
        return socket.create_connection((address.hostname, address.port), timeout=60)

    def stop(self, signal_number: int) -> int:
        """Send a signal; the status with which the server ends."""
        self.process.send_signal(signal_number)
        return self.process.wait(_PATIENCE)


@contextmanager
def serving(root: Path, *options: str, environment: dict[str, str] | None = None) -> Iterator[Server]:
    """Start a server on a free port, and kill it at the end if a test has not stopped it."""
    command = [sys.executable, "-m", "colbertz", "serve", "--root", str(root), "--port", "0", *options]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=variables)
    assert process.stderr is not None
    log: list[dict[str, Any]] = []
    listening = threading.Event()

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            log.append(json.loads(line) if line.startswith("{") else {"text": line})
            if log[-1].get("event") == "listening":
                listening.set()
        listening.set()  # it has ended

    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert listening.wait(_PATIENCE), "the server did not start"
        urls = [line["url"] for line in log if line.get("event") == "listening"]
        assert urls, f"the server ended: {log}"
        yield Server(urls[0], process, log)
    finally:
        process.kill()
        process.wait()
        reader.join()
        process.stderr.close()


def receive_all(connection: socket.socket) -> bytes:
    """What arrives until the server closes the connection."""
    pieces = []
    while piece := connection.recv(1 << 16):
        pieces.append(piece)
    return b"".join(pieces)
