"""The log of operations: what is written comes back, what was cut off at the end is cut, and damage is refused."""

import errno
import os
import resource
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from embeddings import unit_texts
from hypothesis import given
from hypothesis import strategies as st

from colbertz.errors import UserError
from colbertz.index.store.manifest import Applied
from colbertz.server.errors import Busy, Closing, DamagedLog, KeyReused, StorageFull, UnknownTask
from colbertz.server.log import frame, open_log, write_log
from colbertz.server.operations import Add, Delete, Operation, UpdateMetadata, decode, encode, pack, unpack
from colbertz.server.queue import REMEMBERED, OperationQueue, open_queue

CONTENTS = [b'{"head": 1}', b"first" * 50, b"", b"third" * 3]

UNICODE = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | UNICODE,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(UNICODE, inner, max_size=3),
    max_leaves=8,
)


Open = Callable[..., OperationQueue]


@pytest.fixture
def opened() -> Iterator[Open]:
    """Opens queues, and closes them at the end."""
    queues: list[OperationQueue] = []

    def open_and_note(path: Path, applied: Applied | None = None, **limits: int) -> OperationQueue:
        settings = {"max_operations": 100, "max_bytes": 1 << 20} | limits
        queues.append(open_queue(path, applied, 1 if applied else 0, **settings))
        return queues[-1]

    yield open_and_note
    for queue in queues:
        queue.close()


def delete(number: int) -> Delete:
    return Delete("number = ?", [number])


def test_contents_come_back(tmp_path: Path) -> None:
    path = tmp_path / "log"
    write_log(path, CONTENTS[:2])
    log, contents = open_log(path)
    assert contents == CONTENTS[:2]
    for content in CONTENTS[2:]:
        log.sync(log.append(content))
    log.close()
    log, contents = open_log(path)
    assert contents == CONTENTS
    log.rewrite([CONTENTS[0], CONTENTS[3]])
    log.sync(log.append(b"more"))
    log.close()
    log, contents = open_log(path)
    log.close()
    assert contents == [CONTENTS[0], CONTENTS[3], b"more"]


