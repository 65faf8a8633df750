"""Searches of folders in the background process: when a folder is brought up to date, who waits, what stays open."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field

import pytest
from residents import until

from colbertz.errors import UserError
from colbertz.folders.messages import Answer, SearchRequest, Status, Update
from colbertz.resident.answers import FolderAnswers, Gone
from colbertz.resident.server import Call


@dataclass
class FakeFolder:
    """A folder whose updates take until they are allowed to end: a test decides what happens at the same time."""

    root: str
    may_end: threading.Event = field(default_factory=threading.Event)
    begun: int = 0
    done: int = 0
    stopped: int = 0
    closed: bool = False
    error: Exception | None = None
    exists: bool = True

    def update(self, progress: Callable[[int, int, str], None], stop: Callable[[], bool], wait: float) -> Update:
        self.begun += 1
        progress(0, 7, "files")
        while not self.may_end.wait(0.01):
            if stop():
                self.stopped += 1
                return Update(pending=7)
        if self.error is not None:
            raise self.error
        self.done += 1
        return Update(changed=7)

    def search(self, request: SearchRequest, *, once: bool = False) -> Answer:
        return Answer(self.root, (), generation=self.done)

    def status(self) -> Status:
        return Status(self.root, "index", True)

    def close(self) -> None:
        self.closed = True


class World:
    """Answers over fake folders, and threads that ask."""

    def __init__(self) -> None:
        self.folders: dict[str, FakeFolder] = {}
        self.answers = FolderAnswers(self._open)
        self.threads = ThreadPoolExecutor(8)
        self.progress: list[tuple[int, int, str]] = []

    def _open(self, root: str, index: str | None, model: str | None) -> FakeFolder:
        return self.folders.setdefault(root, FakeFolder(root))

    def folder(self, root: str = "/a") -> FakeFolder:
        return self.folders.setdefault(root, FakeFolder(root))

    def call(self, root: str = "/a", wait_s: float | None = None, action: str = "search") -> Call:
        request = asdict(SearchRequest(root, ("query",)))
        return Call(action, request, wait_s, lambda *progress: self.progress.append(progress))

    def asked(self, call: Call) -> "Future[dict[str, object]]":
        return self.threads.submit(self.answers.answer, call)


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    for folder in world.folders.values():
        folder.may_end.set()


def test_an_answer_comes_after_the_update(world: World) -> None:
    running = world.asked(world.call())
    until(lambda: world.folder().begun == 1)
    until(lambda: world.progress == [(0, 7, "files")])
    assert not running.done()
    world.folder().may_end.set()
    assert running.result()["generation"] == 1


def test_a_search_does_not_rely_on_an_update_that_began_before_it(world: World) -> None:
    """That one may have looked at a file before it was changed."""
    first = world.asked(world.call())
    until(lambda: world.folder().begun == 1)
    others = [world.asked(world.call()) for _ in range(2)]
    world.folder().may_end.set()
    first.result()
    assert all(other.result()["generation"] >= 2 for other in others)


def test_a_search_that_does_not_wait_leaves_the_update_running(world: World) -> None:
    assert world.answers.answer(world.call(wait_s=0))["generation"] == 0
    assert world.answers.is_busy()
    world.folder().may_end.set()
    until(lambda: not world.answers.is_busy())
    assert (world.folder().done, world.folder().stopped) == (1, 0)


def test_an_update_that_nobody_waits_for_any_more_ends(world: World) -> None:
    call = world.call()
    running = world.asked(call)
    until(lambda: world.folder().begun == 1)
    call.cancelled.set()
    with pytest.raises(Gone):
        running.result()
    until(lambda: world.folder().stopped == 1)


def test_an_update_that_another_waits_for_goes_on(world: World) -> None:
    call = world.call()
    gone, stays = world.asked(call), world.asked(world.call())
    until(lambda: world.folder().begun == 1)
    call.cancelled.set()
    with pytest.raises(Gone):
        gone.result()
    world.folder().may_end.set()
    stays.result()
    assert world.folder().stopped == 0


def test_updates_end_when_the_process_leaves(world: World) -> None:
    world.answers.answer(world.call(wait_s=0))
    world.answers.stop()
    until(lambda: not world.answers.is_busy())
    assert world.folder().stopped == 1


@pytest.mark.parametrize("error", [UserError("built with another model"), TimeoutError("the disk"), OSError("full")])
def test_what_an_update_fails_with_is_raised_for_who_waits(world: World, error: Exception) -> None:
    world.folder().error = error
    world.folder().may_end.set()
    with pytest.raises(type(error), match=str(error)):
        world.answers.answer(world.call())
    world.folder().error = None
    assert world.answers.answer(world.call())["generation"] == 1


def test_few_folders_stay_open(world: World) -> None:
    for number in range(6):
        world.folder(f"/{number}").may_end.set()
        world.answers.answer(world.call(f"/{number}"))
    assert world.answers.facts() == {"folders": ["/2", "/3", "/4", "/5"]}
    assert [folder.closed for folder in world.folders.values()] == [True, True, False, False, False, False]


def test_a_folder_that_is_used_is_not_closed(world: World) -> None:
    running = world.asked(world.call("/a"))
    until(lambda: world.folder("/a").begun == 1)
    for number in range(6):
        world.folder(f"/{number}").may_end.set()
        world.answers.answer(world.call(f"/{number}"))
    assert not world.folder("/a").closed
    world.folder("/a").may_end.set()
    running.result()


def test_status_does_not_begin_an_update(world: World) -> None:
    assert world.answers.answer(world.call(action="status"))["root"] == "/a"
    assert world.folder().begun == 0
