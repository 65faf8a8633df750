"""A folder's index follows the folder: what is encoded again, and what can be found at any moment."""

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from colbertz import Index
from colbertz.corpus.folder.walk import WalkOptions
from colbertz.errors import UserError
from colbertz.folders import encoding
from colbertz.folders.folder import INDEX, Folder
from colbertz.folders.messages import FolderHit, SearchRequest
from colbertz.folders.state import State
from colbertz.index.write.commit import only_writer


def search(folder: Folder, query: str, **options: object) -> list[FolderHit]:
    request = SearchRequest(str(folder.root), (query,), **options)  # type: ignore[arg-type]
    return list(folder.search(request).results[0].hits)


def paths(folder: Folder, query: str, **options: object) -> set[str]:
    return {hit.path for hit in search(folder, query, k=100, per_file=0, **options)}


def fresh(folder: Folder, checkpoint: Path, tmp_path: Path) -> set[tuple[object, ...]]:
    """What an index that is built anew has: file, lines, heading and kind of each chunk."""
    new = Folder.open(folder.root, tmp_path / f"fresh-{time.time_ns()}", str(checkpoint))
    new.update()
    return chunks_of(new)


def chunks_of(folder: Folder) -> set[tuple[object, ...]]:
    with State(folder.home) as state:
        return set(
            state.rows(
                'SELECT files.path, chunk, "start", "end", refs.heading, kind, words.body FROM refs'
                " JOIN files ON files.id = refs.file JOIN words ON words.rowid = refs.id"
            )
        )


def test_everything_is_found_and_nothing_is_encoded_twice(folder: Folder) -> None:
    assert paths(folder, "parse a date") == {
        "src/dates.py", "src/retry.py", "tests/test_dates.py", "README.md", "notes.txt",
    }  # fmt: skip
    done = folder.update()
    assert (done.changed, done.removed, done.encoded, done.pending) == (0, 0, 0, 0)
    status = folder.status()
    assert status.files == 5
    assert status.pending == status.kept == 0
    assert status.chunks == len(Index.open(folder.home / INDEX))


def test_only_changed_chunks_are_encoded(folder: Folder, root: Path, checkpoint: Path, tmp_path: Path) -> None:
    path = root / "src/dates.py"
    path.write_text(path.read_text().replace("How many days lie", "Count the days that lie"))
    done = folder.update()
    assert (done.changed, done.encoded) == (1, 1)
    assert chunks_of(folder) == fresh(folder, checkpoint, tmp_path)
    assert search(folder, "Count the days that lie", k=1)[0].path == "src/dates.py"


def test_renames_copies_and_branches_encode_nothing(
    folder: Folder, root: Path, checkpoint: Path, tmp_path: Path
) -> None:
    (root / "src/dates.py").rename(root / "src/calendar.py")
    shutil.copy(root / "src/retry.py", root / "again.py")
    assert folder.update().encoded == 0
    assert "src/calendar.py" in paths(folder, "parse a date")
    assert "src/dates.py" not in paths(folder, "parse a date")
    other_branch = tmp_path / "away"
    (root / "src").rename(other_branch)
    (root / "new.py").write_text("def other():\n    return 'another branch'\n")
    assert folder.update().encoded == 1
    assert folder.status().kept > 0
    (root / "new.py").unlink()
    other_branch.rename(root / "src")
    assert folder.update().encoded == 0, "back on the first branch"
    assert chunks_of(folder) == fresh(folder, checkpoint, tmp_path)