@pytest.mark.parametrize("cut", range(1, len(frame(CONTENTS[1]))))
def test_a_frame_that_was_not_written_to_its_end_is_cut_off(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "log"
    whole = frame(CONTENTS[0])
    path.write_bytes(whole + frame(CONTENTS[1])[:cut])
    log, contents = open_log(path)
    log.close()
    assert contents == CONTENTS[:1] and path.read_bytes() == whole


def test_zeros_at_the_end_are_cut_off(tmp_path: Path) -> None:
    """After a power cut a file can have its new length and not its new content."""
    path = tmp_path / "log"
    content = bytes(range(1, 256)) * 10
    for tail in (bytes(700), frame(content)[:1000] + bytes(len(frame(content)) - 1000)):
        path.write_bytes(frame(CONTENTS[0]) + tail)
        log, contents = open_log(path)
        log.close()
        assert contents == CONTENTS[:1]


def test_each_flipped_bit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log"
    good = b"".join(map(frame, CONTENTS))
    for place in range(len(good)):
        damaged = bytearray(good)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(DamagedLog, match=r"log is damaged at byte \d+ of"):
            open_log(path)


@given(
    st.lists(st.tuples(st.integers(1, 4), UNICODE | st.none(), st.dictionaries(UNICODE, JSON)), min_size=1, max_size=4)
)
def test_adds_come_back(documents: list[tuple[int, str | None, dict[str, Any]]]) -> None:
    lengths, texts, metadata = (list(column) for column in zip(*documents))
    ids = [None if text is None else f"{number} {text}" for number, text in enumerate(texts)]
    add = Add(texts, unit_texts(lengths), ids, metadata, 3, "error")
    again = decode(encode(add))
    assert isinstance(again, Add) and again.embeddings is not None and add.embeddings is not None
    for name in ("texts", "ids", "metadata", "pool_factor", "on_duplicate"):
        assert getattr(again, name) == getattr(add, name)
    assert torch.equal(again.embeddings.values, add.embeddings.values)
    assert torch.equal(again.embeddings.offsets, add.embeddings.offsets)


@given(UNICODE.map(lambda name: "a = :" + "x" + "b" * len(name)), st.dictionaries(UNICODE, JSON))
def test_changes_come_back(condition: str, updates: dict[str, Any]) -> None:
    for operation in (Delete(condition, {"x": 1.5}), UpdateMetadata(condition, updates, [None, True, 2**70, "é"])):
        assert decode(encode(operation)) == operation


@pytest.mark.parametrize(
    ("operation", "error"),
    [
        (Add(texts=["half a \ud800 character"]), UserError),
        (Add(texts=["a"], metadata=[{"a": float("nan")}]), TypeError),
        (Add(texts=["a"], metadata=[{"a": {1, 2}}]), TypeError),
        (Delete("a = ?", [b"bytes"]), TypeError),  # type: ignore[list-item]
        (UpdateMetadata("a = 1", {"b": object()}), TypeError),
    ],
)
def test_what_json_cannot_hold_is_refused(
    operation: Operation, error: type[Exception], opened: Open, tmp_path: Path
) -> None:
    queue = opened(tmp_path / "log")
    with pytest.raises(error):
        queue.submit(operation)
    assert len(queue) == 0


def test_a_queue_remembers_tasks_and_keys(opened: Open, tmp_path: Path) -> None:
    queue = opened(tmp_path / "log")
    tasks = [queue.submit(delete(number), f"key {number}") for number in range(4)]
    first, second, *_ = queue.take(1 << 20, 0, 0)
    queue.finish(first, generation=1, count=7)
    queue.finish(second, generation=1, error="it failed")
    queue.close()

    queue = opened(tmp_path / "log", Applied(queue.log_id, 3))
    found = [queue.task(task.id) for task in tasks]
    assert [(task.state, task.generation, task.count, task.error) for task in found] == [
        ("done", 1, 7, None),
        ("failed", 1, 0, "it failed"),
        ("done", 1, None, None),  # the index contains it, and the log did not say so
        ("queued", None, None, None),
    ]
    assert [entry.task.id for entry in queue.take(1 << 20, 0, 0)] == [tasks[3].id]
    for number, task in enumerate(found):
        assert queue.submit(delete(number), f"key {number}") == task
    with pytest.raises(KeyReused):
        queue.submit(delete(9), "key 0")
    assert queue.submit(delete(9), "key 9").id == f"{queue.log_id}-5"


def test_old_tasks_are_forgotten(opened: Open, tmp_path: Path) -> None:
    queue = opened(tmp_path / "log", remembered=3)
    tasks = [queue.submit(delete(number), f"key {number}") for number in range(5)]
    for entry in queue.take(1 << 20, 0, 0):
        queue.finish(entry, generation=1)
    with pytest.raises(UnknownTask, match="the last 3 are remembered"):
        queue.task(tasks[1].id)
    assert queue.task(tasks[2].id).state == "done"
    assert queue.submit(delete(0), "key 0").id == f"{queue.log_id}-6"
    assert REMEMBERED == 10_000


def test_the_log_is_made_shorter(opened: Open, tmp_path: Path) -> None:
    queue = opened(tmp_path / "log", growth=5_000)
    sizes = []
    for number in range(60):
        queue.submit(Delete("a = ?", ["x" * 500]), f"key {number}")
        [entry] = queue.take(1 << 20, 0, 0)
        queue.finish(entry, generation=1)
        sizes.append((tmp_path / "log").stat().st_size)
    assert any(after < before for before, after in pairwise(sizes)) and max(sizes) < 60 * 900
    queue.close()
    queue = opened(tmp_path / "log", Applied(queue.log_id, 60))
    assert queue.submit(Delete("a = ?", ["x" * 500]), "key 0").state == "done" and len(queue) == 0


def test_a_log_that_is_ahead_of_its_index_is_refused(opened: Open, tmp_path: Path) -> None:
    queue = opened(tmp_path / "log")
    for number in range(3):
        queue.submit(delete(number))
    for entry in queue.take(1 << 20, 0, 0):
        queue.finish(entry, generation=entry.number)
    queue.close()
    for applied in (None, Applied(queue.log_id, 2), Applied("another log", 9)):
        with pytest.raises(DamagedLog, match=r"has applied 3 operations and the index contains \d of them"):
            opened(tmp_path / "log", applied)


def test_a_full_queue_and_an_ending_server_refuse(opened: Open, tmp_path: Path) -> None:
    queue = opened(tmp_path / "log", max_operations=2)
    queue.submit(delete(1))
    queue.submit(delete(2))
    with pytest.raises(Busy, match=r"2 operations with .* bytes wait"):
        queue.submit(delete(3))
    queue.stall("the disk is full")
    with pytest.raises(StorageFull, match="the disk is full"):
        queue.submit(delete(3))
    queue.stop()
    with pytest.raises(Closing):
        queue.submit(delete(3))


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_nothing_is_acknowledged_that_is_not_on_the_disk(
    call: str, opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    queue = opened(path)
    queue.submit(delete(1), "first")
    size = path.stat().st_size
    with monkeypatch.context() as full:
        if call == "fsync":
            full.setattr(os, "fsync", _no_space)
        else:
            limit = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, limit[1]))
        try:
            with pytest.raises(StorageFull, match="the disk is full"):
                queue.submit(delete(2), "second")
        finally:
            if call == "write":
                resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert len(queue) == 1
    assert queue.submit(delete(2), "second").id.endswith("-3" if call == "fsync" else "-2")
    assert queue.submit(delete(3)).state == "queued"
    queue.close()
    again = opened(path)
    assert [decode(entry.data) for entry in again.take(1 << 20, 0, 0)] == [delete(1), delete(2), delete(3)]


