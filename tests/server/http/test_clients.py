"""next-plaid's own client, sync and async, drives the server through all of its methods and errors."""

import asyncio
import inspect
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from next_plaid_client import (
    AsyncNextPlaidClient,
    IndexConfig,
    IndexExistsError,
    IndexNotFoundError,
    ModelNotLoadedError,
    NextPlaidClient,
    NextPlaidError,
    RateLimitError,
    SearchParams,
    ValidationError,
)
from next_plaid_client.exceptions import ConnectionError as ClientConnectionError
from next_plaid_client.exceptions import ServerError
from serving import Server, serving

from colbertz import ColBERT, Ragged, maxsim

CLIENTS = pytest.mark.parametrize("kind", [NextPlaidClient, AsyncNextPlaidClient])
TEXTS = ["bread needs yeast", "glaciers move slowly", "yeast is a fungus", "the moon moves the tides"]
METADATA = [
    {"id": "bread", "topic": "food", "year": 2021},
    {"id": "ice", "topic": "earth", "year": 2019},
    {"topic": "food", "year": 2020},
    {"id": "tides", "topic": "earth", "year": 2023},
]


class Caller:
    """Calls a client's methods, waits for those that must be waited for, and remembers which were called."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.called: set[str] = set()

    async def __call__(self, method: str, *args: Any, **kwargs: Any) -> Any:
        self.called.add(method)
        result = getattr(self.client, method)(*args, **kwargs)
        return await result if inspect.isawaitable(result) else result


def drive(kind: Any, url: str, scenario: Callable[[Caller], Awaitable[None]]) -> Caller:
    """Run a scenario with a client of this kind, and close it."""

    async def run() -> Caller:
        call = Caller(kind(url, timeout=60))
        try:
            await scenario(call)
        finally:
            await call("close")
        return call

    return asyncio.run(run())


async def applied(call: Caller, name: str, count: int) -> None:
    """Wait until an index has so many documents; a client has no other way to know."""
    while (await call("get_index", name)).num_documents != count:
        await asyncio.sleep(0.01)


@CLIENTS
def test_every_method(kind: Any, server: Server) -> None:
    name = f"methods-{kind.__name__}"

    async def scenario(call: Caller) -> None:
        await _manage(call, name)
        await _search(call, name)
        await _metadata(call, name)
        await _encode(call)
        await call("delete_index", name)
        assert name not in await call("list_indices")

    call = drive(kind, server.url, scenario)
    assert call.called == {method for method in dir(kind) if not method.startswith("_")}


async def _manage(call: Caller, name: str) -> None:
    created = await call("create_index", name, IndexConfig(nbits=2, seed=7, max_documents=100))
    assert created["name"] == name
    assert created["config"]["nbits"] == 2
    assert created["config"]["seed"] == 7
    assert (await call("get_index", name)).num_documents == 0
    assert isinstance(await call("add", name, TEXTS, METADATA), str)
    await applied(call, name, 4)
    assert name in await call("list_indices")
    described = await call("get_index", name)
    assert (described.name, described.dimension, described.metadata_count) == (name, 16, 4)
    assert (described.has_metadata, described.max_documents) == (True, 100)
    assert described.num_embeddings == pytest.approx(4 * described.avg_doclen)
    changed = await call("update_index_config", name, None)
    assert changed["config"]["max_documents"] is None
    health = await call("health")
    assert health.status == "healthy"
    assert health.memory_usage_bytes > 10_000_000
    assert [index.num_documents for index in health.indices if index.name == name] == [4]


async def _search(call: Caller, name: str) -> None:
    found = await call("search", name, ["bread needs yeast", "glaciers move slowly"], SearchParams(top_k=2))
    assert [result.document_ids[0] for result in found.results] == [0, 1]
    assert [result.query_id for result in found.results] == [0, 1]
    assert found.num_queries == 2
    assert found.results[0].metadata[0] == {"_subset_": 0, **METADATA[0]}
    assert found.results[0].scores == sorted(found.results[0].scores, reverse=True)
    assert all(len(result.scores) == len(result.document_ids) == 2 for result in found.results)

    filtered = await call("search", name, ["yeast"], filter_condition="year > ?", filter_parameters=[2020])
    assert sorted(filtered.results[0].document_ids) == [0, 3]
    within = await call("search", name, ["yeast"], subset=[1, 3])
    assert sorted(within.results[0].document_ids) == [1, 3]

    embedded = (await call("encode", ["bread needs yeast"], "query")).embeddings
    by_embeddings = await call("search", name, embedded, SearchParams(top_k=2))
    assert by_embeddings.results[0].document_ids == found.results[0].document_ids
    assert by_embeddings.results[0].scores == pytest.approx(found.results[0].scores, abs=1e-4)
    also_filtered = await call("search", name, [{"embeddings": embedded[0]}], filter_condition="topic = 'earth'")
    assert sorted(also_filtered.results[0].document_ids) == [1, 3]

    words = await call("keyword_search", name, "glaciers")
    assert words.results[0].document_ids == [1]
    few = await call("keyword_search", name, ["yeast", "moon"], SearchParams(top_k=1), "year > ?", [2020])
    assert [result.document_ids for result in few.results] == [[0], [3]]

    only_words = await call("search", name, ["bread needs yeast"], text_query=["glaciers"], alpha=0.0)
    assert only_words.results[0].document_ids[0] == 1
    only_meaning = await call("search", name, embedded, text_query=["glaciers"], alpha=1.0, fusion="rrf")
    assert only_meaning.results[0].document_ids[0] == 0
    assert only_meaning.results[0].scores[0] == pytest.approx(1 / 61)  # alpha / (60 + rank)
    both = await call("search", name, ["glaciers"], text_query=["glaciers"], filter_condition="year < 2020", subset=[1])
    assert both.results[0].document_ids == [1]


async def _metadata(call: Caller, name: str) -> None:
    everything = await call("get_metadata", name)
    assert everything.count == 4
    assert everything.metadata == [{"_subset_": i, **fields} for i, fields in enumerate(METADATA)]
    assert (await call("get_metadata_count", name))["count"] == 4
    checked = await call("check_metadata", name, [0, 3, 4, -1])
    assert (checked.existing_ids, checked.missing_ids) == ([0, 3], [4, -1])
    assert (checked.existing_count, checked.missing_count) == (2, 2)
    asked = await call("query_metadata", name, "topic = ? AND year > ?", ["food", 2020])
    assert (asked["document_ids"], asked["count"], asked["ids"]) == ([0], 1, ["bread"])
    some = await call("get_metadata_by_ids", name, document_ids=[3, 1])
    assert [row["_subset_"] for row in some.metadata] == [1, 3]
    limited = await call("get_metadata_by_ids", name, condition="year > ?", parameters=[2000], limit=2)
    assert [row["_subset_"] for row in limited.metadata] == [0, 1]
    assert (await call("get_metadata_by_ids", name)).count == 4
    updated = await call("update_metadata", name, "year < ?", {"topic": "old", "read": True}, [2021])
    assert updated["updated"] == 2
    assert (await call("query_metadata", name, "topic = 'old' AND read"))["document_ids"] == [1, 2]
    assert isinstance(await call("delete", name, "year = ?", [2019]), str)
    await applied(call, name, 3)
    # Positions are those of the documents that are left; ids stay.
    assert (await call("query_metadata", name, "id = 'tides'"))["document_ids"] == [2]


async def _encode(call: Caller) -> None:
    documents = await call("encode", TEXTS, pool_factor=2)
    whole = await call("encode", TEXTS)
    assert documents.num_texts == 4
    assert all(len(pooled) < len(text) for pooled, text in zip(documents.embeddings, whole.embeddings))
    query = (await call("encode", ["yeast"], "query")).embeddings[0]
    scores = maxsim(
        Ragged.from_list([torch.tensor(query)]), Ragged.from_list([torch.tensor(text) for text in whole.embeddings])
    )[0]
    best = torch.argsort(scores, descending=True).tolist()
    for ranked in (
        await call("rerank", query, [{"embeddings": text} for text in whole.embeddings]),
        await call("rerank", "yeast", TEXTS),
    ):
        assert [result.index for result in ranked.results] == best
        assert [result.score for result in ranked.results] == pytest.approx(scores[best].tolist(), abs=1e-4)
        assert ranked.num_documents == 4


@CLIENTS
def test_every_error(kind: Any, server: Server) -> None:
    name = f"errors-{kind.__name__}"

    async def scenario(call: Caller) -> None:
        async def fails(error: Any, status: int, code: str, method: str, *args: Any, **kwargs: Any) -> None:
            with pytest.raises(NextPlaidError) as raised:
                await call(method, *args, **kwargs)
            assert (type(raised.value), raised.value.status_code, raised.value.code) == (error, status, code), args

        await call("create_index", name)
        await fails(IndexExistsError, 409, "INDEX_ALREADY_EXISTS", "create_index", name)
        for method, *args in (
            ("get_index",),
            ("delete_index",),
            ("update_index_config", 5),
            ("search", ["a query"]),
            ("search", [[[0.6, 0.8]]]),
            ("keyword_search", "a query"),
            ("delete", "year = 1"),
            ("get_metadata",),
            ("get_metadata_count",),
            ("check_metadata", [0]),
            ("query_metadata", "year = 1"),
            ("get_metadata_by_ids", [0]),
            ("update_metadata", "year = 1", {"a": 1}),
        ):
            await fails(IndexNotFoundError, 404, "INDEX_NOT_FOUND", method, "nothing", *args)
        await fails(IndexNotFoundError, 404, "INDEX_NOT_DECLARED", "add", "nothing", ["a text"])
        await fails(IndexNotFoundError, 404, "INDEX_NOT_DECLARED", "add", "nothing", [{"embeddings": [[0.6, 0.8]]}])
        await fails(NextPlaidError, 404, "METADATA_NOT_FOUND", "query_metadata", name, "year = 1")
        await fails(NextPlaidError, 404, "METADATA_NOT_FOUND", "delete", name, "year = 1")
        await fails(NextPlaidError, 404, "METADATA_NOT_FOUND", "search", name, ["a"], filter_condition="year = 1")
        assert (await call("search", name, ["a query"])).results[0].document_ids == []

        await call("add", name, TEXTS, METADATA)
        await applied(call, name, 4)
        await fails(ValidationError, 400, "DIMENSION_MISMATCH", "search", name, [[[0.6, 0.8]]])
        await fails(ValidationError, 400, "DIMENSION_MISMATCH", "add", name, [{"embeddings": [[0.6, 0.8]]}])
        await fails(ValidationError, 400, "DIMENSION_MISMATCH", "rerank", [[0.6, 0.8]], [{"embeddings": [[1.0]]}])
        for method, *args in (
            ("add", [], None),
            ("add", ["a text"], [{"a": 1}, {"a": 2}]),
            ("add", ["a text"], [{"id": [1]}]),
            ("add", ["a text", "another"], [{"id": "same"}, {"id": "same"}]),
            ("delete", ""),
            ("delete", "year = "),
            ("query_metadata", "nonsense = 1"),
            ("query_metadata", "year = ?"),
            ("update_metadata", "year = 1", {"id": "other"}),
            ("search", ["a query"], SearchParams(top_k=10**6)),
            ("search", ["  "]),
            ("search", ["a", "b"], None, None, None, None, ["only one"]),
            ("search", ["a"], None, None, None, None, ["a"], 2.0),
            ("search", ["a"], None, None, None, None, ["a"], 0.5, "nonsense"),
            ("search", ["a"], None, "nonsense = 1"),
        ):
            await fails(ValidationError, 400, "BAD_REQUEST", method, name, *args)
        await fails(ValidationError, 400, "BAD_REQUEST", "create_index", "../outside")
        await fails(ValidationError, 400, "BAD_REQUEST", "create_index", "new", IndexConfig(nbits=3))
        await fails(ValidationError, 400, "BAD_REQUEST", "create_index", "new", IndexConfig(fts_tokenizer="trigram"))
        await fails(ValidationError, 400, "BAD_REQUEST", "create_index", "new", IndexConfig(binary=True))
        await fails(ValidationError, 400, "BAD_REQUEST", "encode", ["a"], "nonsense")
        await fails(ValidationError, 400, "BAD_REQUEST", "encode", [])

    drive(kind, server.url, scenario)


def test_a_server_without_a_model(tmp_path: Path) -> None:
    async def scenario(call: Caller) -> None:
        name = type(call.client).__name__
        await call("create_index", name)
        for method, *args in (
            ("encode", ["a"]),
            ("add", name, ["a text"]),
            ("search", name, ["a query"]),
            ("search", name, ["a query"], None, "year = 1"),
            ("rerank", "a query", ["a text"]),
        ):
            with pytest.raises(ModelNotLoadedError) as missing:
                await call(method, *args)
            assert (missing.value.status_code, missing.value.code) == (503, "MODEL_NOT_LOADED")
        await call("add", name, [{"embeddings": [[0.6, 0.8], [1.0, 0.0]]}], [{"title": "bread and yeast"}])
        await applied(call, name, 1)
        assert (await call("search", name, [[[0.6, 0.8]]])).results[0].scores == pytest.approx([1.0], abs=0.02)
        # Documents without a text are found by the words of their metadata, as with next-plaid.
        assert (await call("keyword_search", name, "yeast")).results[0].document_ids == [0]

    with serving(tmp_path / "root") as running:
        drive(NextPlaidClient, running.url, scenario)
        drive(AsyncNextPlaidClient, running.url, scenario)


def test_errors_of_a_busy_server(tmp_path: Path) -> None:
    """Too many requests, too much at once, and no server."""

    async def scenario(call: Caller) -> None:
        with pytest.raises(ServerError) as busy:
            await call("rerank", [[0.6, 0.8]], [{"embeddings": [[0.6, 0.8]] * 500}])
        assert (busy.value.status_code, busy.value.code) == (503, "SERVICE_UNAVAILABLE")
        with pytest.raises(RateLimitError) as limited:
            for _ in range(10):
                await call("list_indices")
        assert (limited.value.status_code, limited.value.code) == (429, "RATE_LIMITED")
        await call("health")  # is always answered

    async def ask(call: Caller) -> None:
        with pytest.raises(ClientConnectionError):
            await call("health")

    with serving(tmp_path / "root", "--max-held-bytes", "2000", "--rate", "0.001", "--burst", "10") as running:
        drive(NextPlaidClient, running.url, scenario)
        assert running.stop(signal.SIGTERM) == 0
        drive(NextPlaidClient, running.url, ask)
        drive(AsyncNextPlaidClient, running.url, ask)


def test_texts_are_scored_as_the_model_scores_them(server: Server, checkpoint: Path) -> None:
    server.add("scores", TEXTS, METADATA)
    model = ColBERT.from_pretrained(checkpoint)
    expected = maxsim(model.encode_query(["yeast"]), model.encode_document(TEXTS))[0]
    with NextPlaidClient(server.url, timeout=60) as client:
        found = client.search("scores", ["yeast"]).results[0]
    by_position = dict(zip(found.document_ids, found.scores))
    assert [by_position[i] for i in range(4)] == pytest.approx(expected.tolist(), abs=0.3)  # of 4 bits
