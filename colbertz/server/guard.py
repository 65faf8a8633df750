"""`Guard`: what a request must pass before the application sees it.

In this order: the name by which the server was called, the token and its scope, the client's rate, the size of the body
and the time that it takes, and the number of requests in flight. The body is read here, in whole, so that a refusal
needs no help of the application, and a slow client occupies nothing but its own connection and the bytes that it has
sent.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from colbertz.server.auth import OPEN_PATHS, Token, scope_needed, token_of
from colbertz.server.refusals import Refusal, unavailable
from colbertz.server.settings import Settings

# Answered however busy the server is, and without a rate: what watches it.
_ALWAYS = frozenset((*OPEN_PATHS, "/metrics"))
_LOCAL_NAMES = frozenset(("localhost", "127.0.0.1", "::1"))
# Clients that the rate is remembered of; the one that has been quiet for longest is forgotten first.
_MOST_CLIENTS = 10_000
# How long the rest of a refused body is read and dropped. A connection that is closed with unread bytes is reset, and
# the client may lose the answer.
_DRAIN_SECONDS = 2.0


@dataclass
class Rates:
    """A token bucket for each client: `burst` requests at once, then `rate` a second."""

    rate: float
    burst: int
    clock: Callable[[], float] = time.monotonic
    _levels: dict[str, tuple[float, float]] = field(default_factory=dict)

    def seconds_to_wait(self, client: str) -> float:
        """Count a request of a client: 0 if it may be answered, else the seconds until one may."""
        if not self.rate:
            return 0.0
        now = self.clock()
        level, then = self._levels.pop(client, (float(self.burst), now))
        level = min(float(self.burst), level + (now - then) * self.rate)
        granted = level >= 1
        self._levels[client] = (level - granted, now)
        if len(self._levels) > _MOST_CLIENTS:
            del self._levels[next(iter(self._levels))]
        return 0.0 if granted else (1 - level) / self.rate


class Guard:
    """An ASGI application in front of another one.

    Attributes:
        in_flight: requests that the application works on now.
        held_bytes: of the bodies that are being read or worked on.
    """

    def __init__(self, app: ASGIApp, settings: Settings, tokens: tuple[Token, ...]) -> None:
        self.app = app
        self.settings = settings
        self.tokens = tokens
        self.rates = Rates(settings.rate, settings.burst)
        self.in_flight = 0
        self.held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = bytearray()
        try:
            self.admit(scope)
            if not await self.read(scope, receive, body):
                return
            await self.work(scope, bytes(body), receive, send)
        except Refusal as refusal:
            await refuse(scope, receive, send, refusal)
        finally:
            self.held_bytes -= len(body)

    def admit(self, scope: Scope) -> None:
        """Check the name of the server, the token, the rate and the announced size.

        Raises:
            Refusal: 401, 403, 413, 421 or 429.
        """
        headers = Headers(scope=scope)
        self.check_host(headers.get("host", ""))
        needed = scope_needed(scope["method"], scope["path"])
        token = token_of(headers.get("authorization"), self.tokens)
        scope["state"]["token"] = token
        scope["state"]["may_read"] = not self.tokens or (token is not None and "read" in token.scopes)
        if self.tokens and needed is not None:
            if token is None:
                message = "this server wants a token, as in `Authorization: Bearer TOKEN`"
                challenge = {"WWW-Authenticate": 'Bearer realm="colbertz"'}
                raise Refusal(HTTPStatus.UNAUTHORIZED, "UNAUTHORIZED", message, headers=challenge)
            if needed not in token.scopes:
                message = f"this request needs the scope {needed}, and the token has {', '.join(sorted(token.scopes))}"
                raise Refusal(HTTPStatus.FORBIDDEN, "FORBIDDEN", message)
        if scope["path"] not in _ALWAYS:
            client = token.name if token else (scope["client"] or ("unknown", 0))[0]
            seconds = self.rates.seconds_to_wait(client)
            if seconds:
                message = f"more than {self.settings.rate:g} requests a second; try again in {seconds:.1f} seconds"
                wait = {"Retry-After": str(int(seconds) + 1)}
                raise Refusal(HTTPStatus.TOO_MANY_REQUESTS, "RATE_LIMITED", message, headers=wait)
        if int(headers.get("content-length", "0")) > self.settings.max_body_bytes:
            raise self.too_large()

    def check_host(self, host: str) -> None:
        """Refuse a web page that gives this machine's address a name of its own, where no token would stop it.

        Raises:
            Refusal: 421.
        """
        if self.tokens or not self.settings.is_local or not host:
            return
        try:
            name = urlsplit(f"//{host}").hostname
        except ValueError:
            name = None
        if name not in _LOCAL_NAMES and name != self.settings.host:
            message = f"this server serves this machine only, not {host!r:.80}; call it localhost, or give it tokens"
            raise Refusal(HTTPStatus.MISDIRECTED_REQUEST, "MISDIRECTED_REQUEST", message)

    async def read(self, scope: Scope, receive: Receive, body: bytearray) -> bool:
        """Read the whole body into `body`; whether the client is still there.

        Raises:
            Refusal: 408, 413 or 503.
        """
        settings = self.settings
        deadline = time.monotonic() + settings.request_seconds
        while True:
            try:
                async with asyncio.timeout(min(settings.body_seconds, deadline - time.monotonic())):
                    message = await receive()
            except TimeoutError:
                words = f"the body did not arrive: {len(body):,} bytes came, and then none for too long"
                raise Refusal(HTTPStatus.REQUEST_TIMEOUT, "REQUEST_TIMEOUT", words) from None
            if message["type"] == "http.disconnect":
                return False
            piece = message.get("body", b"")
            body += piece
            self.held_bytes += len(piece)
            if len(body) > settings.max_body_bytes:
                raise self.too_large()
            if self.held_bytes > settings.max_held_bytes:
                raise unavailable("the bodies of all requests together need too much memory; try again later")
            if not message.get("more_body", False):
                scope["state"]["received"] = True
                return True

    async def work(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Let the application answer a request whose body has arrived.

        Raises:
            Refusal: 503 if it works on too many.
        """
        if scope["path"] in _ALWAYS:
            await self.app(scope, received(body, receive), send)
            return
        if self.in_flight >= self.settings.max_in_flight:
            raise unavailable(f"{self.in_flight} requests are in flight, which is the most; try again later")
        self.in_flight += 1
        try:
            await self.app(scope, received(body, receive), send)
        finally:
            self.in_flight -= 1

    def too_large(self) -> Refusal:
        message = f"the body has more than {self.settings.max_body_bytes:,} bytes; send less at a time"
        return Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "PAYLOAD_TOO_LARGE", message)


def received(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives a body that has arrived, and then what `receive` gives."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return messages.pop() if messages else await receive()

    return next_message


async def refuse(scope: Scope, receive: Receive, send: Send, refusal: Refusal) -> None:
    """Send a refusal, and end the connection if its body was not read to the end."""
    body = refusal.body()
    is_read = scope["state"].get("received", False)
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **(refusal.headers or {})}
    if not is_read:
        headers["Connection"] = "close"
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refusal.status_code, "headers": raw})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    # A client that expects "100 Continue" has not begun with its body.
    if not is_read and "expect" not in Headers(scope=scope):
        with suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                while (await receive()).get("more_body", False):
                    pass
    await send({"type": "http.response.body", "body": b"", "more_body": False})
