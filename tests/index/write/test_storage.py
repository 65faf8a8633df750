"""Changing an index: what each change does, which processes see it when, and what kills and full disks do to it."""

import io
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from crashes import tries

from colbertz import Index, Ragged
from colbertz.index import Hit
from colbertz.index.store.checksums import checksum
from colbertz.index.store.document_writer import write_documents
from colbertz.index.store.layout import SegmentFiles
from colbertz.index.store.manifest import Manifest
from colbertz.index.store.words import UNICODE61
from colbertz.index.write import checked_json

DIM = 16


def random_ragged(lengths: list[int], seed: int = 0) -> Ragged:
    values = torch.randn(sum(lengths), DIM, generator=torch.Generator().manual_seed(seed))
    return Ragged.from_lengths(torch.nn.functional.normalize(values, dim=1), lengths)


def ids_of(index: Index) -> list[str]:
    """All ids, in the order of the documents: equal scores come in that order."""
    return [hit.id for hit in index.search(Ragged.from_lengths(torch.zeros(1, DIM), [1]), k=1000)[0]]


def hit(index: Index, id: str) -> Hit:
    (found,) = index.search(random_ragged([2], seed=9), subset=[id])[0]
    return found


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture
def index(tmp_path: Path) -> Index:
    """Documents "0" to "7", with texts."""
    return Index.build(tmp_path / "index", random_ragged([3, 1, 5, 2] * 2), texts=[f"text {i}" for i in range(8)])


# -- what changes mean -----------------------------------------------------------------------------------------------


def test_added_documents_come_last_with_the_next_numbers(index: Index) -> None:
    index.add(random_ragged([2, 3], seed=1), texts=["a", "b"])
    assert ids_of(index) == [str(i) for i in range(10)]
    assert hit(index, "9").text == "b"
    index.delete(["9", "8", "3"])
    index.add(random_ragged([2], seed=2))
    assert ids_of(index) == ["0", "1", "2", "4", "5", "6", "7", "10"], "numbers are not given twice"
    for retrain in (False, True):
        index.delete([ids_of(index)[-1]])
        index.compact(retrain=retrain)
        index.add(random_ragged([2], seed=3))
    assert ids_of(index)[-1] == "12"


@pytest.mark.parametrize("on_duplicate", ["error", "replace"])
def test_generated_ids_never_meet_ids_that_were_given(on_duplicate: Any, tmp_path: Path) -> None:
    """Numbers that are ids already are skipped, also those of deleted documents; nothing is replaced."""
    index = Index.build(tmp_path / "index", random_ragged([2] * 3), ids=["a", "3", "4"], texts=["a", "three", "four"])
    index.add(random_ragged([2] * 2, seed=1), texts=["x", "y"], on_duplicate=on_duplicate)
    assert ids_of(index) == ["a", "3", "4", "5", "6"]
    assert [document.text for document in index] == ["a", "three", "four", "x", "y"]
    index.add(random_ragged([1] * 3, seed=2), ids=["8", "07", "9"])
    index.delete(["8"])
    # The second 7 is another id than 07; 8 is deleted, and 9 is there.
    index.add(random_ragged([1] * 3, seed=3), on_duplicate=on_duplicate)
    assert ids_of(index) == ["a", "3", "4", "5", "6", "07", "9", "10", "11", "12"]
    index.compact()
    index.add(random_ragged([1], seed=4))
    assert ids_of(index)[-1] == "13"


def test_an_index_whose_next_number_is_a_given_id(index: Index) -> None:
    """Versions before counted documents only, so an index of theirs may have a document with the next number."""
    index.add(random_ragged([2, 2], seed=1), ids=["8", "9"])
    replace(index.manifest, next_number=8).save(index.path)
    old = Index.open(index.path)
    old.add(random_ragged([2, 2], seed=2))
    assert ids_of(old) == [str(i) for i in range(12)]


def test_ids_that_the_index_has_already(index: Index) -> None:
    before = files(index.path)
    with pytest.raises(ValueError, match=r"already has a document '2'; give the new one another id\Z"):
        index.add(random_ragged([2, 2]), ids=["new", "2"])
    with pytest.raises(ValueError, match="documents 0 and 1 have the same id 'new'"):
        index.add(random_ragged([2, 2]), ids=["new", "new"], on_duplicate="replace")
    with pytest.raises(ValueError, match='on_duplicate must be "error" or "replace", got \'ignore\''):
        index.add(random_ragged([2]), on_duplicate="ignore")  # type: ignore[arg-type]
    assert files(index.path) == before

    index.add(random_ragged([2, 2], seed=1), ids=["new", "2"], texts=["n", "second"], on_duplicate="replace")
    assert ids_of(index) == ["0", "1", "3", "4", "5", "6", "7", "new", "2"]
    assert hit(index, "2").text == "second"
    assert len(index) == 9


