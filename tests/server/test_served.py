"""Writing to a served index and reading from it: order, merging, keys, tasks, conditions, positions and limits."""

import threading
from pathlib import Path

import pytest
import torch
from embeddings import reference_scores, unit_texts

from colbertz import Index, Searcher, SearchOptions
from colbertz.errors import UserError
from colbertz.models import Tokens
from colbertz.ragged import Ragged
from colbertz.server.batching import EncodeBatcher
from colbertz.server.config import IndexConfig, Limits
from colbertz.server.errors import KeyReused, ModelMissing, UnknownTask
from colbertz.server.operations import Add, Delete, Operation, Task, UpdateMetadata
from colbertz.server.queue import MOST_ATTEMPTS, open_queue
from colbertz.server.root import Root
from colbertz.server.served import LOG, ServedIndex

SECONDS = 60


def done(index: ServedIndex, operation: Operation, key: str | None = None) -> Task:
    """The task of an operation once it is applied."""
    task = index.wait(index.submit(operation, key).id, SECONDS)
    assert task.state == "done", task
    return task


def failed(index: ServedIndex, operation: Operation) -> str:
    """Why an operation fails."""
    task = index.wait(index.submit(operation).id, SECONDS)
    assert task.state == "failed" and task.error is not None, task
    return task.error


def numbered(count: int, first: int = 0) -> Add:
    """Documents whose metadata have a number."""
    embeddings = unit_texts([2 + number % 3 for number in range(count)], seed=first)
    return Add(embeddings=embeddings, metadata=[{"number": first + number} for number in range(count)])


def test_a_declared_index_is_empty_and_is_built_by_the_first_documents(root: Root) -> None:
    index = root.declare("papers", IndexConfig(nbits=2))
    empty = index.snapshot()
    assert (len(empty), empty.generation, empty.matching()) == (0, 0, [])
    queries = unit_texts([3, 4], seed=9)
    assert empty.search(queries) == [[], []]
    assert done(index, Delete("number = 1")).count == 0

    task = done(index, numbered(8))
    assert (task.kind, task.generation, task.count, task.error) == ("add", 1, 8, None)
    view = index.snapshot()
    assert len(view) == 8 and view.generation == 1 and view.index is not None and view.index.manifest.nbits == 2
    documents = view.index.snapshot.decode(torch.arange(8).numpy())
    scores = reference_scores(queries, documents)
    for hits, expected in zip(view.search(queries, k=3), scores):
        assert [hit.score for hit in hits] == pytest.approx(expected.sort(descending=True).values[:3].tolist())
    assert len(empty) == 0, "a snapshot stays as it is"


def test_operations_are_applied_in_their_order(root: Root) -> None:
    index = root.declare("papers")
    tasks = [
        index.submit(operation)
        for operation in (
            numbered(4),
            Delete("number < 2"),
            numbered(2),
            UpdateMetadata("number < 3", {"small": True}),
            numbered(1, first=9),
            Delete("number = 3"),
        )
    ]
    results = [index.wait(task.id, SECONDS) for task in tasks]
    assert [task.state for task in results] == ["done"] * 6
    assert [task.count for task in results] == [4, 2, 2, 3, 1, 1]
    view = index.snapshot()
    numbers = [document.metadata for document in view.documents_at(range(len(view))) if document]
    small = {"small": True}
    assert numbers == [{"number": 2, **small}, {"number": 0, **small}, {"number": 1, **small}, {"number": 9}]
    assert view.matching("small") == ["2", "4", "5"] and view.matching("number = 9 and small is null") == ["6"]


def test_small_adds_become_one_commit(root: Root) -> None:
    index = root.declare("papers")
    done(index, numbered(4))
    before = index.snapshot().generation
    slow = index.submit(numbered(200, first=100))
    tasks = [index.submit(numbered(1, first=number)) for number in range(20)]
    generations = {index.wait(task.id, SECONDS).generation for task in tasks}
    assert index.task(slow.id).state == "done"
    assert len(index.snapshot()) == 224
    assert len(generations) <= 5 and index.snapshot().generation - before < 20


