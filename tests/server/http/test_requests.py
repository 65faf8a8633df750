"""What next-plaid's client cannot send: raw requests, and what colbertz adds to next-plaid's answers."""

import base64
import json
import struct
from typing import Any

import pytest
import torch
from serving import Server, receive_all

TEXTS = ["bread needs yeast", "glaciers move slowly", "yeast is a fungus"]
METADATA = [{"id": "bread", "n": 1}, {"id": 7, "n": 2}, {"n": 3}]


@pytest.fixture(scope="module")
def name(server: Server) -> str:
    """An index with three texts."""
    server.add("requests", TEXTS, METADATA)
    return "requests"


def test_ids_positions_and_the_generation_are_in_one_answer(server: Server, name: str) -> None:
    found = server.request("POST", f"/indices/{name}/search_with_encoding", json={"queries": ["yeast"]}).json()
    result = found["results"][0]
    by_position = dict(zip(result["document_ids"], result["ids"]))
    # A string or an integer in the metadata is the id; a document without one is numbered.
    assert (by_position[0], by_position[1]) == ("bread", "7")
    assert by_position[2] not in ("bread", "7")
    assert found["generation"] == server.request("GET", f"/indices/{name}").json()["generation"] >= 1
    for method, path, body in (
        ("GET", "metadata", None),
        ("GET", "metadata/count", None),
        ("POST", "metadata/check", {"document_ids": [0]}),
        ("POST", "metadata/query", {"condition": "n > 0"}),
        ("POST", "metadata/get", {"document_ids": [0]}),
        ("POST", "search", {"text_query": ["yeast"]}),
    ):
        answer = server.request(method, f"/indices/{name}/{path}", json=body).json()
        assert answer["generation"] == found["generation"], path


def test_a_write_is_visible_by_its_task(server: Server) -> None:
    server.request("POST", "/indices", json={"name": "tasks"})
    body = {"documents": ["a text"], "metadata": [{"id": "a", "n": 1}]}
    accepted = server.request("POST", "/indices/tasks/update_with_encoding", json=body)
    assert (accepted.status_code, accepted.json()) == (202, "Update queued for batching")
    assert accepted.headers["Location"] == f"/indices/tasks/tasks/{accepted.headers['X-Task-Id']}"
    assert accepted.headers["X-Generation"] == "0"

    waited = server.request("DELETE", "/indices/tasks/documents?wait=true", json={"condition": "n = 1"})
    assert waited.status_code == 200
    assert waited.json() | {"task_id": "", "generation": 0} == {
        "task_id": "",
        "index": "tasks",
        "state": "done",
        "count": 1,
        "message": "done",
        "error": None,
        "generation": 0,
    }
    assert int(waited.headers["X-Generation"]) >= waited.json()["generation"] > 0
    task = server.request("GET", accepted.headers["Location"]).json()
    assert (task["state"], task["count"]) == ("done", 1)
    unknown = server.request("GET", "/indices/tasks/tasks/nonsense")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "TASK_NOT_FOUND")