def test_update_replaces_everything_of_a_document(index: Index) -> None:
    new = random_ragged([4], seed=1)
    index.update(new, ids=["5"], metadata=[{"x": 1}])
    found = hit(index, "5")
    assert (found.text, found.metadata) == (None, {"x": 1})
    assert index.token_scores(new[0], "5").shape == (4, 4)
    assert index.search(new, k=1)[0][0].id == "5"
    before = files(index.path)
    with pytest.raises(KeyError, match="no document 'x' to update; use add"):
        index.update(random_ragged([2, 2]), ids=["5", "x"])
    assert files(index.path) == before


def test_deleted_documents_are_not_found_and_can_come_back(index: Index) -> None:
    assert index.delete(["2", "6", "2"]) == 2
    assert ids_of(index) == ["0", "1", "3", "4", "5", "7"]
    assert index.search_text(["text"], k=10)[0] == index.search_text(["text"], k=10, subset=ids_of(index))[0]
    before = files(index.path)
    for ids in (["2"], ["0", "2"]):
        with pytest.raises(KeyError, match="has no document '2'"):
            index.delete(ids)
    with pytest.raises(TypeError, match="got the string '0'"):
        index.delete("0")
    assert index.delete([]) == 0
    assert files(index.path) == before
    index.add(random_ragged([2], seed=1), ids=["2"], texts=["again"])
    assert ids_of(index) == ["0", "1", "3", "4", "5", "7", "2"]
    assert hit(index, "2").text == "again"


def test_an_index_may_lose_all_documents(index: Index) -> None:
    index.delete(ids_of(index))
    queries = random_ragged([2, 3])
    assert len(index) == 0
    assert index.search(queries) == index.search(queries, exact=True) == [[], []]
    assert index.search_text(["text"]) == [[]]
    with pytest.raises(KeyError):
        index.search(queries, subset=["0"])
    with pytest.raises(ValueError, match="has no documents left"):
        index.compact()
    index.add(random_ragged([2], seed=1))
    assert ids_of(Index.open(index.path)) == ["8"]


