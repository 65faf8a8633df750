"""What a client is told of a bug, and what the log is."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest

from colbertz.server.app import create_app
from colbertz.server.metrics import Metrics
from colbertz.server.root import Root
from colbertz.server.service import Service
from colbertz.server.settings import Settings


class BrokenRoot:
    """A root whose list of names fails with a secret in the message."""

    folder = "indexes"

    def names(self) -> list[str]:
        raise RuntimeError("the password is 1234")


@pytest.fixture
def log() -> list[dict[str, Any]]:
    return []


def ask(log: list[dict[str, Any]], path: str) -> httpx.Response:
    root = cast(Root, BrokenRoot())
    metrics = Metrics.of(cast(Root, SimpleNamespace(names=list)))
    app = create_app(Service(root, None, None, Settings(), metrics), (), log.append)

    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.get(path)

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


def test_what_is_right_has_no_traceback(log: list[dict[str, Any]]) -> None:
    assert ask(log, "/ready").status_code == 200
    assert "traceback" not in log[-1]
