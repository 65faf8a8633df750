"""Trials: damage a copy of some files, use them, and see what comes of it.

Trials run in forked children, many in each, because a wrong place in memory ends the process. A child that dies names
the trial that it was at. A trial is known by its format, its seed and its number, which choose the damage.
"""

import faulthandler
import json
import logging
import os
import random
import resource
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from random_damage import random_damage

from colbertz.errors import UserError

# What a trial may end with. The last two are allowed for some formats only.
SAME = "the right answer"
REFUSED = "refused"
FOUND = "another answer, which check finds"
OTHER = "another answer"
# Seconds of computing after which a trial hangs; ten times as many for one that waits.
SECONDS = 20.0
# Bytes of address space that a trial may take beyond what its process has. A worker process of a filter needs some.
MEMORY = 1 << 30
# Trials of one child.
_AT_ONCE = 25
# Characters of the longest message. Most are a sentence and a path or two.
_MESSAGE = 1000
# A file of the user's in the folder of every trial.
NOTES = "notes of the user.md"


@dataclass(frozen=True)
class Format:
    """A kind of files that colbertz reads.

    Attributes:
        make: writes the files to a folder.
        answer: opens and uses the files in a folder; what it returns is compared with that for the undamaged ones.
        is_kept: tells which files are not damaged.
        check: raises a `UserError` if the files are not what was written; None where files have no checksums, so that
            another answer cannot be told from the right one.
        has_checksums: whether another answer than the right one is an error although there is no `check`.
        seal: makes checksums agree again after another value was written to a file.
        change: changes the files after they were used, and returns what `answer` returns for them then.
        changes_nothing: whether all files must be as they were after `answer`.
        has_notes: whether there may be a file of the user's among them, which must stay.
    """

    make: Callable[[Path], object]
    answer: Callable[[Path], Any]
    is_kept: Callable[[Path], bool] = lambda path: False
    check: Callable[[Path], object] | None = None
    has_checksums: bool = False
    seal: Callable[[Path], object] | None = None
    change: Callable[[Path], Any] | None = None
    changes_nothing: bool = True
    has_notes: bool = True


class Outcome(NamedTuple):
    """How a trial ended.

    Attributes:
        trial: its number.
        damage: what was done.
        end: one of the constants above; otherwise what went wrong.
    """

    trial: int
    damage: str
    end: str

    @property
    def is_good(self) -> bool:
        return self.end in (SAME, REFUSED, FOUND, OTHER)


