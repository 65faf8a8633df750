"""Tokens, sizes, times and numbers: the right status, and a server that lives on."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from serving import ADMIN, LIMITS, READER, WRITER, Server, receive_all

NUMBERS = list(range(1, 1001))
# It compares all triples of 1,000 numbers: days.
ENDLESS = "n = n"
for _name in "cba":
    _inner = "a.value + b.value + c.value = 0" if _name == "c" else ENDLESS
    ENDLESS = f"exists (select 1 from json_each(numbers) {_name} where {_inner})"


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture(scope="module")
def name(strict: Server) -> str:
    """An index with one document, to which an endless filter can be put."""
    strict.request("POST", "/indices", json={"name": "limits"}, headers=bearer(ADMIN)).raise_for_status()
    body = {"documents": ["a text"], "metadata": [{"id": "a", "numbers": NUMBERS}]}
    path = "/indices/limits/update_with_encoding?wait=true"
    strict.request("POST", path, json=body, headers=bearer(WRITER)).raise_for_status()
    return "limits"


def lives(server: Server) -> bool:
    """Whether the server is ready, perhaps after it has compiled its kernels."""
    deadline = time.monotonic() + 120
    while server.request("GET", "/ready").status_code == 503 and time.monotonic() < deadline:
        time.sleep(0.1)
    return server.request("GET", "/ready").json() == {"ready": True} and server.process.poll() is None


# -- who may do what ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [None, "Bearer", "Bearer wrong-0123456789", f"Basic {READER}", f"Bearer {READER}x"])
def test_without_a_token_nothing_is_said(strict: Server, name: str, given: str | None) -> None:
    headers = {} if given is None else {"Authorization": given}
    for method, path in (
        ("GET", "/indices"),
        ("GET", f"/indices/{name}"),
        ("GET", f"/indices/{name}/tasks/1"),
        ("GET", "/metrics"),
        ("GET", "/nothing"),
        ("POST", "/encode"),
        ("DELETE", f"/indices/{name}"),
    ):
        answer = strict.request(method, path, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHORIZED"), path
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    health = strict.request("GET", "/health", headers=headers).json()
    assert (health["status"], health["indices"], health["index_dir"]) == ("healthy", [], "")
    assert "model" not in health or health["model"] is None


def test_each_scope_allows_its_own(strict: Server, name: str) -> None:
    def status(token: str, method: str, path: str, body: object = None) -> int:
        return strict.request(method, path, json=body, headers=bearer(token)).status_code

    text = {"documents": ["a text"], "metadata": [{"id": "b"}]}
    for token, reads, writes, manages in ((READER, 200, 403, 403), (WRITER, 200, 202, 403), (ADMIN, 200, 202, 200)):
        assert status(token, "GET", "/indices") == reads
        assert status(token, "GET", "/metrics") == reads
        assert status(token, "POST", f"/indices/{name}/search", {"text_query": ["a"]}) == reads
        assert status(token, "POST", "/encode", {"texts": ["a"]}) == reads
        assert status(token, "POST", f"/indices/{name}/update_with_encoding", text) == writes
        assert status(token, "DELETE", f"/indices/{name}/documents", {"condition": "id = 'b'"}) == writes
        assert status(token, "PUT", f"/indices/{name}/config", {"max_documents": None}) == manages
        assert status(token, "POST", "/indices", {"name": f"of-{token}"}) == manages
        # An index with the name of a route is no way around.
        assert status(token, "DELETE", "/indices/documents") == (404 if token == ADMIN else 403)
    assert strict.request("GET", "/health", headers=bearer(READER)).json()["loaded_indices"] >= 1


def test_no_token_is_in_the_log_or_in_an_answer(strict: Server, name: str) -> None:
    answers = [
        strict.request("GET", f"/indices?token={READER}", headers=bearer(READER)),
        strict.request("GET", "/indices", headers=bearer("wrong-0123456789")),
    ]
    lines = [strict.line(answer.headers["X-Request-ID"]) for answer in answers]
    written = json.dumps(strict.log) + "".join(answer.text for answer in answers)
    for secret in (READER, WRITER, "wrong-0123456789"):
        assert f'"{secret}' not in written
        assert f"={secret}" not in written
    assert lines[0]["token"].startswith("token-")
    assert lines[1]["token"] is None


def test_cors_is_for_the_origins_that_were_named(strict: Server, server: Server) -> None:
    def preflight(target: Server, origin: str) -> httpx.Response:
        headers = {
            "Origin": origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "Authorization, Content-Type",
        }
        return target.request("OPTIONS", "/encode", headers=headers)

    allowed = preflight(strict, "https://example.org")
    assert (allowed.status_code, allowed.headers["Access-Control-Allow-Origin"]) == (200, "https://example.org")
    assert "Access-Control-Allow-Origin" not in preflight(strict, "https://example.com").headers
    assert "Access-Control-Allow-Origin" not in preflight(server, "https://example.org").headers


def test_a_local_server_without_tokens_answers_to_local_names_only(server: Server) -> None:
    """Otherwise a web page whose name leads to 127.0.0.1 could use it."""
    port = server.url.rpartition(":")[2]
    for host, status in ((f"localhost:{port}", 200), ("[::1]:80", 200), (f"evil.example:{port}", 421), ("[", 421)):
        answer = server.request("GET", "/indices", headers={"Host": host})
        assert answer.status_code == status, host


# -- how much ----------------------------------------------------------------------------------------------------------


def test_numbers_over_the_limits_are_refused(strict: Server, name: str) -> None:
    for path, body in (
        ("encode", {"texts": ["a"] * (LIMITS["max-texts"] + 1)}),
        ("encode", {"texts": ["a " * 300] * 5}),  # 5 × 180 tokens
        ("rerank", {"query": [[1.0]], "documents": [{"embeddings": [[1.0]]}] * 6}),
        ("rerank", {"query": [[1.0]], "documents": [{"embeddings": [[1.0]] * 501}]}),
        (f"indices/{name}/search", {"text_query": ["a"] * 4}),
        (f"indices/{name}/search_with_encoding", {"queries": ["a"] * 4}),
        (f"indices/{name}/search", {"text_query": ["a"], "params": {"top_k": 21}}),
        (f"indices/{name}/query", {"query": "a", "k": 21}),
        (f"indices/{name}/get", {"ids": ["a"] * 6}),
        (f"indices/{name}/metadata/check", {"document_ids": [0] * 6}),
        (f"indices/{name}/update_with_encoding", {"documents": ["a"] * 6}),
    ):
        answer = strict.request("POST", f"/{path}", json=body, headers=bearer(WRITER))
        assert (answer.status_code, answer.json()["code"]) == (400, "BAD_REQUEST"), path
    within = {"text_query": ["a"] * 3, "params": {"top_k": 20}}
    assert strict.request("POST", f"/indices/{name}/search", json=within, headers=bearer(READER)).status_code == 200


def test_a_body_that_is_announced_too_large_is_refused_unread(strict: Server) -> None:
    with strict.connect() as connection:
        head = f"POST /encode HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {READER}\r\nContent-Length: 20001\r\n\r\n"
        connection.sendall(head.encode())
        answer = receive_all(connection)
    assert answer.split()[1] == b"413"
    assert b"PAYLOAD_TOO_LARGE" in answer
    assert lives(strict)


def test_a_body_that_grows_too_large_is_refused_before_its_end(strict: Server) -> None:
    """It is sent in chunks and never ends; the answer comes all the same."""
    with strict.connect() as connection:
        head = (
            f"POST /encode HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {READER}\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        connection.sendall(head.encode())
        for _ in range(5):
            connection.sendall(b"1388\r\n" + b" " * 5000 + b"\r\n")
        assert connection.recv(1000).split()[1] == b"413"
    assert lives(strict)


def test_a_client_that_waits_to_be_asked_is_refused_at_once(strict: Server) -> None:
    with strict.connect() as connection:
        head = f"POST /encode HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {READER}\r\nContent-Length: 99999\r\n"
        connection.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
        assert receive_all(connection).split()[1] == b"413"
    assert lives(strict)


def test_a_hundred_megabytes_of_json(server: Server) -> None:
    """A little more than allowed: the client gets the answer. What is allowed is read, and refused for what it is."""
    headers = {"Content-Type": "application/json"}
    for size, status in ((100 << 20, 400), ((100 << 20) + 1, 413)):
        body = b'{"texts": ["' + b"x" * (size - 14) + b'"]'  # without its last brace
        answer = server.request("POST", "/encode", content=body, headers=headers)
        assert answer.status_code == status
    assert lives(server)


def test_more_requests_than_may_be_in_flight(strict: Server, name: str) -> None:
    body = {"condition": ENDLESS}

    def ask(_: int) -> httpx.Response:
        return strict.request("POST", f"/indices/{name}/metadata/query", json=body, headers=bearer(READER))

    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(ask, range(12)))
    codes = {(answer.status_code, answer.json()["code"]) for answer in answers}
    assert codes == {(400, "BAD_REQUEST"), (503, "SERVICE_UNAVAILABLE")}
    for answer in answers:
        if answer.status_code == 503:
            assert int(answer.headers["Retry-After"]) >= 1
    assert lives(strict)


# -- how long ----------------------------------------------------------------------------------------------------------


def test_a_filter_that_runs_for_ever_is_stopped(strict: Server, name: str) -> None:
    for path, body in (
        ("metadata/query", {"condition": ENDLESS}),
        ("metadata/get", {"condition": ENDLESS}),
        ("get", {"where": ENDLESS}),
        ("query", {"query": "a", "mode": "bm25", "where": ENDLESS}),
        ("search", {"text_query": ["a"], "filter_condition": ENDLESS}),
        ("search/filtered_with_encoding", {"queries": ["a"], "filter_condition": ENDLESS}),
    ):
        answer = strict.request("POST", f"/indices/{name}/{path}", json=body, headers=bearer(READER))
        assert answer.status_code == 400
        assert "was stopped after 0.5 seconds" in answer.json()["message"]
    assert lives(strict)


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n", b"GET /ready HTTP/1.1\r\nHost: x\r\n\r\nGET"]
)
def test_headers_that_do_not_come(strict: Server, sent: bytes) -> None:
    """On a new connection, and after a first request on it."""
    with strict.connect() as connection:
        connection.sendall(sent)
        answer = receive_all(connection)  # until the server closes it
    assert answer == b"" or answer.split()[1] == b"200"
    assert lives(strict)


def test_headers_that_come_letter_by_letter(strict: Server) -> None:
    with strict.connect() as connection:
        ended = threading.Event()

        def drip() -> None:
            for letter in b"GET /ready HTTP/1.1\r\nX: " + b"x" * 1000:
                if ended.wait(0.05):
                    return
                try:
                    connection.sendall(bytes([letter]))
                except OSError:
                    return

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            assert connection.recv(1000) == b""
        except ConnectionResetError:
            pass
        finally:
            ended.set()
            thread.join()
    assert lives(strict)


def test_a_body_that_does_not_come(strict: Server) -> None:
    with strict.connect() as connection:
        head = f"POST /encode HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {READER}\r\nContent-Length: 100\r\n\r\n"
        connection.sendall(head.encode() + b"half a body")
        answer = receive_all(connection)
    assert answer.split()[1] == b"408"
    assert b"REQUEST_TIMEOUT" in answer
    assert lives(strict)


def test_clients_that_go_away(strict: Server) -> None:
    head = f"POST /encode HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {READER}\r\nContent-Length: 100\r\n\r\n"
    for sent in (b"", head.encode(), head.encode() + b"half", b"\x16\x03\x01 this is no HTTP\r\n\r\n"):
        with strict.connect() as connection:
            connection.sendall(sent)
    assert lives(strict)


def test_waiting_clients_do_not_stop_the_others(strict: Server, name: str) -> None:
    """Two endless filters, and a search beside them."""
    body = {"condition": ENDLESS}
    with ThreadPoolExecutor(2) as threads:
        for _ in range(2):
            threads.submit(strict.request, "POST", f"/indices/{name}/metadata/query", json=body, headers=bearer(READER))
        time.sleep(0.1)
        answer = strict.request("GET", "/indices", headers=bearer(READER))
    assert answer.status_code == 200
