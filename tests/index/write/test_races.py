"""Processes that change one directory at the same moment: one wins, the others get a sentence, and nothing is lost."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from colbertz import Index, Ragged
from colbertz.index.interop.convert import convert
from colbertz.index.write.commit import only_writer

DIM = 16
# Races are repeated, because which process is first is chance.
ROUNDS = 5


def embeddings(lengths: list[int], seed: int = 0) -> Ragged:
    values = torch.randn(sum(lengths), DIM, generator=torch.Generator().manual_seed(seed))
    return Ragged.from_lengths(torch.nn.functional.normalize(values, dim=1), lengths)


def at_once(*functions: Callable[[], object]) -> list[str]:
    """Call each function in a process of its own, all at the same moment; "" or the exception of each."""
    start, go = os.pipe()
    children = []
    for function in functions:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            outcome = ""
            try:
                torch.set_num_threads(1)  # a forked child has none of its parent's threads
                os.close(go)
                os.read(start, 1)  # ends when the parent closes its end
                function()
            except BaseException as error:  # noqa: BLE001
                outcome = f"{type(error).__name__}: {error}"
            finally:
                os.write(write, outcome.encode())
                os._exit(0)
        os.close(write)
        children.append((child, read))
    os.close(start)
    os.close(go)
    outcomes = []
    for child, read in children:
        with os.fdopen(read) as pipe:
            outcomes.append(pipe.read())
        assert os.waitpid(child, 0)[1] == 0
    return outcomes


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of 8 documents. Opened once, so that children find everything compiled."""
    root = tmp_path_factory.mktemp("races") / "source"
    Index.build(root, embeddings([3, 1, 5, 2] * 2), texts=[f"text {i}" for i in range(8)]).add(embeddings([2], 1))
    return root


def check(root: Path) -> Index:
    index = Index.open(root)
    index.check()
    assert len(index.search(embeddings([2], 9), k=100)[0]) == len(index)
    known = {"manifest.json", index.manifest.codec, *(info.name for info in index.manifest.segments)}
    assert {path.name for path in root.iterdir()} == known
    return index


@pytest.mark.parametrize("bad", ["nan", "empty"])
def test_a_build_that_fails_leaves_the_directory_to_one_that_works(bad: str, tmp_path: Path) -> None:
    """It once removed the directory, empty as yet, that the other had just begun to fill."""
    broken = {"nan": Ragged.from_lengths(torch.full((2, DIM), torch.nan), [2]), "empty": embeddings([])}[bad]
    for number in range(ROUNDS):
        root = tmp_path / str(number) / "new"

        def fail(root: Path = root) -> None:
            Index.build(root, broken)

        def work(root: Path = root) -> None:
            while True:
                try:
                    Index.build(root, embeddings([3, 2]))
                except BlockingIOError:
                    continue
                break

        good, *failed = at_once(work, fail, fail, fail)
        assert not good
        assert all(error.startswith(("UserError", "BlockingIOError", "FileExistsError")) for error in failed), failed
        check(root)


def test_a_lock_on_a_directory_that_was_removed_is_none(tmp_path: Path) -> None:
    """A process could wait with a removed directory open, and get a lock that excluded nobody."""
    root = tmp_path / "index"

    def hold_for_a_moment() -> None:
        for _ in range(200):
            try:
                with only_writer(root):
                    (root / "only-mine").write_text(str(os.getpid()))
                    assert (root / "only-mine").read_text() == str(os.getpid())
                    (root / "only-mine").unlink()
            except BlockingIOError:
                time.sleep(0)

    assert at_once(*[hold_for_a_moment] * 4) == [""] * 4
    assert not root.exists() or not any(root.iterdir())


def test_two_builds_of_one_directory(tmp_path: Path) -> None:
    for number in range(ROUNDS):
        root = tmp_path / str(number)
        outcomes = at_once(
            *[lambda count=count, root=root: Index.build(root, embeddings([2] * count)) for count in (3, 4)]
        )  # type: ignore[misc]
        assert "" in outcomes
        assert all(
            not error or error.startswith(("BlockingIOError: another process", "FileExistsError")) for error in outcomes
        ), outcomes
        assert len(check(root)) in (3, 4)


def test_changes_at_the_same_moment(source: Path, tmp_path: Path) -> None:
    """Two additions, a deletion and a compaction: each happens completely or not at all."""
    for number in range(ROUNDS):
        root = tmp_path / str(number)
        shutil.copytree(source, root)

        def add(name: str, root: Path = root) -> None:
            Index.open(root).add(embeddings([2, 1], 3), ids=[f"{name}1", f"{name}2"])

        changes: dict[str, Callable[[], Any]] = {
            "a": lambda: add("a"),
            "b": lambda: add("b"),
            "delete": lambda root=root: Index.open(root).delete(["0"]),  # type: ignore[misc]
            "compact": lambda root=root: Index.open(root).compact(),  # type: ignore[misc]
        }
        outcomes = dict(zip(changes, at_once(*changes.values())))
        assert "" in outcomes.values()
        assert all(not error or error.startswith("BlockingIOError") for error in outcomes.values()), outcomes
        expected = {str(i) for i in range(9)} - ({"0"} if not outcomes["delete"] else set())
        expected |= {f"{name}{i}" for name in "ab" for i in (1, 2) if not outcomes[name]}
        assert set(check(root).ids()) == expected


@pytest.mark.parametrize("program", ["colbertz", "fast-plaid"])
def test_conversions_and_a_build_of_one_directory(program: str, source: Path, tmp_path: Path) -> None:
    """A conversion once cleared what another had just completed, before that could be renamed."""
    for number in range(ROUNDS):
        folder = tmp_path / str(number)
        root = folder / "target"

        def copy(root: Path = root) -> None:
            convert(source, root, program)

        def build(root: Path = root) -> None:
            Index.build(root, embeddings([2] * 3))

        outcomes = at_once(copy, copy, build)
        assert "" in outcomes
        assert all(not error or error.startswith(("BlockingIOError", "FileExistsError")) for error in outcomes), (
            outcomes
        )
        assert [path.name for path in folder.iterdir()] == ["target"]
        index = Index.open(root)
        assert len(index) == (3 if not outcomes[2] else 9)
        assert len(index.search(embeddings([2], 9), k=100)[0]) == len(index)
