"""`Folder`: the index of a folder, which follows the folder.

In the index's directory are `folder.sqlite` (see state.py) and `index/`, an ordinary index of the chunks. One process
updates at a time, under the lock of the directory; any number search meanwhile, in the last state that was committed.
"""

import math
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from colbertz.corpus.folder.chunks import CHUNKER_VERSION
from colbertz.corpus.folder.walk import WalkOptions
from colbertz.errors import UserError
from colbertz.files import sync_folder
from colbertz.folders import encoding, places
from colbertz.folders.changes import Changes, Report, bring_in, find_changes
from colbertz.folders.messages import Answer, SearchRequest, Status, Update
from colbertz.folders.models import DEFAULT, model_at, named
from colbertz.folders.search import answer
from colbertz.folders.state import CHUNKER, GENERATION, MODEL, OPTIONS, ROOT, SKIPPED, UPDATED, State
from colbertz.folders.view import View
from colbertz.index import Index
from colbertz.index.store.manifest import MANIFEST
from colbertz.index.write.commit import only_writer
from colbertz.text.counted import counted

# The ordinary index, in the directory of the folder's index.
INDEX = "index"
# Seconds between two attempts to get the lock.
_LOCK_SECONDS = 0.05


class Folder:
    """The index of a folder. Threads may share it: a search does not wait for an update.

    Attributes:
        root: the folder, its real path.
        home: the directory of its index.
    """

    def __init__(self, root: Path, home: Path, model: str | None) -> None:
        """Use `Folder.open`."""
        self.root, self.home = root, home
        self._model = None if model is None else named(model)
        self._view: View | None = None
        self._viewing = threading.Lock()
        self._updating = threading.Lock()
        # Changed files that the last check of this object found and that are not in the state yet, and why.
        self._unread, self._note = 0, ""

    @classmethod
    def open(cls, root: str | Path, index: str | Path | None = None, model: str | None = None) -> "Folder":
        """The index of the folder `root`, whether it exists yet or not. Nothing is read or written.

        Args:
            root: a folder.
            index: the directory of the index; None for the usual place, see `places`.
            model: a checkpoint directory or hub id for the chunks; None for that of the index, else colbertz/nano.

        Raises:
            FileNotFoundError, NotADirectoryError: if there is no such folder.
        """
        real = Path(root).resolve()
        if not real.exists():
            raise FileNotFoundError(f"there is no folder {root}")
        if not real.is_dir():
            raise NotADirectoryError(f"{root} is a file; name a folder")
        return cls(real, places.home_of(real, index), model)

    @property
    def exists(self) -> bool:
        return places.is_folder_index(self.home)

    def close(self) -> None:
        """Let go of the open files."""
        with self._viewing:
            self._view = None

    # -- updating --------------------------------------------------------------------------------------------------

    def update(
        self,
        progress: Report | None = None,
        stop: Callable[[], bool] = lambda: False,
        wait: float | None = 1.0,
        options: WalkOptions | None = None,
    ) -> Update:
        """Bring the index up to date with the files. What was committed stays if this is stopped or killed.

        Args:
            progress: is told (done, total, what) now and then.
            stop: asked now and then; when it is true, the update ends early and says what is pending.
            wait: seconds to wait while another process or thread updates the same index; None for no limit.
            options: which files count from now on; None for those of the last update.

        Raises:
            UserError: if the index was built with another model, or is damaged.
            OSError: if the folder cannot be read, or a new index not be written. An index that is there is left as it
                is then, and the update says why.
        """
        report: Report = progress or (lambda done, total, what: None)
        try:
            with self._lock(wait):
                self._note = ""
                return self._update(report, stop, options)
        except BlockingIOError:
            return self._held_up("another process is updating the index", options)
        except (OSError, sqlite3.OperationalError) as error:
            if not self.exists:
                raise OSError(f"the index of {self.root} cannot be written in {self.home}: {error}") from error
            return self._held_up(f"the index cannot be written ({error})", options)

    @contextmanager
    def _lock(self, wait: float | None) -> Iterator[None]:
        """Be the only writer, among the threads of this process and among processes."""
        end = time.monotonic() + wait if wait is not None else math.inf
        if not self._updating.acquire(timeout=-1 if wait is None else wait):
            raise BlockingIOError
        try:
            while True:
                lock = only_writer(self.home)
                try:
                    lock.__enter__()
                    break
                except BlockingIOError:
                    if time.monotonic() >= end:
                        raise
                    time.sleep(_LOCK_SECONDS)
            try:
                yield
            finally:
                lock.__exit__(None, None, None)
        finally:
            self._updating.release()

    def _update(self, report: Report, stop: Callable[[], bool], options: WalkOptions | None) -> Update:
        if not self.exists:
            self._begin()
        with State(self.home, writing=True) as state:
            changes = find_changes(state, self.root, options or walk_options(state))
            location = self._location(state)
            ids = self._indexed_ids() if changes or state.count("pending") else set()
            encoding.forget_pending_that_is_known(state, ids)
            self._unread = len(changes.changed)

            def read(done: int, total: int, what: str) -> None:
                self._unread = total - done
                report(done, total, what)

            done = 0
            if changes or changes.touched:
                done = bring_in(state, self.root, changes, ids.intersection, read, stop)
            with state.transaction():
                self._note_update(state, changes, done, options)
            encoded = 0
            if state.count("pending"):
                encoded = encoding.encode_pending(state, self.home / INDEX, model_at(location), location, report, stop)
            pending = self._unread + state.pending_files()
            if not pending and state.count("dead") and (self.home / INDEX / MANIFEST).exists():
                encoding.delete_dead(state, Index.open(self.home / INDEX))
            return Update(done, len(changes.removed), encoded, pending, self._pending_note(pending))

    def _begin(self) -> None:
        """Begin a new index, with the embeddings of another work tree of the same repository if there is one."""
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.home.name == places.OWN:
            (self.home / ".gitignore").write_text("*\n", encoding="utf-8")
        with State(self.home, writing=True) as state:
            state.put(ROOT, str(self.root))
            for sibling in places.siblings_of(self.root):
                other = places.home_of(sibling)
                if not (self.home / INDEX).exists() and places.is_folder_index(other):
                    self._start_from(other, state)

    def _start_from(self, other: Path, state: State) -> None:
        """Begin with the embeddings of the index in `other`, if it has the right model and nobody writes to it."""
        with State(other) as theirs:
            location = theirs.get(MODEL)
        if location is None or self._model not in (None, location):
            return
        with suppress(BlockingIOError), only_writer(other):
            _link_index(other / INDEX, self.home / INDEX)
            state.put(MODEL, location)

    def _location(self, state: State) -> str:
        """Where the model of this index is.

        Raises:
            UserError: if it is another one than the user asked for.
        """
        built: str | None = state.get(MODEL)
        if built is not None and self._model is not None and self._model != built:
            raise UserError(
                f"the index of {self.root} was built with the model {built}, not {self._model}; remove it with"
                f" `colbertz clear {self.root}`, or give another directory with --index"
            )
        return built or self._model or DEFAULT

    def _indexed_ids(self) -> set[str]:
        if not (self.home / INDEX / MANIFEST).exists():
            return set()
        return set(Index.open(self.home / INDEX).snapshot.ids())

    def _note_update(self, state: State, changes: Changes, done: int, options: WalkOptions | None) -> None:
        if options is not None:
            state.put(OPTIONS, asdict(options))
        state.put(SKIPPED, dict(changes.skipped.counts))
        if done == len(changes.changed):
            state.put(CHUNKER, CHUNKER_VERSION)
            state.put(UPDATED, time.time())
        if changes:
            state.next_generation()

    def _held_up(self, why: str, options: WalkOptions | None) -> Update:
        """What is not in the index while it cannot be updated: another process does it, or the disk is full."""
        self._note = why
        if not self.exists:
            return Update(pending=1, note=f"{self._note}, which has just begun")
        with State(self.home) as state:
            self._unread = len(find_changes(state, self.root, options or walk_options(state)))
            pending = self._unread + state.pending_files()
        return Update(pending=pending, note=self._pending_note(pending))

    def _pending_note(self, pending: int) -> str:
        if not pending:
            return ""
        files = f"{counted(pending, 'changed file')} not in the index yet"
        return f"{self._note}; {files}" if self._note else files

    # -- searching -------------------------------------------------------------------------------------------------

    def search(self, request: SearchRequest, *, once: bool = False) -> Answer:
        """Answer from what is committed; call `update` before for what has changed.

        Args:
            request: what to search for; its `root` and `index` are those of this object.
            once: as in `SearchOptions`, for a process that ends after this search.

        Raises:
            UserError: for an empty query, a bad regular expression or pattern, or if there is no index.
        """
        with State(self.home) as state:
            if self._model is not None:
                self._location(state)
            with self._viewing:
                self._view = view = View.of(state, self.home / INDEX, self._view)
            pending = self._unread + state.pending_files()
            location = state.get(MODEL)
            model = None if location is None else model_at(location)
            return answer(state, view, model, request, pending, self._pending_note(pending), once=once)

    # -- looking after it ------------------------------------------------------------------------------------------

    def status(self) -> Status:
        """What the index holds."""
        if not self.exists:
            return Status(str(self.root), str(self.home), exists=False)
        with State(self.home) as state:
            skipped = dict(state.get(SKIPPED, {}))
            for reason, count in state.rows("SELECT skipped, count(*) FROM files WHERE skipped IS NOT NULL GROUP BY 1"):
                skipped[reason] = skipped.get(reason, 0) + count
            return Status(
                root=str(self.root),
                index=str(self.home),
                exists=True,
                model=state.get(MODEL),
                files=state.rows("SELECT count(*) FROM files WHERE skipped IS NULL")[0][0],
                chunks=state.count("refs"),
                pending=state.count("pending"),
                kept=state.count("dead"),
                kinds=dict(state.rows("SELECT kind, count(*) FROM refs GROUP BY kind ORDER BY kind")),
                skipped=skipped,
                bytes=sum(path.stat().st_size for path in self.home.rglob("*") if path.is_file()),
                updated=state.get(UPDATED),
                generation=state.get(GENERATION, 0),
            )

    def clear(self) -> bool:
        """Remove the index; the files of the folder stay. Returns whether there was one.

        Raises:
            BlockingIOError: if another process is updating it.
        """
        if not self.exists:
            return False
        with self._lock(0):
            self.close()
            for name in (places.STATE, f"{places.STATE}-wal", f"{places.STATE}-shm"):
                (self.home / name).unlink(missing_ok=True)
            shutil.rmtree(self.home / INDEX, ignore_errors=True)
        own_files = {".gitignore"} if self.home.name == places.OWN else set()
        if {path.name for path in self.home.iterdir()} <= own_files:
            shutil.rmtree(self.home)
        return True


def walk_options(state: State) -> WalkOptions:
    """Which files count, as the last update was told."""
    values = state.get(OPTIONS, {})
    as_tuples: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
    }
    return WalkOptions(**as_tuples)


def _link_index(source: Path, target: Path) -> None:
    """Make a copy of an index from hard links: its files never change, they are only replaced."""
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial, copy_function=os.link, ignore=shutil.ignore_patterns("build"))
    partial.rename(target)
    sync_folder(target.parent)
