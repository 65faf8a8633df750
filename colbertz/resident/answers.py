"""What the background process answers: searches of folders, each of which is brought up to date first.

Folders stay open. Changes are brought in by one thread for each folder, so that a search can stop waiting for it and
answer with what there is, and so that two searches at the same time do not read the files twice.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict

from colbertz.errors import UserError
from colbertz.folders.folder import Folder
from colbertz.folders.messages import Answer, SearchRequest, Update
from colbertz.resident.server import Call
from colbertz.resident.wire import Message

# Folders that stay open; of more, those that were not used for longest are closed.
_MOST_OPEN = 4
# Seconds between two looks at whether a client that waits for an update is still there.
_LOOK_S = 0.1
# Seconds between two reports of progress.
_REPORT_S = 0.05
Open = Callable[[str, str | None, str | None], Folder]


class Gone(Exception):
    """The client is no longer there: nobody reads the answer."""


class FolderAnswers:
    """Answers for any number of folders. Threads share it."""

    def __init__(self, open_folder: Open = Folder.open) -> None:
        """Open folders by `open_folder(root, index, model)`."""
        self._open_folder = open_folder
        self._changing = threading.Lock()
        self._folders: OrderedDict[tuple[str, str | None, str | None], SharedFolder] = OrderedDict()

    def answer(self, call: Call) -> Message:
        """The answer to "search" (a `SearchRequest`) or "status" (its root, index and model)."""
        request = SearchRequest.from_json(call.request)
        with self._using(request) as folder:
            if call.action == "status":
                return asdict(folder.folder.status())
            if call.action != "search":
                raise UserError(f"the background process knows no action {call.action!r}")
            folder.bring_up_to_date(call)
            return asdict(folder.search(request))

    def facts(self) -> Message:
        """The folders that are open."""
        with self._changing:
            return {"folders": [root for root, _, _ in self._folders]}

    def is_busy(self) -> bool:
        """Whether a folder is being brought up to date."""
        with self._changing:
            return any(folder.is_updating() for folder in self._folders.values())

    def stop(self) -> None:
        """Let updates end; what they have encoded is kept, and the next update goes on from there."""
        with self._changing:
            for folder in self._folders.values():
                folder.stopping.set()

    @contextmanager
    def _using(self, request: SearchRequest) -> "Iterator[SharedFolder]":
        key = (request.root, request.index, request.model)
        with self._changing:
            if key not in self._folders:
                self._folders[key] = SharedFolder(self._open_folder(*key))
            folder = self._folders[key]
            folder.users += 1
            self._folders.move_to_end(key)
            self._close_unused()
        try:
            yield folder
        finally:
            with self._changing:
                folder.users -= 1

    def _close_unused(self) -> None:
        for key, folder in [*self._folders.items()][: max(0, len(self._folders) - _MOST_OPEN)]:
            if not folder.users and not folder.is_updating():
                del self._folders[key]
                folder.folder.close()


class SharedFolder:
    """An open folder, and the thread that brings changes in.

    Attributes:
        folder: the folder.
        users: requests that use it.
        stopping: set when the process leaves.
    """

    def __init__(self, folder: Folder) -> None:
        """Begin with nothing checked yet."""
        self.folder = folder
        self.users = 0
        self.stopping = threading.Event()
        self._changing = threading.Lock()
        self._searching = threading.Lock()
        self._searched = False
        self._thread = ThreadPoolExecutor(1)
        self._update: Future[Update] | None = None
        self._waiting: list[Call] = []
        self._goes_on = False
        self._reported = 0.0

    def bring_up_to_date(self, call: Call) -> None:
        """Wait until what has changed up to now is in the index, or until the call's `wait_s` have passed.

        In the second case the update goes on in the background.

        Raises:
            Gone: if the client has gone. If no other waits, the update ends too.
            UserError, OSError: what the update failed with.
        """
        with self._changing:
            # An update that has begun may have looked at a file before it was changed.
            if self._update is None or self._update.running() or self._update.done():
                self._update = self._thread.submit(self._run)
            update = self._update
            self._waiting.append(call)
        deadline = float("inf") if call.wait_s is None else time.monotonic() + call.wait_s
        try:
            while not call.cancelled.is_set():
                wait([update], min(_LOOK_S, max(0.0, deadline - time.monotonic())))
                if update.done():
                    update.result()
                    return
                if time.monotonic() >= deadline:
                    self._goes_on = True
                    return
            raise Gone
        finally:
            with self._changing:
                self._waiting.remove(call)

    def search(self, request: SearchRequest) -> Answer:
        """Answer from what is in the index.

        The first search does without what takes long to load and makes later ones fast; that is loaded after it.
        """
        with self._searching:
            answer = self.folder.search(request, once=not self._searched)
            if not self._searched:
                self._searched = True
                self._thread.submit(self._load, request)
        return answer

    def _load(self, request: SearchRequest) -> None:
        with self._searching:
            self.folder.search(request)

    def is_updating(self) -> bool:
        """Whether the folder is being brought up to date."""
        return self._update is not None and not self._update.done()

    def _run(self) -> Update:
        try:
            # Without an index there is nothing to answer from: wait for the process that makes it.
            wait = 1.0 if self.folder.exists else None
            return self.folder.update(self._report, self._is_unwanted, wait)
        finally:
            self._goes_on = False

    def _is_unwanted(self) -> bool:
        """Whether nobody waits for the update any more."""
        return self.stopping.is_set() or not (self._waiting or self._goes_on)

    def _report(self, done: int, total: int, what: str) -> None:
        now = time.monotonic()
        if now - self._reported < _REPORT_S and done < total:
            return
        self._reported = now
        with self._changing:
            waiting = list(self._waiting)
        for call in waiting:
            call.progress(done, total, what)