def test_a_key_gives_the_same_task_again(root: Root) -> None:
    index = root.declare("papers")
    task = done(index, numbered(3), key="first")
    assert index.submit(numbered(3), key="first") == task
    assert len(index.snapshot()) == 3
    with pytest.raises(KeyReused, match="'first' came with another operation"):
        index.submit(numbered(4), key="first")
    with pytest.raises(UnknownTask, match="no task 'nonsense'"):
        index.task("nonsense")


def test_positions_move_and_ids_stay(root: Root) -> None:
    index = root.declare("papers")
    done(index, Add(embeddings=unit_texts([2] * 4), ids=["a", None, "1", None]))
    view = index.snapshot()
    assert view.matching() == ["a", "2", "1", "4"], "documents without an id get numbers that are no ids"
    done(index, Delete("id = 'a'"))
    after = index.snapshot()
    assert after.matching() == ["2", "1", "4"] and view.matching() == ["a", "2", "1", "4"]
    assert after.positions(["4", "2"]) == [2, 0]
    assert after.ids_at([1, 7, -1, 0]) == ["1", None, None, "2"]
    assert [document and document.id for document in view.documents_at([3, 0])] == ["4", "a"]


def test_the_oldest_documents_are_evicted(root: Root) -> None:
    index = root.declare("papers", IndexConfig(max_documents=5))
    done(index, numbered(4))
    done(index, numbered(3, first=4))
    assert index.snapshot().matching() == ["2", "3", "4", "5", "6"]
    index.set_max_documents(2)
    done(index, numbered(1, first=7))
    assert index.snapshot().matching() == ["6", "7"]


@pytest.mark.parametrize(
    ("operation", "error"),
    [
        (Add(embeddings=unit_texts([2]), ids=["0"], on_duplicate="error"), "already has a document '0'"),
        (Add(embeddings=unit_texts([2]), metadata=[{"a": 1, "A": 2}]), "differ only in the case"),
        (Add(texts=["no model"]), "no model to encode"),
        (UpdateMetadata("nonsense = 1", {}), "no document has a field 'nonsense'"),
        (Delete("number = ?"), "filter"),
        (UpdateMetadata("number = 1", {"NUMBER": 2}), "differ only in the case"),
    ],
    ids=lambda value: value.kind if not isinstance(value, str) else "",
)
def test_an_operation_that_fails_fails_alone(root: Root, operation: Operation, error: str) -> None:
    index = root.declare("papers")
    done(index, numbered(4))
    before = index.submit(numbered(1, first=10))
    bad = index.submit(operation)
    after = index.submit(numbered(1, first=11))
    assert error in str(index.wait(bad.id, SECONDS).error)
    assert index.wait(after.id, SECONDS).state == index.wait(before.id, SECONDS).state == "done"
    assert index.snapshot().matching() == [str(number) for number in range(6)]


def test_what_cannot_be_an_operation_is_refused_at_once() -> None:
    embeddings = unit_texts([2, 3])
    for bad, message in (
        (lambda: Add(), "neither texts nor embeddings"),
        (lambda: Add(texts=[]), "no documents to add"),
        (lambda: Add(embeddings=embeddings, ids=["a"]), "1 ids for 2 documents"),
        (lambda: Add(embeddings=embeddings, ids=["a", "a"]), "two documents have the id 'a'"),
        (lambda: Add(embeddings=embeddings.map(lambda values: values * float("nan"))), "NaN"),
        (lambda: Add(texts=["a", None]), "texts\\[1\\] is null"),
        (lambda: Delete("number ="), "syntax error"),
    ):
        with pytest.raises((UserError, TypeError), match=message):
            bad()