@pytest.mark.parametrize(
    ("show_progress", "terminal", "shown"),
    [(None, True, False), (None, False, False), (True, False, True), (True, True, True), (False, True, False)],
)
def test_the_bar_of_compacting(
    show_progress: bool | None, terminal: bool, shown: bool, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None shows a bar only for what takes longer than this."""
    stderr = io.StringIO()
    monkeypatch.setattr(stderr, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stderr", stderr)
    index.compact(show_progress=show_progress)
    assert ("compacting" in stderr.getvalue()) == shown


@pytest.mark.parametrize("retrain", [False, True])
def test_compacting_keeps_what_is_there(index: Index, retrain: bool) -> None:
    index.add(random_ragged([4, 4], seed=1), texts=["a", "b"], metadata=[{"x": 1}, {"x": 2}])
    index.delete(["1", "8"])
    queries = random_ragged([3, 4], seed=2)
    before = index.search(queries, k=100)
    index.compact(retrain=retrain)
    assert len(index.manifest.segments) == 1
    assert index.num_tokens == 3 + 5 + 2 + 3 + 1 + 5 + 2 + 4
    index.check()
    for hits, expected in zip(index.search(queries, k=100), before, strict=True):
        if retrain:
            for one, other in zip(sorted(hits, key=lambda h: h.id), sorted(expected, key=lambda h: h.id), strict=True):
                assert (one.id, one.text, one.metadata) == (other.id, other.text, other.metadata)
                assert one.score == pytest.approx(other.score, abs=0.3)
        else:
            assert hits == expected


def test_advice(index: Index, caplog: pytest.LogCaptureFixture) -> None:
    assert index.advice() is None
    index.delete(["0", "1", "2"])
    assert index.advice() == "38% of its documents are deleted; compact it"
    index.add(random_ragged([20] * 6, seed=1))
    assert "compact it with retrain" in caplog.text
    index.compact(retrain=True)
    assert index.advice() is None


# -- which processes see it when -------------------------------------------------------------------------------------


def in_another_process(function: Callable[..., None], *arguments: Any) -> None:
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    process.start()
    process.join(60)
    assert process.exitcode == 0


def change_everything(root: Path) -> None:
    index = Index.open(root)
    index.add(random_ragged([2, 2], seed=1))
    index.delete(["0"])
    index.compact()
    index.compact(retrain=True)
    Index.build(root, random_ragged([5, 6], seed=2), ids=["x", "y"], texts=["new", None], overwrite=True)


def test_an_open_index_is_a_snapshot(index: Index) -> None:
    queries = random_ragged([3, 4], seed=3)
    answers, texts = index.search(queries, k=100), index.search_text(["text"], k=100)
    other = Index.open(index.path)
    in_another_process(change_everything, index.path)
    assert index.search(queries, k=100) == answers
    assert index.search_text(["text"], k=100) == texts
    assert index.search(queries, k=100, exact=True, where="text = 'text 4'")[0][0].id == "4"
    assert other.refresh()
    assert not other.refresh()
    assert ids_of(other) == ["x", "y"]
    assert {path.name for path in index.path.iterdir()} == {"manifest.json", "codec-000006", "segment-000006"}


def write_often(root: Path) -> None:
    for number in range(8):
        index = Index.open(root)
        index.add(random_ragged([2, 3], seed=number), ids=[f"a{number}", f"b{number}"])
        index.delete([f"a{number}"])
        if number % 2:
            index.compact(retrain=number % 4 == 3)


def read_until(root: Path, last: str) -> None:
    """Every state that is seen is one that was written, and none is seen after a later one."""
    before: list[str] = []
    while last not in before:
        found = ids_of(Index.open(root))
        added = [id for id in found if id.startswith("b")]
        assert added == [f"b{number}" for number in range(len(added))]
        assert len([id for id in found if id.startswith("a")]) <= 1
        assert len(found) >= len(before) - 1
        before = found


def test_readers_beside_a_writer(index: Index) -> None:
    context = multiprocessing.get_context("spawn")
    readers = [context.Process(target=read_until, args=(index.path, "b7")) for _ in range(2)]
    writer = context.Process(target=write_often, args=(index.path,))
    for process in (*readers, writer):
        process.start()
    for process in (writer, *readers):
        process.join(60)
        assert process.exitcode == 0


def test_only_one_process_writes_at_a_time(index: Index) -> None:
    def slow_batches() -> Any:
        yield random_ragged([3], seed=1)
        for change in (
            lambda: Index.build(index.path, random_ragged([3]), overwrite=True),
            lambda: index.add(random_ragged([3])),
            lambda: index.delete(["0"]),
            index.compact,
        ):
            with pytest.raises(BlockingIOError, match="another process is writing the index"):
                change()

    index.add(slow_batches())
    assert len(index) == 9


def hold_and_die(root: Path) -> None:
    def batches() -> Any:
        yield random_ragged([3], seed=1)
        os.kill(os.getpid(), signal.SIGKILL)

    Index.open(root).add(batches())


def test_the_lock_of_a_killed_writer_is_free(index: Index) -> None:
    before = ids_of(index)
    process = multiprocessing.get_context("spawn").Process(target=hold_and_die, args=(index.path,))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert (index.path / "segment-000002").exists()
    assert ids_of(Index.open(index.path)) == before
    index.add(random_ragged([3], seed=1))
    assert len(index) == 9


# -- killed, interrupted, out of space -------------------------------------------------------------------------------


def crash(failure: str, root: Path, *operations: str, mount: bool = False) -> dict[str, list[dict[str, Any]]]:
    """Fail later each time; for each operation, one entry for each try (see crash.py)."""
    script = 'mount -t tmpfs -o size=2m none "$0" && exec "$@"'
    mounted = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, str(root)]
    return tries(Path(__file__).with_name("crash.py"), failure, root, *operations, inside=mounted if mount else ())


# Steps leave out some points, which are other lines and other operations of the same kinds.
@pytest.mark.parametrize(
    ("failure", "operations", "at_least"),
    [
        ("kill", ["first:12", "rebuild:8", "add:5", "update:8", "delete:2", "thin:4", "compact:3", "retrain:9"], 160),
        ("interrupt", ["rebuild:30", "add:10", "delete:8", "thin:10", "compact:6", "retrain:30"], 45),
    ],
)
def test_killed_or_interrupted_anywhere(failure: str, operations: list[str], at_least: int, tmp_path: Path) -> None:
    """Interrupts between the rename and the end of the clean-up once removed the new segment."""
    tries = crash(failure, tmp_path, *operations)
    assert sum(map(len, tries.values())) > at_least
    for operation, entries in tries.items():
        outcomes = [entry["found"] for entry in entries]
        merges = operation in ("add", "thin")
        expected = ["old", "unmerged", "new"] if merges else ["old", "new"]
        assert outcomes == sorted(outcomes, key=expected.index), "each state until the rename to the next"
        assert set(outcomes) == set(expected)
        assert all(entry["repaired"] for entry in entries), "the next writer leaves exactly the files that it should"
        if failure == "interrupt" and operation not in ("rebuild", "retrain"):
            assert all(entry["unchanged"] for entry in entries if entry["found"] == "old")


@pytest.mark.parametrize("failure", ["limit", "space"])
def test_a_full_disk_is_an_error_and_changes_nothing(failure: str, tmp_path: Path) -> None:
    mount = failure == "space"
    if mount and not can_mount(tmp_path):
        pytest.skip("this system lets only root mount a small disk")
    operations = ("rebuild:5", "add:5", "delete:1", "thin:1", "compact:5")
    for operation, entries in crash(failure, tmp_path, *operations, mount=mount).items():
        *failed, done = entries
        assert (done["found"], done["error"]) == ("new", None)
        assert len(failed) >= 2
        for entry in failed:
            assert (entry["error"], entry["found"]) in [("OSError", "old"), (None, "unmerged")]
            assert entry["repaired"]
            assert entry["unchanged"] or operation == "rebuild" or entry["found"] == "unmerged", (
                "what a build has stored stays, to be continued"
            )


def can_mount(folder: Path) -> bool:
    command = ["unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "none", str(folder)]
    return shutil.which("unshare") is not None and subprocess.run(command, capture_output=True).returncode == 0


def test_a_killed_compaction_does_not_go_into_another_build(index: Index) -> None:
    """Its chunks of decoded embeddings were once taken for those of a build, because documents had the same ids."""

    def kill_before_training(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "os.mkdir" and str(arguments[0]).endswith("build/codec"):
            os._exit(9)

    pid = os.fork()
    if pid == 0:
        try:
            torch.set_num_threads(1)
            sys.addaudithook(kill_before_training)
            index.compact(retrain=True)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    assert (index.path / "build/chunks/000000.json").exists()
    documents = random_ragged([3, 1, 5, 2] * 2, seed=5)
    texts = [f"text {i}" for i in range(8)]
    rebuilt = Index.build(index.path, lambda first: [documents[first:]], texts=texts, overwrite=True)
    clean = Index.build(index.path.with_name("clean"), documents, texts=texts)
    assert np.array_equal(
        np.load(index.path / rebuilt.manifest.segments[0].name / "residuals.npy"),
        np.load(clean.path / clean.manifest.segments[0].name / "residuals.npy"),
    )


def test_a_build_that_is_done_but_not_removed_is_removed_by_the_next_writer(index: Index) -> None:
    shutil.copytree(index.path, index.path.with_name("copy"))
    (index.path / "build/chunks").mkdir(parents=True)
    (index.path / "build/chunks/000000.npy").write_bytes(b"large")
    checked_json.save(index.path / "build/progress.json", {"generation": Manifest.load(index.path).generation})
    index.delete([])
    assert files(index.path) == files(index.path.with_name("copy"))


def split_as_before(index: Index) -> Index:
    """The same index with words of unicode61, as versions before wrote it."""
    checksums = dict(index.manifest.files)
    for info, segment in zip(index.manifest.segments, index.snapshot.segments):
        documents, path = list(segment.documents), SegmentFiles(index.path / info.name).documents
        path.unlink()
        with write_documents(path, splitter=UNICODE61) as writer:
            writer.add(documents)
        checksums[str(path.relative_to(index.path))] = checksum(path)
    replace(index.manifest, files=checksums).save(index.path)
    return Index.open(index.path)


def test_an_old_index_is_searched_as_it_was_split_until_it_is_compacted(tmp_path: Path) -> None:
    old = split_as_before(
        Index.build(tmp_path / "index", random_ragged([3, 2]), texts=["東京タワーは赤い", "red tower"])
    )
    assert old.search_text(["東京"]) == [[]]
    assert old.search_text(["tower"])[0][0].id == "1"
    assert "words were split by an older version; compact it" in (old.advice() or "")
    old.add(random_ragged([2, 1], seed=1), texts=["東京の夜", "a tower"])
    assert [hit.id for hit in old.search_text(["東京"])[0]] == ["2"]
    assert {hit.id for hit in old.search_text(["tower"])[0]} == {"1", "3"}
    queries = random_ragged([3], seed=2)
    assert {hit.id for hit in old.search_hybrid(queries, ["東京 tower"], k=4)[0]} == {"0", "1", "2", "3"}
    old.compact()
    assert {hit.id for hit in old.search_text(["東京"])[0]} == {"0", "2"}
    assert old.advice() is None
    texts = [document.text for document in old]
    new = Index.build(tmp_path / "new", random_ragged([3, 2, 2, 1]), texts=texts)
    for query in ("東京", "tower", "赤い red"):
        assert old.search_text([query]) == new.search_text([query])
