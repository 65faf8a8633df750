"""Encoding concurrent requests together: the embeddings that each would get alone, queries first, errors alone."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
import torch
from torch import Tensor

from colbertz.errors import UserError
from colbertz.models import ColBERT, Tokens
from colbertz.ragged import Ragged
from colbertz.server.batching import EncodeBatcher
from colbertz.server.searching import SearchThreads

TEXTS = ["a cat " * 20, "", "dogs", "the sea is blue " * 3, "words and more words"] * 7


class Recorded:
    """A model that says how many texts it was given each time, and waits before the first of them."""

    def __init__(self, model: ColBERT) -> None:
        self.tokenizer, self.device = model.tokenizer, model.device
        self.model = model
        self.batches: list[int] = []
        self.refuses: Callable[[Tokens], bool] = lambda tokens: False
        self.go = threading.Event()

    def embed(self, tokens: Tokens) -> Ragged:
        self.go.wait(60)
        self.batches.append(len(tokens))
        if self.refuses(tokens):
            raise RuntimeError("refused")
        return self.model.embed(tokens)


def close_to(found: Ragged, expected: list[Tensor]) -> bool:
    return all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("pool_factor", [1, 2])
def test_concurrent_requests_get_the_embeddings_that_they_would_get_alone(
    pool_factor: int, encoder: EncodeBatcher
) -> None:
    parts = [TEXTS[first : first + 5] for first in range(0, len(TEXTS), 5)]
    documents = [encoder.encode(part, is_query=False, pool_factor=pool_factor) for part in parts]
    queries = [encoder.encode(part, is_query=True) for part in parts]
    for part, document, query in zip(parts, documents, queries):
        assert close_to(document.result(60), list(encoder.model.encode_document(part, pool_factor=pool_factor)))
        assert close_to(query.result(60), list(encoder.model.encode_query(part)))


def test_queries_go_before_documents_and_are_encoded_together(checkpoint: Path) -> None:
    model = Recorded(ColBERT.from_pretrained(checkpoint))
    encoder = EncodeBatcher(model, max_tokens=256, patience_ms=1e9)  # type: ignore[arg-type]
    documents = encoder.encode(["some words"] * 200, is_query=False)
    done: list[str] = []
    documents.add_done_callback(lambda _: done.append("documents"))
    queries: list[Future[Ragged]] = [encoder.encode([f"query {number}"], is_query=True) for number in range(4)]
    for query in queries:
        query.add_done_callback(lambda _: done.append("query"))
    model.go.set()
    assert len(documents.result(60)) == 200 and all(len(query.result(60)) == 1 for query in queries)
    assert done == ["query"] * 4 + ["documents"]
    assert len(model.batches) < 2 + 200, "texts are encoded together"
    encoder.close()


def test_documents_have_their_turn_however_many_queries_there_are(checkpoint: Path) -> None:
    model = Recorded(ColBERT.from_pretrained(checkpoint))
    encoder = EncodeBatcher(model, max_tokens=64, patience_ms=0)  # type: ignore[arg-type]
    documents = encoder.encode(["some words " * 8] * 4, is_query=False)
    done: list[str] = []
    documents.add_done_callback(lambda _: done.append("documents"))
    queries = [encoder.encode([f"query {number}"], is_query=True) for number in range(600)]
    for query in queries:
        query.add_done_callback(lambda _: done.append("query"))
    model.go.set()
    assert len(documents.result(60)) == 4 and all(len(query.result(60)) == 1 for query in queries)
    assert "query" in done[done.index("documents") :], "the documents did not wait for the last query"
    assert done.index("documents") > 0, "and the queries did not wait for all of the documents"
    encoder.close()


def test_a_request_that_fails_fails_alone(checkpoint: Path) -> None:
    model = Recorded(ColBERT.from_pretrained(checkpoint))
    encoder = EncodeBatcher(model)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="half a character"):
        encoder.encode(["\ud800"], is_query=True)
    with pytest.raises(UserError, match="no texts"):
        encoder.encode([], is_query=True)
    with pytest.raises(UserError, match="pool_factor"):
        encoder.encode(["a"], is_query=False, pool_factor=0)
    model.refuses = lambda tokens: int(tokens.ids.lengths.max()) > 50
    requests = [encoder.encode([text], is_query=False) for text in ("short", "a long text " * 30, "short too")]
    model.go.set()
    assert len(requests[0].result(60)) == len(requests[2].result(60)) == 1
    with pytest.raises(RuntimeError, match="refused"):
        requests[1].result(60)
    encoder.close()
    with pytest.raises(UserError, match="shutting down"):
        encoder.encode(["a"], is_query=True)


def test_requests_take_turns() -> None:
    """A request with many queries does not make one with a single query wait for all of them."""
    threads = SearchThreads(1)
    order: list[str] = []
    running, go_on, entered = threading.Semaphore(0), threading.Semaphore(0), threading.Event()

    def part(name: str) -> None:
        running.release()
        assert go_on.acquire(timeout=60)
        order.append(name)

    class Single(list[Callable[[], None]]):
        def __iter__(self) -> Iterator[Callable[[], None]]:
            entered.set()
            return super().__iter__()

    many = threading.Thread(target=lambda: threads.run([lambda: part("many")] * 20))
    many.start()
    running.acquire()
    one = threading.Thread(target=lambda: threads.run(Single([lambda: part("one")])))
    one.start()
    entered.wait(60)
    while one.is_alive() and len(order) < 20:  # the single part is queued now, or in a moment
        go_on.release()
        running.acquire()
    go_on.release(20)
    many.join(60)
    one.join(60)
    assert order.index("one") < 19 and len(order) == 21
    with pytest.raises(ZeroDivisionError):
        threads.run([lambda: 1 // 0])
    assert threads.run([lambda: torch.get_num_threads(), lambda: 7]) == [1, 7]
    threads.close()
