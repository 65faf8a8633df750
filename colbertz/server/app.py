"""The FastAPI application: the routes, what becomes of errors, and the OpenAPI description.

A request passes `Observed` (its id, its line in the log), CORS if some origins are allowed, `Guard` (tokens and
limits), and then the route.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio.to_thread
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from colbertz import __version__
from colbertz.errors import UserError
from colbertz.server import schemas
from colbertz.server.auth import Token, scope_needed
from colbertz.server.guard import Guard
from colbertz.server.observe import HEADER, Observed
from colbertz.server.refusals import Refusal, refusal_of
from colbertz.server.routes import documents, encoding, hits, indices, metadata, search, status
from colbertz.server.service import Service

_TITLE = "colbertz"
_DESCRIPTION = (
    "Late-interaction search over HTTP, with the routes of next-plaid's server. Documents have ids, which are strings,"
    " and positions, numbers from 0 in order of insertion, which move when documents are deleted; answers have both."
)
# Threads beside those of the requests in flight: for /health and the like.
_SPARE_THREADS = 4
# Mistakes of a body that an answer lists.
_MOST_MISTAKES = 10
_REFUSALS = {
    400: "The request is not right: BAD_REQUEST, DIMENSION_MISMATCH",
    401: "A token is missing: UNAUTHORIZED",
    403: "The token does not allow it: FORBIDDEN",
    404: "INDEX_NOT_FOUND, INDEX_NOT_DECLARED, METADATA_NOT_FOUND, TASK_NOT_FOUND",
    408: "The body did not arrive: REQUEST_TIMEOUT",
    409: "INDEX_ALREADY_EXISTS",
    413: "The body is too large: PAYLOAD_TOO_LARGE",
    421: "A local server was called by another name: MISDIRECTED_REQUEST",
    422: "A key came with another request before: IDEMPOTENCY_KEY_REUSED",
    429: "Too many requests of one client: RATE_LIMITED",
    500: "A bug, or a broken model: INTERNAL_ERROR, MODEL_ERROR",
    503: "Too much to do, or no model: SERVICE_UNAVAILABLE, MODEL_NOT_LOADED",
}
_EXPOSED = (HEADER, "X-Task-Id", "X-Generation", "Retry-After", "Location")


def create_app(service: Service, tokens: tuple[Token, ...], log: Callable[[dict[str, Any]], None]) -> ASGIApp:
    """The whole application.

    Args:
        service: what it serves.
        tokens: that may use it; none, and everybody may.
        log: takes the fields of a line for each request.
    """
    app: ASGIApp = Guard(_api(service, bool(tokens)), service.settings, tokens)
    if service.settings.cors_origins:
        app = CORSMiddleware(
            app,
            allow_origins=service.settings.cors_origins,
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "X-Embeddings-Format", HEADER],
            expose_headers=_EXPOSED,
        )
    return Observed(app, service.metrics, log)


def _api(service: Service, wants_tokens: bool) -> FastAPI:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        # Each request in flight has a thread: one that waits for a write takes none from the searches.
        threads = anyio.to_thread.current_default_thread_limiter()
        threads.total_tokens = service.settings.max_in_flight + _SPARE_THREADS
        yield

    api = FastAPI(
        title=_TITLE,
        version=__version__,
        description=_DESCRIPTION,
        openapi_url="/api-docs/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        responses={code: {"model": schemas.Error, "description": words} for code, words in _REFUSALS.items()},
    )
    api.state.service = service
    for module in (status, indices, documents, search, hits, metadata, encoding):
        api.include_router(module.router)
    api.add_exception_handler(UserError, _of_user_error)
    api.add_exception_handler(HTTPException, _of_refusal)
    api.add_exception_handler(RequestValidationError, _of_validation)
    api.add_exception_handler(Exception, _of_bug)
    if wants_tokens:
        _describe_scopes(api)
    return api


def _describe_scopes(api: FastAPI) -> None:
    """Say in the OpenAPI description which scope each route needs."""
    description = api.openapi()
    description["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            scope = scope_needed(method.upper(), path)
            if scope is not None:
                operation["security"] = [{"token": []}]
                operation["description"] = f"{operation.get('description', '')}\n\nScope: {scope}.".strip()


async def _of_user_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, UserError)
    return _answer(refusal_of(error))


async def _of_refusal(request: Request, error: Exception) -> Response:
    """The answer to our own refusals, and to those of the router: an unknown path, a wrong method."""
    assert isinstance(error, HTTPException)
    if isinstance(error, Refusal):
        return _answer(error)
    if error.status_code == 404:
        message = f"there is no route {request.method} {request.url.path:.200}; see /api-docs/openapi.json"
        return _answer(Refusal(404, "NOT_FOUND", message))
    if error.status_code == 405:
        methods = ", ".join(_methods_of(request.app, request.url.path))
        message = f"{request.url.path:.200} does not take {request.method}, but {methods}"
        return _answer(Refusal(405, "METHOD_NOT_ALLOWED", message, headers={"Allow": methods}))
    return _answer(Refusal(error.status_code, "BAD_REQUEST", str(error.detail), headers=error.headers))


def _methods_of(api: FastAPI, path: str) -> list[str]:
    """The methods of a path. The router's own header names those of its first route only."""
    parts = path.split("/")
    for template, methods in api.openapi()["paths"].items():
        names = template.split("/")
        if len(names) == len(parts) and all(name in (part, "{name}", "{task_id}") for name, part in zip(names, parts)):
            return sorted(method.upper() for method in methods)
    return ["GET"]


async def _of_validation(request: Request, error: Exception) -> Response:
    """400, as next-plaid's client expects, with the first mistakes and without the values."""
    assert isinstance(error, RequestValidationError)
    mistakes = [
        {"where": ".".join(str(part) for part in mistake["loc"]), "what": mistake["msg"]} for mistake in error.errors()
    ][:_MOST_MISTAKES]
    message = "; ".join(f"{mistake['where']}: {mistake['what']}" for mistake in mistakes[:3])
    return _answer(Refusal(400, "BAD_REQUEST", message, details=mistakes))


async def _of_bug(request: Request, error: Exception) -> Response:
    """What a client may know of a bug: that there was one, and by which id the log has it."""
    message = f"internal error; the server's log has it under the request id {request.state.request_id}"
    return _answer(Refusal(500, "INTERNAL_ERROR", message))


def _answer(refusal: Refusal) -> Response:
    return Response(refusal.body(), refusal.status_code, refusal.headers, "application/json")