def test_texts_are_encoded_by_the_model(encoder: EncodeBatcher, tmp_path: Path) -> None:
    texts = ["a cat sat on a mat", "dogs bark at night", "the sea is blue"]
    root = Root.open(tmp_path / "root", encoder)
    try:
        index = root.declare("animals")
        done(index, Add(texts=texts[:2]))
        done(index, Add(texts=texts[2:], ids=["sea"]))
        view = index.snapshot()
        queries = encoder.encode(["a blue sea"], is_query=True).result()
        assert view.search(queries, k=1)[0][0].text == "the sea is blue"
        both = view.search(queries, ["a blue sea"], 3, SearchOptions(hybrid=True))
        assert both[0][0].id == "sea" and view.search(None, ["night"])[0][0].id == "1"
    finally:
        root.close()
    # What the server wrote is an ordinary index, which knows its model.
    found = Searcher.open(tmp_path / "root" / "animals").search("a blue sea", 1)
    assert found[0].id == "sea" and len(Index.open(tmp_path / "root" / "animals")) == 3


def test_texts_of_small_adds_are_encoded_together(
    encoder: EncodeBatcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Root.open(tmp_path / "root", encoder)
    index = root.declare("animals")
    done(index, Add(texts=["a cat"], ids=["cat"]))
    embed, go, batches = encoder.model.embed, threading.Event(), []

    def recorded(tokens: Tokens, normalize: bool = True) -> Ragged:
        go.wait(SECONDS)
        batches.append(len(tokens))
        return embed(tokens, normalize)

    monkeypatch.setattr(encoder.model, "embed", recorded)
    tasks = [index.submit(Add(texts=[f"text {number}"], ids=[f"{number}"])) for number in range(20)]
    go.set()
    assert {index.wait(task.id, SECONDS).state for task in tasks} == {"done"}
    assert index.snapshot().positions([str(number) for number in range(20)]) == list(range(1, 21))
    # The first commit may have one document and the next one the others; each begins with a text that checks the model.
    assert sum(batches) <= 20 + 3 and len(batches) <= 2 * 3
    root.close()


def test_a_model_that_is_not_the_indexs_is_refused(encoder: EncodeBatcher, tmp_path: Path) -> None:
    root = Root.open(tmp_path / "root", encoder)
    index = root.declare("other")
    done(index, Add(embeddings=unit_texts([3, 3], dim=24)))
    assert "dimension 16 and the index" in failed(index, Add(texts=["a text"]))
    root.close()
    assert issubclass(ModelMissing, UserError)


def test_the_condition_of_a_write_is_stopped(tmp_path: Path) -> None:
    """It was stopped only after a minute, whatever the server's limit for filters."""
    root = Root.open(tmp_path / "root", limits=Limits(condition_seconds=0.2))
    index = root.declare("papers")
    done(index, Add(embeddings=unit_texts([2]), metadata=[{"numbers": list(range(1000))}]))
    endless = "numbers = numbers"
    for name in "cba":
        inner = "a.value + b.value + c.value = -1" if name == "c" else endless
        endless = f"exists (select 1 from json_each(numbers) {name} where {inner})"
    for operation in (Delete(endless), UpdateMetadata(endless, {"a": 1})):
        assert "0.2 seconds" in failed(index, operation)
    assert len(index.snapshot()) == 1
    root.close()


def test_a_write_that_ends_the_process_each_time_is_set_aside(tmp_path: Path) -> None:
    """It was tried again at each start, for ever."""
    root = Root.open(tmp_path / "root")
    index = root.declare("papers")
    done(index, numbered(3))
    root.close()
    log = tmp_path / "root/.server/papers" / LOG
    applied = Index.open(tmp_path / "root/papers").manifest.applied
    queue = open_queue(log, applied, 1, 100, 1 << 20)
    deadly, harmless = queue.submit(numbered(1, first=7)), queue.submit(numbered(1, first=8))
    queue.close()
    for _ in range(MOST_ATTEMPTS):  # so often a process is killed while it applies the first
        queue = open_queue(log, applied, 1, 100, 1 << 20)
        queue.begin(queue.take(1 << 20, 0, 0)[:1])
        queue.close()
    root = Root.open(tmp_path / "root")
    index = root.index("papers")
    task = index.wait(deadly.id, SECONDS)
    assert task.state == "failed" and "killed while it applied this write" in str(task.error)
    assert index.wait(harmless.id, SECONDS).state == "done"
    assert [document.metadata["number"] for document in index.snapshot().get(index.snapshot().matching())] == [
        0,
        1,
        2,
        8,
    ]
    root.close()
