"""What writers remove: files that colbertz made, and never another file, whatever folder it is in."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from colbertz import Index, Ragged
from colbertz.index.interop.convert import convert

DIM = 16
MINE = "not an index: the user's"


def embeddings(lengths: list[int], seed: int = 0) -> Ragged:
    values = torch.randn(sum(lengths), DIM, generator=torch.Generator().manual_seed(seed))
    return Ragged.from_lengths(torch.nn.functional.normalize(values, dim=1), lengths)


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return Index.build(tmp_path / "index", embeddings([3, 1, 5, 2] * 2))


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(MINE)
    return path


CHANGES: dict[str, Callable[[Index], object]] = {
    "add": lambda index: index.add(embeddings([2], 1)),
    "delete": lambda index: index.delete(["0"]),
    "compact": lambda index: index.compact(),
}
PLACES = (
    "notes.txt",
    "segment-1/notes.txt",
    "segment-000001/notes.txt",
    "segment-000001/deleted.npy",
    "segment-000001/sub/codes.npy",
    "segment-000099/recording.wav",
    "segment-000099.bak",
    "codec-000001/README.md",
    "build/Makefile",
    "build/chunks/notes.txt",
    "build/lib/codes.npy",
    "build/codec",
    ".notes.new",
)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_removes_nothing_of_the_users(change: str, index: Index) -> None:
    """The folder build/ was once removed by any change, and a segment with everything in it."""
    mine = [put(index.path / place) for place in PLACES]
    CHANGES[change](index)
    assert all(path.read_text() == MINE for path in mine)
    index.check()


def test_what_is_left_of_segments_and_builds_is_removed_beside_other_files(index: Index) -> None:
    folder = index.path / "segment-000001"
    for name in ("segment-000077", "build/segment"):
        shutil.copytree(folder, index.path / name)
    (index.path / "build/chunks").mkdir()
    (index.path / "build/chunks/000000.npy").touch()
    mine = put(index.path / "segment-000077/notes.txt")
    index.compact()
    assert not (index.path / "build").exists()
    assert not folder.exists()
    assert [path.name for path in mine.parent.iterdir()] == ["notes.txt"]


def test_a_segment_that_is_a_symbolic_link(index: Index, tmp_path: Path) -> None:
    """After a compaction that took effect, the link once made every later change fail."""
    elsewhere = tmp_path / "large-disk"
    (index.path / "segment-000001").rename(elsewhere)
    (index.path / "segment-000001").symlink_to(elsewhere)
    opened = Index.open(index.path)
    opened.compact()
    opened.add(embeddings([2], 1))
    assert not (index.path / "segment-000001").is_symlink()
    assert (elsewhere / "codes.npy").exists(), "only the link is colbertz's"
    assert len(Index.open(index.path)) == 9


@pytest.mark.parametrize("place", ["build/Makefile", "build/chunks/notes.txt", "build/codec", "build"])
@pytest.mark.parametrize("retrain", [True, False])
def test_a_build_does_not_begin_beside_other_files(retrain: bool, place: str, index: Index) -> None:
    mine = put(index.path / place)
    with pytest.raises(ValueError, match=f"{place} is not colbertz's, which builds an index in .*; move it"):
        if retrain:
            index.compact(retrain=True)
        else:
            Index.build(index.path, embeddings([2]), overwrite=True)
    assert mine.read_text() == MINE
    mine.unlink()
    index.compact(retrain=True)
    assert len(index) == 8


@pytest.mark.parametrize("place", ["segment-000001/recording.wav", "build/Makefile", "codec-000001/x265", "notes.txt"])
def test_a_first_build_refuses_folders_of_the_user(place: str, tmp_path: Path) -> None:
    """A folder with the name of a segment was once taken for a leftover, and removed."""
    mine = put(tmp_path / place)
    put(tmp_path / "segment-000002/codes.npy")
    with pytest.raises(FileExistsError, match=f"holds other files and no index, such as .*{place}; name an empty"):
        Index.build(tmp_path, embeddings([2]))
    assert mine.read_text() == MINE


def kill_at(nth: int, function: Callable[[], object]) -> bool:
    """Kill a process at the n-th file that it opens for writing, makes, renames or removes; whether it got there."""
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)  # a forked child has none of its parent's threads
        count = 0

        def audit(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal count
            writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            count += bool(writes) or event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "sqlite3.connect")
            if count == nth:
                os._exit(9)

        sys.addaudithook(audit)
        try:
            function()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@pytest.mark.parametrize("program", ["colbertz", "fast-plaid"])
def test_a_killed_conversion_does_not_block_the_next(program: str, index: Index, tmp_path: Path) -> None:
    target, nth = tmp_path / "target", 1
    while kill_at(nth, lambda: convert(index.path, target, program)):
        is_complete = target.exists() and any(target.iterdir())
        if not is_complete:
            convert(index.path, target, program)
            assert sorted(path.name for path in tmp_path.iterdir()) == ["index", "target"]
        assert Index.open(target).ids() == index.ids()
        shutil.rmtree(target)
        shutil.rmtree(tmp_path / "target.unfinished", ignore_errors=True)
        nth += 3
    assert nth > 10
    assert not (target / ".colbertz-conversion").exists()


@pytest.mark.parametrize(
    "place", ["notes.txt", "ivf.npy", "segment-000001/notes.txt", "segment-000001/codes.npy", "sub/ivf.npy", ""]
)
@pytest.mark.parametrize("marked", [True, False])
def test_a_conversion_removes_nothing_of_the_users(marked: bool, place: str, index: Index, tmp_path: Path) -> None:
    """The folder target.unfinished was once emptied, whatever was in it."""
    mine = put(tmp_path / "target.unfinished" / place)
    if marked and place:
        (tmp_path / "target.unfinished/.colbertz-conversion").touch()
    if marked and place in ("ivf.npy", "segment-000001/codes.npy"):
        convert(index.path, tmp_path / "target", "fast-plaid")
        assert not mine.exists(), "the mark and the name say that an interrupted conversion made it"
        return
    with pytest.raises(FileExistsError, match=r"target\.unfinished.* is not of an interrupted conversion.* move it"):
        convert(index.path, tmp_path / "target", "fast-plaid")
    assert mine.read_text() == MINE
    assert not (tmp_path / "target").exists()


def test_a_target_that_is_a_symbolic_link(index: Index, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    convert(index.path, tmp_path / "link", "colbertz")
    assert (tmp_path / "link").is_symlink()
    assert Index.open(tmp_path / "link").ids() == index.ids()
    assert json.loads((tmp_path / "disk/manifest.json").read_text())["generation"] == 1
