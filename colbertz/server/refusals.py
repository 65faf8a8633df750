"""`Refusal`: an answer other than 2xx, with the error object that next-plaid's clients expect."""

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException

from colbertz.errors import UnknownDocument, UserError
from colbertz.server.errors import (
    Busy,
    DimensionMismatch,
    IndexExists,
    KeyReused,
    ModelMissing,
    UnknownIndex,
    UnknownTask,
)

# The status and code of each error that a client can cause, the most special first. next-plaid's server answers 400
# where a model is missing; its client raises ModelNotLoadedError only for 503.
_STATUSES: tuple[tuple[type[UserError], HTTPStatus, str], ...] = (
    (UnknownIndex, HTTPStatus.NOT_FOUND, "INDEX_NOT_FOUND"),
    (UnknownTask, HTTPStatus.NOT_FOUND, "TASK_NOT_FOUND"),
    (IndexExists, HTTPStatus.CONFLICT, "INDEX_ALREADY_EXISTS"),
    (KeyReused, HTTPStatus.UNPROCESSABLE_ENTITY, "IDEMPOTENCY_KEY_REUSED"),
    (DimensionMismatch, HTTPStatus.BAD_REQUEST, "DIMENSION_MISMATCH"),
    (ModelMissing, HTTPStatus.SERVICE_UNAVAILABLE, "MODEL_NOT_LOADED"),
    (Busy, HTTPStatus.SERVICE_UNAVAILABLE, "SERVICE_UNAVAILABLE"),
    (UnknownDocument, HTTPStatus.BAD_REQUEST, "BAD_REQUEST"),
    (UserError, HTTPStatus.BAD_REQUEST, "BAD_REQUEST"),
)
# Seconds after which a client may try again, where a queue is full.
_RETRY = {"Retry-After": "1"}


class Refusal(HTTPException):
    """An answer with an error object: `code` for programs, `message` for people, and perhaps `details`."""

    def __init__(
        self, status: int, code: str, message: str, details: Any = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, message, dict(headers or {}))
        self.code = code
        self.details = details

    def body(self) -> bytes:
        fields = {"code": self.code, "message": self.detail}
        if self.details is not None:
            fields["details"] = self.details
        return json.dumps(fields).encode()


def bad_request(message: str) -> Refusal:
    return Refusal(HTTPStatus.BAD_REQUEST, "BAD_REQUEST", message)


def metadata_not_found(index: str) -> Refusal:
    message = f"the index {index!r} has no documents, and so no metadata"
    return Refusal(HTTPStatus.NOT_FOUND, "METADATA_NOT_FOUND", message)


def unavailable(message: str) -> Refusal:
    return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "SERVICE_UNAVAILABLE", message, headers=_RETRY)


def refusal_of(error: UserError) -> Refusal:
    """The answer to an error that a client caused, or has to wait for."""
    status, code = next((status, code) for kind, status, code in _STATUSES if isinstance(error, kind))
    headers = _RETRY if isinstance(error, Busy) else None
    return Refusal(status, code, str(error), headers=headers)