def test_a_key_makes_a_request_safe_to_repeat(server: Server) -> None:
    server.request("POST", "/indices", json={"name": "keys"})

    def add(text: str, key: str | None) -> Any:
        headers = {} if key is None else {"Idempotency-Key": key}
        path = "/indices/keys/update_with_encoding?wait=true"
        return server.request("POST", path, json={"documents": [text]}, headers=headers)

    first, again = add("a text", "key 1"), add("a text", "key 1")
    assert first.json()["task_id"] == again.json()["task_id"]
    assert add("a text", None).json()["task_id"] != first.json()["task_id"]
    assert server.request("GET", "/indices/keys").json()["num_documents"] == 2
    reused = add("another text", "key 1")
    assert (reused.status_code, reused.json()["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")


def test_a_document_with_a_known_id_replaces_the_old_one(server: Server) -> None:
    server.add("replaced", ["old words", "others"], [{"id": "a", "v": 1}, {"id": "b", "v": 1}])
    body = {"documents": ["new words"], "metadata": [{"id": "a", "v": 2}]}
    server.request("POST", "/indices/replaced/update_with_encoding?wait=true", json=body)
    answer = server.request("GET", "/indices/replaced/metadata").json()
    # The new one is at the end: positions are those of insertion.
    assert answer["metadata"] == [{"_subset_": 0, "id": "b", "v": 1}, {"_subset_": 1, "id": "a", "v": 2}]
    assert answer["ids"] == ["b", "a"]


def test_a_write_that_fails_says_why(server: Server) -> None:
    """What only the index can tell when it applies a write; other writes are not disturbed."""
    server.add("fails", ["a text"], [{"n": 1}])
    path = "/indices/fails/update_with_encoding"
    body = {"documents": ["another"], "metadata": [{"a\0b": 1}]}
    accepted = server.request("POST", path, json=body)
    waited = server.request("POST", f"{path}?wait=true", json=body)
    assert (accepted.status_code, waited.status_code) == (202, 400)
    assert "holds a NUL character" in waited.json()["message"]
    task = server.request("GET", accepted.headers["Location"]).json()
    assert (task["state"], task["count"]) == ("failed", 0)
    assert "holds a NUL character" in task["error"]
    changed = server.request("POST", "/indices/fails/metadata/update", json={"condition": "m = 1", "updates": {"n": 2}})
    assert (changed.status_code, changed.json()["code"]) == (400, "BAD_REQUEST")
    gone = server.request("DELETE", "/indices/fails/documents?wait=true", json={"condition": "m = 1"})
    assert (gone.status_code, gone.json()["count"]) == (200, 0)
    assert server.request("GET", "/indices/fails").json()["num_documents"] == 1


def test_an_empty_subset_finds_nothing(server: Server, name: str) -> None:
    """next-plaid's client leaves it out; whoever sends it means it."""
    for body in ({"subset": []}, {"subset": [99]}):
        found = server.request("POST", f"/indices/{name}/search", json={"text_query": ["yeast"], **body}).json()
        assert found["results"][0]["document_ids"] == []


def test_the_oldest_documents_over_the_limit_are_deleted(server: Server) -> None:
    server.request("POST", "/indices", json={"name": "limited", "config": {"max_documents": 2}})
    for text in ("one", "two", "three"):
        body = {"documents": [text], "metadata": [{"id": text}]}
        server.request("POST", "/indices/limited/update_with_encoding?wait=true", json=body).raise_for_status()
    assert server.request("GET", "/indices/limited/metadata").json()["ids"] == ["two", "three"]


def test_embeddings_as_lists_and_as_base64(server: Server) -> None:
    server.request("POST", "/indices", json={"name": "vectors"})
    rows = [[0.6, 0.8, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
    packed = base64.b64encode(struct.pack("<8f", *rows[0], *rows[1])).decode()
    documents = [{"embeddings": rows}, {"embeddings_b64": packed, "shape": [2, 4]}]
    body = {"documents": documents, "metadata": [{"id": "lists"}, {"id": "packed"}]}
    for path in ("update", "documents"):
        assert server.request("POST", f"/indices/vectors/{path}?wait=true", json=body).status_code == 200
    queries = [{"embeddings": [[0.6, 0.8, 0.0, 0.0]]}]
    found = server.request("POST", "/indices/vectors/search", json={"queries": queries}).json()["results"][0]
    assert sorted(found["ids"]) == ["lists", "packed"]
    assert found["scores"] == pytest.approx([1.0, 1.0], abs=0.01)
    odd = {"documents": [{"embeddings": [[0.6, 0.8, 0.0]]}]}  # 3 numbers of 4 bits
    server.request("POST", "/indices", json={"name": "odd"})
    assert server.request("POST", "/indices/odd/update", json=odd).status_code == 400


def test_encoding_as_lists_as_base64_and_as_pylates_server(server: Server) -> None:
    body = {"texts": TEXTS, "input_type": "document"}
    lists = server.request("POST", "/encode", json=body).json()
    assert "embeddings_b64" not in lists or lists["embeddings_b64"] is None
    packed = server.request("POST", "/encode", json=body, headers={"X-Embeddings-Format": "base64"}).json()
    for rows, b64, shape in zip(lists["embeddings"], packed["embeddings_b64"], packed["shapes"]):
        values = torch.frombuffer(bytearray(base64.b64decode(b64)), dtype=torch.float32).view(shape)
        torch.testing.assert_close(values, torch.tensor(rows), atol=1e-6, rtol=0)
    pylate = server.request("POST", "/v1/embeddings", json={"input": TEXTS, "is_query": False}).json()
    assert [item["index"] for item in pylate["data"]] == [0, 1, 2]
    assert {item["object"] for item in pylate["data"]} == {"embedding"}
    for item, rows in zip(pylate["data"], lists["embeddings"]):
        torch.testing.assert_close(torch.tensor(item["embedding"]), torch.tensor(rows), atol=1e-5, rtol=0)
    assert pylate["usage"] == {"prompt_tokens": 10, "total_tokens": 10}
    one = server.request("POST", "/v1/embeddings", json={"input": "yeast", "model": pylate["model"]}).json()
    assert len(one["data"]) == 1
    other = server.request("POST", "/v1/embeddings", json={"input": "yeast", "model": "another"})
    assert (other.status_code, other.json()["code"]) == (400, "BAD_REQUEST")


VECTOR = '{"queries": [{"embeddings": [[%s]]}]}'


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"nonsense",
        b'{"queries": 5}',
        b'{"text_query": ["a"]} x',
        b'{"text_query": ["\\ud800"]}',
        b'{"text_query": ["\xff"]}',
        b"[" * 100_000,
        b'{"a":' * 10_000,
        (VECTOR % "NaN").encode(),
        (VECTOR % "Infinity").encode(),
        (VECTOR % "1e999").encode(),
        (VECTOR % "1e39").encode(),
        (VECTOR % "1" * 1).replace("[[1]]", "[[1], [1, 2]]").encode(),
        (VECTOR % "").encode(),
        (VECTOR % '"1"').encode(),
        b'{"queries": [{}]}',
        b'{"queries": [{"embeddings_b64": "AAAA", "shape": [1, 1]}]}',
        b'{"queries": [{"embeddings_b64": "****", "shape": [1, 1]}]}',
        b'{"queries": [{"embeddings_b64": "AAAA", "shape": [9223372036854775807, 9223372036854775807]}]}',
        b'{"queries": [{"embeddings_b64": "AADAfw==", "shape": [1, 1]}]}',  # NaN
        b'{"text_query": ["a"], "params": {"top_k": 0}}',
        b'{"text_query": ["a"], "params": {"top_k": 1e3}}',
        b'{"text_query": ["a"], "params": {"top_k": 99999999999999999999999}}',
        b'{"text_query": ["a"], "filter_condition": "n = ?", "filter_parameters": [[1]]}',
        b'{"text_query": ["a"], "filter_condition": "n = 1; drop table documents"}',
        b'{"text_query": ["a"], "filter_condition": "load_extension(1)"}',
    ],
)
def test_a_wrong_body_is_an_error_of_the_client(server: Server, name: str, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    answer = server.request("POST", f"/indices/{name}/search", content=body, headers=headers)
    assert answer.status_code == 400, answer.text
    assert answer.json()["code"] in ("BAD_REQUEST", "DIMENSION_MISMATCH")
    assert len(answer.json()["message"]) < 2000
    assert server.request("GET", "/ready").json() == {"ready": True}


@pytest.mark.parametrize("metadata", ['{"a": NaN}', '{"a": 1e999}', '{"a": [{"b": -1e999}]}', '"a string"', "[1]"])
def test_metadata_that_json_cannot_hold_are_refused(server: Server, name: str, metadata: str) -> None:
    body = f'{{"documents": ["a text"], "metadata": [{metadata}]}}'
    headers = {"Content-Type": "application/json"}
    answer = server.request("POST", f"/indices/{name}/update_with_encoding", content=body, headers=headers)
    assert answer.status_code == 400


def test_a_body_of_another_type_is_refused(server: Server, name: str) -> None:
    """A web page may send `text/plain` to any server without asking; JSON it may not."""
    body = json.dumps({"condition": "1"})
    for headers in ({"Content-Type": "text/plain"}, {"Content-Type": "application/x-www-form-urlencoded"}, {}):
        answer = server.request("DELETE", f"/indices/{name}/documents", content=body, headers=headers)
        assert answer.status_code == 400
    assert server.request("GET", f"/indices/{name}").json()["num_documents"] == 3


@pytest.mark.parametrize(
    "bad", ["..", ".", ".hidden", "a/b", "a\\b", "", "a b", "ä", "a\n", "x" * 129, "%2e%2e", "..%2f..%2fetc", "a\0"]
)
def test_names_do_not_leave_the_root(server: Server, bad: str) -> None:
    answer = server.request("POST", "/indices", json={"name": bad})
    assert (answer.status_code, answer.json()["code"]) == (400, "BAD_REQUEST")
    if bad not in (".", "..", "", "a\n", "a\0"):  # those a client does not send in a path
        assert server.request("GET", f"/indices/{bad}").status_code in (400, 404)
    with server.connect() as connection:
        quoted = "".join(f"%{byte:02x}" for byte in bad.encode())
        connection.sendall(
            f"DELETE /indices/{quoted} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        )
        assert receive_all(connection).split()[1] in (b"400", b"404", b"405")


def test_unknown_routes_and_methods(server: Server) -> None:
    unknown = server.request("GET", "/nothing")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "NOT_FOUND")
    wrong = server.request("PATCH", "/indices")
    assert (wrong.status_code, wrong.json()["code"]) == (405, "METHOD_NOT_ALLOWED")
    assert wrong.headers["Allow"] == "GET, POST"
    assert server.request("GET", "/indices/").status_code == 404


def test_health_metrics_and_the_description(server: Server, name: str) -> None:
    health = server.request("GET", "/health").json()
    assert health == server.request("GET", "/").json() | {"memory_usage_bytes": health["memory_usage_bytes"]}
    assert health["model"]["embedding_dim"] == 16
    assert any(index["name"] == name and index["num_documents"] == 3 for index in health["indices"])
    metrics = server.request("GET", "/metrics")
    assert metrics.headers["Content-Type"].startswith("text/plain")
    assert f'colbertz_documents{{index="{name}"}} 3.0' in metrics.text
    assert 'colbertz_requests_total{method="GET",route="/health",status="200"}' in metrics.text
    description = server.request("GET", "/api-docs/openapi.json").json()
    bodies = [schema for schema in description["components"]["schemas"].values() if "examples" in schema]
    assert len(bodies) >= 15
    viewer = server.request("GET", "/swagger-ui")
    assert viewer.headers["Content-Type"].startswith("text/html")
    # It works without a network: nothing is loaded from elsewhere, and the browser is told so.
    assert "http://" not in viewer.text
    assert "https://" not in viewer.text
    assert "default-src 'none'" in viewer.headers["Content-Security-Policy"]


def test_each_request_has_an_id_and_a_line_in_the_log(server: Server) -> None:
    given = server.request("GET", "/indices?secret=1", headers={"X-Request-ID": "mine-1"})
    made = server.request("GET", "/nothing", headers={"X-Request-ID": 'bad "id"'})
    assert given.headers["X-Request-ID"] == "mine-1"
    assert len(made.headers["X-Request-ID"]) == 32
    line = server.line("mine-1")
    assert (line["method"], line["path"], line["route"], line["status"]) == ("GET", "/indices", "/indices", 200)
    assert line["milliseconds"] > 0
    assert server.line(made.headers["X-Request-ID"])["status"] == 404
    assert "secret" not in json.dumps(line)


def test_odd_metadata_come_back_as_they_were(server: Server) -> None:
    deep: Any = 1
    for _ in range(190):  # of 200 levels that a body may have
        deep = [deep]
    odd = {
        "": 1,
        'a"b': [],
        "rowid": 5,
        "text": "x",
        "metadata": {"a": None},
        "big": 10**30,
        "ä": "\U0001f35e",
        "deep": deep,
    }
    server.add("odd-metadata", ["a text"], [odd])
    row = server.request("GET", "/indices/odd-metadata/metadata").json()["metadata"][0]
    assert row == {"_subset_": 0, **odd}
    found = server.request("POST", "/indices/odd-metadata/search", json={"text_query": ["text"]}).json()
    assert found["results"][0]["metadata"] == [row]
