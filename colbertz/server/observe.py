"""`Observed`: gives each request an id, measures it, and writes one line of the log about it.

The line has no header, no body and no query string, so no token and no text of a user. That of a bug has its traceback,
which the client does not get.
"""

import re
import time
import traceback
import uuid
from collections.abc import Callable
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from colbertz.server.metrics import Metrics

HEADER = "X-Request-ID"
# An id that a client gave is kept if it can do no harm in a log.
_HARMLESS = re.compile(r"[A-Za-z0-9._-]{1,64}")
# Where a client went away before the answer; the number is nginx's.
_CLIENT_LEFT = 499
_LONGEST_PATH = 200


class Observed:
    """An ASGI application around another one.

    Attributes:
        log: takes the fields of each request's line.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, log: Callable[[dict[str, Any]], None]) -> None:
        self.app = app
        self.metrics = metrics
        self.log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get(HEADER, "")
        request_id = given if _HARMLESS.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        status, error = _CLIENT_LEFT, ""
        start = time.perf_counter()

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        self.metrics.in_flight.inc()
        try:
            await self.app(scope, receive, send_with_id)
        except Exception:
            error = traceback.format_exc()
            raise
        finally:
            self.metrics.in_flight.dec()
            seconds = time.perf_counter() - start
            route = getattr(scope.get("route"), "path", "none")
            self.metrics.count(scope["method"], route, status, seconds)
            self.log(_line(scope, request_id, route, status, seconds, error))


def _line(scope: Scope, request_id: str, route: str, status: int, seconds: float, error: str) -> dict[str, Any]:
    token = scope["state"].get("token")
    line = {
        "request_id": request_id,
        "client": (scope["client"] or ("unknown", 0))[0],
        "token": token.name if token else None,
        "method": scope["method"][:20],
        "path": scope["path"][:_LONGEST_PATH],
        "route": route,
        "status": status,
        "milliseconds": round(1000 * seconds, 2),
    }
    return line | {"traceback": error} if error else line