def _no_space(handle: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_attempts_are_counted_over_processes_and_taken_alone(opened: Open, tmp_path: Path) -> None:
    """What a killed process was applying comes alone, with its count; what it had not begun is taken together."""
    path = tmp_path / "log"
    queue = opened(path)
    for number in range(3):
        queue.submit(delete(number))
    queue.begin(queue.take(1 << 20, 0, 0)[:2])  # and now the process is killed
    for attempts in (1, 2):
        queue = opened(path)
        [first] = queue.take(1 << 20, 0, 0)
        assert (first.number, first.attempts) == (1, attempts)
        queue.begin([first])
    queue.forgive()  # this process was told to end
    queue = opened(path, growth=-(1 << 20))
    [first] = queue.take(1 << 20, 0, 0)
    assert first.attempts == 2
    queue.finish(first, generation=1)  # writes the log anew
    queue = opened(path, Applied(queue.log_id, 1))
    [second] = queue.take(1 << 20, 0, 0)
    assert (second.number, second.attempts) == (2, 1)
    queue.finish(second, generation=2)
    assert [(entry.number, entry.attempts) for entry in queue.take(1 << 20, 0, 0)] == [(3, 0)]


def test_a_log_of_the_first_version_is_read_and_written_anew(opened: Open, tmp_path: Path) -> None:
    path = tmp_path / "log"
    task = {"id": "a-1", "kind": "delete"}
    entry = pack({"number": 1, "task": task, "key": "k", "digest": "d"}, encode(delete(1)))
    write_log(path, [pack({"version": 1, "id": "a"}), entry])
    queue = opened(path)
    assert len(queue) == 1 and queue.task("a-1").state == "queued"
    log, contents = open_log(path)
    log.close()
    assert unpack(contents[0])[0] == {"version": 2, "id": "a"}
    write_log(path, [pack({"version": 3, "id": "a"})])
    with pytest.raises(DamagedLog, match="version 3 and this colbertz reads 2"):
        opened(path)