def test_an_edit_in_the_moment_of_the_check_is_seen(folder: Folder, root: Path) -> None:
    """Same size and mtime: only the content tells, as for a racy entry of Git's index."""
    path = root / "notes.txt"
    before = path.stat()
    path.write_text(path.read_text().replace("yeast", "honey"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert folder.update().changed == 1
    assert "honey" in search(folder, "honey", k=1)[0].passage[0].text


def test_a_file_that_was_only_touched_is_not_chunked_again(folder: Folder, root: Path) -> None:
    os.utime(root / "notes.txt", (1, 1))
    assert folder.update().changed == 0
    assert folder.update().changed == 0


def test_dead_chunks_leave_the_index_after_a_while(folder: Folder, root: Path) -> None:
    before = len(Index.open(folder.home / INDEX))
    (root / "notes.txt").unlink()
    folder.update()
    assert len(Index.open(folder.home / INDEX)) == before
    with State(folder.home, writing=True) as state:
        state.connection.execute("UPDATE dead SET since = since - 100 * 86400")
    folder.update()
    assert len(Index.open(folder.home / INDEX)) == before - 1
    assert folder.status().kept == 0


def test_a_stopped_update_answers_by_words_and_continues(root: Path, tmp_path: Path, checkpoint: Path) -> None:
    folder = Folder.open(root, tmp_path / "home", str(checkpoint))
    reports: list[str] = []

    def stop() -> bool:
        return reports.count("files read") == 5

    done = folder.update(lambda done, total, what: reports.append(what), stop)
    assert done.encoded == 0
    assert done.pending == 5
    answer = folder.search(SearchRequest(str(root), ("yeast",)))
    assert answer.partial
    assert [hit.path for hit in answer.results[0].hits] == ["notes.txt"]
    assert answer.results[0].hits[0].maxsim is None
    assert folder.update().pending == 0
    assert not folder.search(SearchRequest(str(root), ("yeast",))).partial


def test_a_killed_process_has_lost_no_portion(folder: Folder, root: Path, checkpoint: Path, tmp_path: Path) -> None:
    """Killed between the commit of the index and that of the state: the chunk is in both."""
    (root / "new.txt").write_text("A text that is new.\n")
    with State(folder.home, writing=True) as state:
        folder.update(stop=lambda: True)
        state.connection.execute("INSERT INTO pending SELECT chunk, 'text' FROM refs LIMIT 1")
    done = folder.update()
    assert (done.encoded, done.pending) == (1, 0)
    assert chunks_of(folder) == fresh(folder, checkpoint, tmp_path)


def test_another_process_holds_the_lock(folder: Folder, root: Path) -> None:
    (root / "notes.txt").write_text("Something about whales.\n")
    with only_writer(folder.home):
        done = folder.update(wait=0)
        assert done.pending == 1
        assert "another process" in done.note
        answer = folder.search(SearchRequest(str(root), ("yeast",)))
        assert answer.partial
        assert "another process" in answer.note
    assert folder.update().pending == 0
    assert not folder.search(SearchRequest(str(root), ("whales",))).note


def test_two_processes_at_once(root: Path, tmp_path: Path, checkpoint: Path) -> None:
    code = (
        "import sys; from colbertz.folders.folder import Folder;"
        "f = Folder.open(*sys.argv[1:]); u = f.update(wait=60); print(u.encoded, u.pending)"
    )
    command = [sys.executable, "-c", code, str(root), str(tmp_path / "home"), str(checkpoint)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = sorted(process.communicate()[0].split() for process in running)
    chunks = str(Folder.open(root, tmp_path / "home").status().chunks)
    assert outputs == [["0", "0"], [chunks, "0"]]


def test_portions_are_committed_one_by_one(
    root: Path, tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "PORTION", 3)
    folder = Folder.open(root, tmp_path / "home", str(checkpoint))
    folder.update()
    assert chunks_of(folder) == fresh(folder, checkpoint, tmp_path)
    assert len(Index.open(folder.home / INDEX)) == folder.status().chunks


def test_a_sibling_work_tree_is_the_beginning(
    root: Path, tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    git = ["git", "-c", "user.name=n", "-c", "user.email=e@example.org", "-C", str(root)]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *arguments], check=True)
    Folder.open(root, model=str(checkpoint)).update()
    subprocess.run([*git, "worktree", "add", "-q", str(tmp_path / "tree")], check=True)
    (tmp_path / "tree" / "new.txt").write_text("Only here.\n")
    sibling = Folder.open(tmp_path / "tree")
    assert sibling.update().encoded == 1
    assert sibling.status().model == str(checkpoint.resolve())
    assert "new.txt" in paths(sibling, "only here")
    assert "new.txt" not in paths(Folder.open(root), "only here"), "each has its own index"


def test_which_files_count_is_remembered(folder: Folder, root: Path) -> None:
    folder.update(options=WalkOptions(exclude=("tests/",)))
    assert "tests/test_dates.py" not in paths(folder, "parse a date")
    (root / "other.txt").write_text("More.\n")
    folder.update()
    assert "tests/test_dates.py" not in paths(folder, "parse a date")


def test_another_model_is_refused(folder: Folder) -> None:
    other = Folder.open(folder.root, folder.home, "colbertz/nano")
    with pytest.raises(UserError, match="colbertz clear"):
        other.update()


def test_an_open_folder_sees_that_the_index_was_cleared_and_built_again(
    folder: Folder, root: Path, checkpoint: Path
) -> None:
    assert search(folder, "yeast")
    other = Folder.open(root, folder.home, str(checkpoint))
    assert other.clear()
    assert not other.clear()
    assert not folder.exists
    (root / "notes.txt").write_text("Something about whales.\n")
    other.update()
    assert "whales" in search(folder, "whales", k=1)[0].passage[0].text


def test_damage_is_said(folder: Folder) -> None:
    state = folder.home / "folder.sqlite"
    sqlite3.connect(state).execute("PRAGMA wal_checkpoint(TRUNCATE)").connection.close()
    state.write_bytes(b"nothing like a database" * 100)
    with pytest.raises(UserError, match="colbertz clear"):
        folder.update()
    assert folder.clear()
    assert folder.update().pending == 0
