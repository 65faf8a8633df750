"""What a client is told of a bug, and what the log is."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest

from colbertz.models import ColBERT
from colbertz.server.app import create_app
from colbertz.server.batching import EncodeBatcher
from colbertz.server.metrics import Metrics
from colbertz.server.root import Root
from colbertz.server.service import Service
from colbertz.server.settings import Settings
from colbertz.server.warming import WarmUp


class BrokenRoot:
    """A root whose list of names fails with a secret in the message."""

    folder = "indexes"

    def names(self) -> list[str]:
        raise RuntimeError("the password is 1234")


@pytest.fixture
def log() -> list[dict[str, Any]]:
    return []


def ask(
    log: list[dict[str, Any]], path: str, encoder: EncodeBatcher | None = None, body: dict[str, Any] | None = None
) -> httpx.Response:
    """The answer to GET, or to POST with a body, of a server with a broken root."""
    root = cast(Root, BrokenRoot())
    metrics = Metrics.of(cast(Root, SimpleNamespace(names=list)))
    warming = WarmUp(encoder)
    assert warming.wait(120)
    app = create_app(Service(root, encoder, None, Settings(), metrics, warming), (), log.append)

    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request("GET" if body is None else "POST", path, json=body)

    return asyncio.run(run())


def test_a_client_learns_nothing_of_a_bug_but_its_id(log: list[dict[str, Any]]) -> None:
    answer = ask(log, "/indices")
    assert (answer.status_code, answer.json()["code"]) == (500, "INTERNAL_ERROR")
    assert answer.headers["X-Request-ID"] in answer.json()["message"]
    for word in ("password", "1234", "Traceback", "RuntimeError", "names"):
        assert word not in answer.text
    line = log[-1]
    assert (line["status"], line["request_id"]) == (500, answer.headers["X-Request-ID"])
    assert "RuntimeError" in line["traceback"]


def test_damaged_weights_are_an_error_of_the_model(log: list[dict[str, Any]], checkpoint: Path) -> None:
    model = ColBERT.from_pretrained(checkpoint)
    for parameter in model.parameters():
        parameter.data.fill_(float("nan"))
    encoder = EncodeBatcher(model)
    try:
        answer = ask(log, "/encode", encoder, {"texts": ["a text"]})
    finally:
        encoder.close()
    assert (answer.status_code, answer.json()["code"]) == (500, "MODEL_ERROR")
    assert "NaN" in answer.json()["message"]


def test_what_is_right_has_no_traceback(log: list[dict[str, Any]]) -> None:
    assert ask(log, "/ready").status_code == 200
    assert "traceback" not in log[-1]