class Campaign:
    """The undamaged files of a format, and what they answer.

    Attributes:
        name: of the format.
        format: the format.
        start: the folder with the undamaged files.
        work: the folder in which trials are made.
        seconds: of computing after which a trial hangs; ten times as many for one that waits.
    """

    def __init__(self, name: str, format: Format, folder: Path, seconds: float = SECONDS) -> None:
        """Write the files. What is imported and compiled on the way, the children need not import and compile."""
        self.name, self.format, self.seconds = name, format, seconds
        self.start, self.work = folder / name / "start", folder / name / "work"
        self.work.mkdir(parents=True)
        self.start.mkdir(parents=True)
        format.make(self.start)
        if format.has_notes:
            (self.start / NOTES).write_text("mine")
        copy = self._copy()
        self._right, self._right_after = format.answer(copy), None
        if format.check:
            format.check(copy)
        if format.change:
            self._right_after = format.change(copy)

    def run(self, trials: range, seed: int) -> Iterator[Outcome]:
        """Run the trials of these numbers."""
        done = trials.start
        while done < trials.stop:
            for outcome in self._in_child(range(done, min(done + _AT_ONCE, trials.stop)), seed):
                done = outcome.trial + 1
                yield outcome

    def _copy(self) -> Path:
        shutil.rmtree(self.work)
        return Path(shutil.copytree(self.start, self.work / self.name, symlinks=True))

    def _in_child(self, trials: range, seed: int) -> Iterator[Outcome]:
        read, write = os.pipe()
        child = os.fork()
        if not child:
            try:
                os.close(read)
                _prepare()
                with os.fdopen(write, "w", buffering=1) as told:
                    for trial in trials:
                        self._trial(trial, seed, lambda *line: told.write(json.dumps(line) + "\n"))
            finally:
                os._exit(0)
        os.close(write)
        begun: tuple[int, str] | None = None
        with os.fdopen(read) as lines:
            for line in lines:
                trial, what, end = json.loads(line)
                begun = None if end else (trial, what)
                if end:
                    yield Outcome(trial, what, end)
        _, status = os.waitpid(child, 0)
        if begun:
            dead = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"exit {status}"
            yield Outcome(*begun, "hang" if dead in ("SIGALRM", "SIGPROF") else dead)

    def _trial(self, trial: int, seed: int, tell: Callable[[int, str, str | None], object]) -> None:
        numbers = random.Random(f"{self.name} {seed} {trial}")
        root = self._copy()
        what, by_value = random_damage(root, numbers, lambda path: path.name == NOTES or self.format.is_kept(path))
        sealed = by_value and self.format.seal is not None and numbers.random() < 0.8
        tell(trial, what, None)
        with suppress(Exception):  # what cannot be sealed stays unsealed
            if sealed and self.format.seal:
                self.format.seal(root)
        signal.setitimer(signal.ITIMER_PROF, self.seconds)
        signal.setitimer(signal.ITIMER_REAL, 10 * self.seconds)
        limit = _mapped() + MEMORY
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        with suppress(OSError, ValueError):  # macOS does not limit memory
            resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
        try:
            end = self._end(root, sealed)
        except BaseException:  # noqa: BLE001 (every error is an outcome)
            end = traceback.format_exc()
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        tell(trial, f"{what}{', checksums made again' if sealed else ''}", end)

    def _end(self, root: Path, sealed: bool) -> str:
        before = _files(root)
        end = self._use(root, sealed)
        lost = [name for name, about in before.items() if _files(root).get(name) != about]
        if lost and (self.format.changes_nothing or NOTES in lost):
            return f"lost or changed by reading: {', '.join(lost)}"
        if self.format.change is None or end not in (SAME, REFUSED):
            return end
        try:
            after = self.format.change(root)
        except (UserError, OSError) as error:
            if self._has_notes(root) and not (fault := _fault(error)):
                return end if end == REFUSED or self.format.check else REFUSED
            return f"after a change: {fault}" if fault else "the user's file is lost"
        if not self._has_notes(root):
            return "the user's file is lost"
        return end if after == self._right_after or sealed else self._unlike(root, "after a change, ", after)

    def _has_notes(self, root: Path) -> bool:
        return (root / NOTES).exists() or not self.format.has_notes

    def _use(self, root: Path, sealed: bool) -> str:
        try:
            found = self.format.answer(root)
        except (UserError, OSError) as error:
            return _fault(error) or REFUSED
        if found == self._right:
            return SAME
        return OTHER if sealed else self._unlike(root, "", found)

    def _unlike(self, root: Path, when: str, found: Any) -> str:
        if self.format.check is None:
            return f"{when}another answer: {found!r:.500}" if self.format.has_checksums else OTHER
        try:
            self.format.check(root)
        except (UserError, OSError) as error:
            return _fault(error) or FOUND
        return f"{when}another answer, which check does not find: {found!r:.500}"


def _fault(error: BaseException) -> str | None:
    """What is wrong with the message of an error for people; None if it is one sentence."""
    message = str(error)
    if not message or "\n" in message or len(message) > _MESSAGE:
        return f"the message is no sentence: {message!r:.1500}"
    return None


def _files(root: Path) -> dict[str, tuple[int, int, int]]:
    """Which files are in a folder, their sizes, and when they were written."""
    found = {}
    for path in root.rglob("*"):
        about = path.lstat()
        if not path.is_dir():
            found[path.relative_to(root).as_posix()] = (about.st_mode, about.st_size, about.st_mtime_ns)
    return found


def _prepare() -> None:
    """What a child does first."""
    logging.disable()
    faulthandler.disable()  # its tracebacks would be among pytest's output
    torch.set_num_threads(1)  # a forked child has none of its parent's threads
    os.fsync = lambda handle: None  # no trial cuts the power
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # libraries write there
        os.dup2(nothing, stream)


def _mapped() -> int:
    with suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    return 0
