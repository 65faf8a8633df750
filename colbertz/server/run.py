"""Running the application with uvicorn, until SIGTERM or SIGINT."""

import asyncio
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from colbertz.errors import UserError
from colbertz.models import ColBERT
from colbertz.server.batching import EncodeBatcher
from colbertz.server.config import Limits
from colbertz.server.metrics import Metrics
from colbertz.server.root import Root
from colbertz.server.service import Service
from colbertz.server.settings import Settings
from colbertz.server.warming import WarmUp

# Connections that the system keeps until they are accepted.
_BACKLOG = 2048
_KEEP_ALIVE_SECONDS = 5


def listen(settings: Settings) -> socket.socket:
    """The socket on which to serve; clients can connect at once, and are answered once `serve` runs.

    Raises:
        OSError: if the address is not this machine's, or is taken.
        UserError: if the name is not known.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise UserError(f"cannot listen on {settings.host}: {error.strerror}") from None
    with socket.create_server(address[:2], family=family, backlog=_BACKLOG) as made:
        # asyncio switches Nagle's algorithm off only where the socket says that it is TCP. With it, and with delayed
        # acknowledgements of the client, each answer would take 40 ms longer.
        return socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, made.detach())


@contextmanager
def open_service(folder: str, model: ColBERT | None, model_name: str | None, settings: Settings) -> Iterator[Service]:
    """The indexes in a directory and a model, to serve them. At the end, the writes that wait are applied.

    Args:
        folder: of the indexes.
        model: for texts; None to take embeddings only.
        model_name: where the model is from.
        settings: of the server.

    Raises:
        UserError: if another process serves the directory, or an index cannot be opened.
    """
    encoder = None if model is None else EncodeBatcher(model, location=model_name)
    limits = Limits(queued_operations=settings.max_queued, condition_seconds=settings.filter_seconds)
    root = Root.open(folder, encoder, limits)
    warming = WarmUp(encoder)
    try:
        yield Service(root, encoder, model_name, settings, Metrics.of(root), warming)
    finally:
        warming.wait(settings.drain_seconds)
        root.close(settings.drain_seconds)
        if encoder is not None:
            encoder.close()


def url_of(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(app: ASGIApp, listening: socket.socket, settings: Settings) -> None:
    """Serve until a signal comes, then answer the requests in flight."""
    config = uvicorn.Config(
        app,
        http=_patient_protocol(settings.header_seconds),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=settings.trusted_proxy is not None,
        forwarded_allow_ips=settings.trusted_proxy,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
    )
    # uvicorn raises the signal again once it has ended; by then it has been obeyed, and the status is 0.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    uvicorn.Server(config).run([listening])


def _patient_protocol(seconds: float) -> type[asyncio.Protocol]:
    """Uvicorn's protocol, which waits for the headers of a request only so long; its own waits for ever."""

    class PatientProtocol(H11Protocol):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def _waits(self) -> bool:
            """Whether no request is being answered, so that the next one's headers must come."""
            return self.cycle is None or self.cycle.response_complete

        def _watch(self) -> None:
            if not self._waits():
                self._stop()
            elif self._timer is None:
                self._timer = self.loop.call_later(seconds, self._give_up)

        def _stop(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _give_up(self) -> None:
            self._timer = None
            if self._waits() and not self.transport.is_closing():
                self.transport.close()

    return PatientProtocol
