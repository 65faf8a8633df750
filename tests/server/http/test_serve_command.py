"""`colbertz serve`: signals, tokens, and what it refuses to start with."""

import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from commands import error_of
from serving import READER, serving

from colbertz.errors import UserError
from colbertz.server.auth import parse_tokens, read_tokens, scope_needed, token_of
from colbertz.server.guard import Rates
from colbertz.server.run import listen, url_of
from colbertz.server.settings import Settings


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_requests_end_and_keeps_what_was_acknowledged(
    checkpoint: Path, tmp_path: Path, number: signal.Signals
) -> None:
    texts = [f"text number {i}" for i in range(50)]
    with serving(tmp_path / "root", "--model", str(checkpoint)) as running:
        running.request("POST", "/indices", json={"name": "kept"}).raise_for_status()
        statuses = []

        def add_and_wait() -> None:
            path, body = "/indices/kept/update_with_encoding?wait=true", {"documents": texts}
            with suppress(httpx.ConnectError):  # it came after the signal
                statuses.append(running.request("POST", path, json=body).status_code)

        threads = [threading.Thread(target=add_and_wait) for _ in range(4)]
        for thread in threads:
            thread.start()
        while "colbertz_requests_in_flight 1.0" in running.request("GET", "/metrics").text:
            pass  # only this request is in flight: none of the others has arrived
        assert running.stop(number) == 0
        for thread in threads:
            thread.join()
        assert running.log[-1]["event"] == "stopped"
    assert {200} <= set(statuses) <= {200, 503}
    with serving(tmp_path / "root", "--model", str(checkpoint)) as again:
        assert again.request("GET", "/indices/kept").json()["num_documents"] == 50 * statuses.count(200)


def test_a_second_server_on_the_same_root_is_refused(tmp_path: Path) -> None:
    with serving(tmp_path / "root"):
        command = [sys.executable, "-m", "colbertz", "serve", "--root", str(tmp_path / "root"), "--port", "0"]
        second = subprocess.run(command, capture_output=True, text=True)
    assert second.returncode == 2
    assert "error: " in second.stderr
    assert "root" in second.stderr


def test_it_serves_other_machines_with_tokens_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLBERTZ_TOKENS", raising=False)
    error = error_of(capsys, "serve", "--root", tmp_path, "--host", "0.0.0.0", "--port", 0)
    assert "there are no tokens" in error
    for host, is_local in (
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.2", False),
        ("example.org", False),
        ("localhost.example.org", False),
    ):
        settings = Settings(host=host)
        assert settings.is_local == is_local
        settings.check_exposure(has_tokens=True)
        Settings(host=host, open_to_all=True).check_exposure(has_tokens=False)
        if not is_local:
            with pytest.raises(UserError, match="other machines"):
                settings.check_exposure(has_tokens=False)


def test_tokens_of_the_environment(tmp_path: Path) -> None:
    tokens = {"COLBERTZ_TOKENS": f"read {READER}; admin other-0123456789"}
    with serving(tmp_path / "root", environment=tokens) as running:
        assert running.request("GET", "/indices").status_code == 401
        assert running.request("GET", "/indices", headers={"Authorization": f"Bearer {READER}"}).json() == []
        # The command line, which others can read, has none.
        assert READER not in " ".join(map(str, running.process.args))  # type: ignore[arg-type]


def test_a_port_that_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        error = error_of(capsys, "serve", "--root", tmp_path, "--port", taken.getsockname()[1])
    assert "in use" in error


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    code = "import sys; sys.modules['fastapi'] = None; from colbertz.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "serve", "--root", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 2
    assert 'pip install "colbertz[serve]"' in done.stderr


@pytest.mark.parametrize(
    "text",
    [
        "secret-0123456789",
        "read",
        "everything secret-0123456789",
        "read secret",
        "read a b",
        "read,, secret-0123456789",
    ],
)
def test_lines_of_tokens_that_are_wrong(text: str) -> None:
    with pytest.raises(UserError, match="of a file, line 2") as raised:
        parse_tokens(f"# tokens\n{text}\n", "of a file")
    assert "secret" not in str(raised.value)


def test_a_source_without_tokens_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text("# none yet\n")
    with pytest.raises(UserError, match="has no token"):
        read_tokens(str(path), {})
    with pytest.raises(UserError, match="COLBERTZ_TOKENS has no token"):
        read_tokens(None, {"COLBERTZ_TOKENS": ""})
    with pytest.raises(UserError, match="one token twice"):
        parse_tokens(f"read {READER}\nadmin {READER}", "tokens")
    assert read_tokens(None, {}) == ()


def test_tokens_are_found_by_their_whole_text() -> None:
    tokens = parse_tokens(f"read {READER}\nadmin other-0123456789", "tokens")
    found = token_of(f"bearer  {READER} ", tokens)
    assert found is not None
    assert found.scopes == {"read"}
    for given in (None, "", "Bearer", f"Bearer {READER[:-1]}", READER, f"Basic {READER}", "Bearer \udcff"):
        assert token_of(given, tokens) is None
    assert READER not in repr(tokens)


def test_a_route_that_is_not_known_needs_admin() -> None:
    assert scope_needed("POST", "/indices/a/new_route") == "admin"
    assert scope_needed("PATCH", "/encode") == "admin"
    assert scope_needed("DELETE", "/indices/documents") == "admin"
    assert scope_needed("DELETE", "/indices/a/documents") == "write"
    assert scope_needed("GET", "/health") is None


def test_the_rate_of_a_client() -> None:
    now = 0.0
    rates = Rates(2.0, 3, lambda: now)
    assert [rates.seconds_to_wait("a") for _ in range(4)] == [0, 0, 0, 0.5]
    assert rates.seconds_to_wait("b") == 0
    now = 0.5
    assert [rates.seconds_to_wait("a") for _ in range(2)] == [0, 0.5]
    now = 100.0
    assert [rates.seconds_to_wait("a") for _ in range(4)] == [0, 0, 0, 0.5]


def test_settings_that_cannot_be() -> None:
    for name in ("max_body_bytes", "max_in_flight", "burst"):
        with pytest.raises(UserError, match=name):
            Settings(**{name: 0})
    for name in ("header_seconds", "rate"):
        with pytest.raises(UserError, match=name):
            Settings(**{name: -1.0})


def test_the_socket_says_that_it_is_tcp() -> None:
    """Otherwise asyncio leaves Nagle's algorithm on, and each answer took 40 ms longer."""
    with listen(Settings(port=0)) as listening:
        assert listening.proto == socket.IPPROTO_TCP
        assert url_of(listening) == f"http://127.0.0.1:{listening.getsockname()[1]}"
