"""A root of indexes: names, declaring and dropping, one server at a time, restarts, full disks, compacting."""

import errno
import os
import shutil
import time
from pathlib import Path

import pytest
from embeddings import unit_texts

from colbertz import Index
from colbertz.errors import UserError
from colbertz.index.store.manifest import Manifest
from colbertz.server.config import IndexConfig, Limits
from colbertz.server.errors import Closing, DamagedLog, IndexExists, RootInUse, StorageFull, UnknownIndex
from colbertz.server.operations import Add, Delete
from colbertz.server.root import Root
from colbertz.server.served import ServedIndex

SECONDS = 60


def add(index: ServedIndex, count: int, seed: int = 0) -> None:
    task = index.submit(Add(embeddings=unit_texts([3] * count, seed=seed)))
    assert index.wait(task.id, SECONDS).state == "done"


@pytest.mark.parametrize("name", ["", ".", "..", "../a", "a/b", ".server", "a b", "é", "a\n", "x" * 129, "-a"])
def test_names_never_leave_the_root(name: str, root: Root) -> None:
    with pytest.raises(UserError, match="an index cannot be called"):
        root.declare(name)
    with pytest.raises(UnknownIndex):
        root.index(name)
    with pytest.raises(UnknownIndex):
        root.drop(name)


def test_indexes_are_declared_dropped_and_declared_again(root: Root) -> None:
    add(root.declare("a"), 3)
    root.declare("b", IndexConfig(max_documents=7))
    assert root.names() == ["a", "b"] and root.index("b").config.max_documents == 7
    with pytest.raises(IndexExists, match="'a' already"):
        root.declare("a")
    view = root.index("a").snapshot()
    root.drop("a")
    assert root.names() == ["b"] and [path.name for path in root.folder.iterdir()] == [".server"]
    with pytest.raises(UnknownIndex):
        root.index("a")
    assert len(view.search(unit_texts([2]), k=3)[0]) == 3, "a snapshot stays usable"
    again = root.declare("a")
    assert len(again.snapshot()) == 0
    add(again, 1)


def test_an_index_that_was_half_dropped_is_dropped_at_the_next_start(tmp_path: Path) -> None:
    root = Root.open(tmp_path)
    add(root.declare("a"), 3)
    add(root.declare("b"), 3)
    root.close(SECONDS)
    (tmp_path / "a").rename(tmp_path / ".server" / "a" / "dropped")
    root = Root.open(tmp_path)
    assert root.names() == ["b"] and sorted(path.name for path in (tmp_path / ".server").iterdir()) == ["b", "lock"]
    root.close()


def test_a_second_server_is_told(root: Root) -> None:
    with pytest.raises(RootInUse, match=f"is served by process {os.getpid()} already"):
        Root.open(root.folder)


def test_an_index_that_was_built_by_other_means_is_served(tmp_path: Path) -> None:
    Index.build(tmp_path / "built", unit_texts([3, 4]), ids=["x", "y"], nbits=2)
    root = Root.open(tmp_path)
    index = root.index("built")
    assert index.config.nbits == 2 and index.snapshot().generation == 1
    assert Manifest.load(tmp_path / "built").applied is None
    add(index, 1)
    assert index.snapshot().matching() == ["x", "y", "2"]
    root.close(SECONDS)
    assert Manifest.load(tmp_path / "built").applied is not None


def test_what_waits_when_the_server_ends_is_applied_at_the_next_start(tmp_path: Path) -> None:
    root = Root.open(tmp_path, limits=Limits(linger_ms=60_000))
    index = root.declare("a")
    task = index.submit(Add(embeddings=unit_texts([3])), key="k")
    root.close(0)
    with pytest.raises(Closing):
        index.submit(Delete("id = '0'"))
    root = Root.open(tmp_path)
    index = root.index("a")
    assert index.wait(task.id, SECONDS).state == "done"
    assert index.submit(Add(embeddings=unit_texts([3])), key="k").id == task.id and len(index.snapshot()) == 1
    root.close(SECONDS)


def test_closing_drains(tmp_path: Path) -> None:
    root = Root.open(tmp_path)
    index = root.declare("a")
    tasks = [index.submit(Add(embeddings=unit_texts([3]))) for _ in range(5)]
    root.close(SECONDS)
    assert {index.task(task.id).state for task in tasks} == {"done"}


def test_a_damaged_log_is_named_and_the_other_indexes_are_served(tmp_path: Path) -> None:
    root = Root.open(tmp_path)
    add(root.declare("good"), 2)
    add(root.declare("bad"), 2)
    root.close(SECONDS)
    log = tmp_path / ".server" / "bad" / "operations.log"
    content = bytearray(log.read_bytes())
    content[30] ^= 1
    log.write_bytes(content)
    root = Root.open(tmp_path)
    assert len(root.index("good").snapshot()) == 2
    with pytest.raises(DamagedLog, match=r"bad/operations\.log is damaged"):
        root.index("bad")
    root.close()


def test_an_index_from_an_older_backup_is_refused(tmp_path: Path) -> None:
    root = Root.open(tmp_path)
    add(root.declare("a"), 2)
    root.close(SECONDS)
    shutil.copytree(tmp_path / "a", tmp_path / ".server" / "backup")
    root = Root.open(tmp_path)
    add(root.index("a"), 2, seed=1)
    root.close(SECONDS)
    shutil.rmtree(tmp_path / "a")
    (tmp_path / ".server" / "backup").rename(tmp_path / "a")
    root = Root.open(tmp_path)
    with pytest.raises(DamagedLog, match="has applied 2 operations and the index contains 1 of them"):
        root.index("a")
    root.close()


def test_a_full_disk_loses_nothing(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    index = root.declare("a")
    add(index, 2)
    full = True

    def fsync(handle: int) -> None:
        if full and (root.folder / "a") in Path(f"/proc/self/fd/{handle}").readlink().parents:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    waiting = [index.submit(Add(embeddings=unit_texts([3], seed=1)), key="first")]
    deadline = time.monotonic() + SECONDS
    with pytest.raises(StorageFull, match="No space left"):
        while time.monotonic() < deadline:
            waiting.append(index.submit(Delete("id = 'nobody'")))
            time.sleep(0.01)
    assert len(index.snapshot()) == 2 and index.task(waiting[0].id).state == "queued"
    full = False
    assert {index.wait(task.id, SECONDS).state for task in waiting} == {"done"}
    assert len(index.snapshot()) == 3
    add(index, 1, seed=2)


def test_an_index_is_compacted_when_it_advises_that(tmp_path: Path) -> None:
    root = Root.open(tmp_path)
    index = root.declare("a")
    add(index, 4)
    for seed in range(1, 8):
        add(index, 16, seed)
    deadline = time.monotonic() + SECONDS
    while (found := index.snapshot().index) is None or found.advice() is not None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert found.manifest.trained_on > 12 and len(found) == 116 and found.manifest.applied is not None
    add(index, 1, seed=9)
    root.close(SECONDS)
    assert len(Index.open(tmp_path / "a")) == 117


def test_an_older_program_refuses_an_index_that_a_server_wrote(root: Root) -> None:
    """It would write a manifest without `applied`, and operations would be applied twice."""
    add(root.declare("a"), 2)
    assert '"version": 4' in (root.folder / "a" / "manifest.json").read_text()
