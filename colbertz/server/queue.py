"""The durable queue of an index: what was acknowledged and is not applied yet, and what became of the rest.

Each operation is a frame of the log, on the disk before it is acknowledged. A last frame says what became of it. Of
those that were applied the index itself knows (`Manifest.applied`), so that second frame may be lost; that of an
operation which failed is on the disk before any later operation is applied. So after a kill at any moment each
operation was applied once, or failed, or is still to be applied.

Before operations are applied, a frame counts how often that was begun. A process that is killed leaves the count, so an
operation that ends every process that applies it is found, and fails (`MOST_ATTEMPTS`).
"""

import errno
import logging
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from colbertz.index.store.manifest import Applied
from colbertz.server.entries import (
    VERSION,
    Entry,
    check_not_ahead,
    entries_of,
    frame_of,
    frame_of_attempts,
    frames_of,
    version_of,
)
from colbertz.server.errors import Busy, Closing, KeyReused, StorageFull, UnknownTask
from colbertz.server.log import Log, Ticket, open_log, write_log
from colbertz.server.operations import Operation, State, Task, digest, encode, unpack

logger = logging.getLogger(__name__)

# Of the tasks that are done or failed, so many are remembered, with the keys that clients gave them.
REMEMBERED = 10_000
# The log is written anew, without what was applied, once it has grown to twice its size and this many bytes more.
GROWTH = 1 << 25
# So often an operation is begun by processes that are killed before it is finished; then it fails.
MOST_ATTEMPTS = 5


class OperationQueue:
    """The operations of one index, for any number of clients and one writer.

    Attributes:
        log_id: the random name of the log.
    """

    def __init__(
        self,
        log: Log,
        log_id: str,
        entries: list[Entry],
        max_operations: int,
        max_bytes: int,
        remembered: int,
        growth: int,
    ) -> None:
        """Use `open_queue`."""
        self.log_id = log_id
        self._log = log
        self._max_operations, self._max_bytes = max_operations, max_bytes
        self._remembered, self._growth = remembered, growth
        self._changed = threading.Condition()
        # By task id, in the order of their numbers: first those that are done or failed, then the pending ones.
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._pending: deque[Entry] = deque()
        self._pending_bytes = 0
        # What the writer has taken last.
        self._begun: list[Entry] = []
        self._by_key: dict[str, Entry] = {}
        self._next_number = 1
        self._closing = False
        self._stalled: str | None = None
        self._size_rewritten = log.size
        for entry in entries:
            self._admit(entry)

    # -- for clients ---------------------------------------------------------------------------------------------------

    def submit(self, operation: Operation, key: str | None = None) -> Task:
        """Put an operation on the disk and into the queue; see `ServedIndex.submit`."""
        data = encode(operation)
        with self._changed:
            known = self._by_key.get(key) if key is not None else None
            if known is not None:
                return self._submitted_before(known, digest(data))
            entry, ticket = self._append(operation, key, data)
        try:
            self._log.sync(ticket)
        except OSError as error:
            with self._changed:
                # Unless another thread has written the log anew meanwhile, with this operation in it.
                if ticket.rewrites == self._log.rewrites:
                    self._withdraw(entry)
                    raise _storage_error(error) from error
        with self._changed:
            entry.synced = True
            self._changed.notify_all()
            return entry.task

    def _submitted_before(self, entry: Entry, content: str) -> Task:
        if entry.digest != content:
            raise KeyReused(f"the key {entry.key!r:.80} came with another operation before; give each its own")
        self._changed.wait_for(lambda: entry.synced or entry.task.id not in self._entries)
        if not entry.synced:
            raise StorageFull("the same request was sent twice at once, and could not be written; send it again")
        return entry.task

    def _append(self, operation: Operation, key: str | None, data: bytes) -> tuple[Entry, Ticket]:
        """Write an operation to the log; the caller waits until it is on the disk."""
        if self._closing:
            raise Closing("the server is shutting down; send the request again once it runs")
        if self._stalled is not None:
            raise StorageFull(self._stalled)
        is_full = bool(self._pending) and self._pending_bytes + len(data) > self._max_bytes
        if len(self._pending) >= self._max_operations or is_full:
            raise Busy(
                f"{len(self._pending)} operations with {self._pending_bytes:,} bytes wait to be applied to this index;"
                " send the request again later"
            )
        number = self._next_number
        task = Task(f"{self.log_id}-{number}", operation.kind)
        entry = Entry(number, task, key, digest(data), data, synced=False, since=time.monotonic())
        try:
            if self._log.broken is not None:
                self._rewrite()
            ticket = self._log.append(frame_of(entry))
        except OSError as error:
            raise _storage_error(error) from error
        self._admit(entry)
        return entry, ticket

    def task(self, task_id: str) -> Task:
        """See `ServedIndex.task`."""
        with self._changed:
            return self._known(task_id).task

    def _known(self, task_id: str) -> Entry:
        if task_id not in self._entries:
            raise UnknownTask(
                f"there is no task {task_id!r:.80}, or it was done long ago: the last {self._remembered:,} are"
                " remembered"
            )
        return self._entries[task_id]

    def wait(self, task_id: str, seconds: float) -> Task:
        """See `ServedIndex.wait`."""
        with self._changed:
            entry = self._known(task_id)
            if entry.task.state != "queued":
                return entry.task
            finished = entry.finished = entry.finished or threading.Event()
        finished.wait(seconds)
        return entry.task

    def __len__(self) -> int:
        """How many operations wait."""
        return len(self._pending)

    # -- for the writer ------------------------------------------------------------------------------------------------

    def take(self, max_bytes: int, linger: float, timeout: float) -> list[Entry]:
        """The next operations, which stay in the queue; wait for them.

        Args:
            max_bytes: of all of them; a larger one comes alone, and so does one that was begun before, by a process
                that was killed: the counts are to tell which one it could not apply.
            linger: how many seconds after the first of them came to wait for others.
            timeout: seconds after which to return none.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._is_ready() or (self._closing and not self._pending), timeout)
            if not self._is_ready():
                return []
            self._changed.wait_for(lambda: self._closing, max(0, self._pending[0].since + linger - time.monotonic()))
            taken: list[Entry] = []
            size = 0
            for entry in self._pending:
                size += len(entry.data)
                if not entry.synced or (taken and (size > max_bytes or entry.attempts or taken[0].attempts)):
                    break
                taken.append(entry)
            return taken

    def _is_ready(self) -> bool:
        return bool(self._pending) and self._pending[0].synced

    def begin(self, entries: list[Entry]) -> None:
        """Count an attempt to apply operations, in the log, so that the next process knows of it if this one is killed.

        It is not synced: only a power cut could lose it.

        Raises:
            OSError: if it cannot be written.
        """
        self._count(entries, 1)
        self._begun = entries

    def forgive(self) -> None:
        """Take back the attempts that this process has not brought to an end: it was told to end."""
        try:
            self._count([entry for entry in self._begun if entry.task.state == "queued"], -1)
        except OSError as error:
            logger.warning("%s: cannot note that the server was told to end: %s", self._log.path, error)

    def _count(self, entries: Sequence[Entry], difference: int) -> None:
        if not entries:
            return
        with self._changed:
            counts = {entry.number: entry.attempts + difference for entry in entries}
            if self._log.broken is not None:
                self._rewrite()
            self._log.append(frame_of_attempts(counts))
            for entry in entries:
                entry.attempts += difference

    def finish(self, entry: Entry, *, generation: int, count: int = 0, error: str | None = None) -> None:
        """Note what became of the first operation of the queue: it failed with `error`, or is done if that is None.

        That it failed is on the disk when this returns.

        Raises:
            OSError: if that cannot be written; the operation is then the first of the queue as before.
        """
        assert self._pending[0] is entry, "operations are finished in their order"
        state: State = "done" if error is None else "failed"
        task = replace(entry.task, state=state, generation=generation, count=count, error=error)
        with self._changed:
            self._write_outcome(replace(entry, task=task, data=b""), durable=error is not None)
            self._pending.popleft()
            self._pending_bytes -= len(entry.data)
            entry.task, entry.data = task, b""
            while len(self._entries) - len(self._pending) > self._remembered:
                self._forget(next(iter(self._entries.values())))
            if self._log.size > 2 * self._size_rewritten + self._growth:
                self._shorten()
            if entry.finished is not None:
                entry.finished.set()

    def _write_outcome(self, entry: Entry, durable: bool) -> None:
        try:
            if self._log.broken is not None:
                self._rewrite()
            ticket = self._log.append(frame_of(entry))
            if durable:
                self._log.sync(ticket)
        except OSError as error:
            if durable:
                raise
            logger.warning("%s: cannot note that %s is done: %s", self._log.path, entry.task.id, error)

    def stall(self, reason: str | None) -> None:
        """Refuse new operations with this reason, until it is called with None."""
        with self._changed:
            self._stalled = reason

    @property
    def is_stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._closing

    def stop(self) -> None:
        """Refuse new operations; `take` returns at once when none is left."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def close(self) -> None:
        """Close the file. What is left in the queue stays in it for the next start."""
        self._log.close()

    # -- the log -------------------------------------------------------------------------------------------------------

    def _admit(self, entry: Entry) -> None:
        self._next_number = entry.number + 1
        self._entries[entry.task.id] = entry
        if entry.key is not None:
            self._by_key[entry.key] = entry
        if entry.task.state == "queued":
            self._pending.append(entry)
            self._pending_bytes += len(entry.data)

    def _forget(self, entry: Entry) -> None:
        del self._entries[entry.task.id]
        if entry.key is not None:
            del self._by_key[entry.key]

    def _withdraw(self, entry: Entry) -> None:
        """Take an operation back that could not be written."""
        self._pending.remove(entry)
        self._pending_bytes -= len(entry.data)
        self._forget(entry)
        self._changed.notify_all()

    def _rewrite(self) -> None:
        self._log.rewrite(frames_of(self.log_id, self._entries.values()))
        self._size_rewritten = self._log.size

    def _shorten(self) -> None:
        try:
            self._rewrite()
        except OSError as error:
            self._size_rewritten = self._log.size  # try again when it has grown further
            logger.warning("%s cannot be made shorter: %s", self._log.path, error)


def open_queue(
    path: Path,
    applied: Applied | None,
    generation: int,
    max_operations: int,
    max_bytes: int,
    remembered: int = REMEMBERED,
    growth: int = GROWTH,
) -> OperationQueue:
    """Open the queue in a log, or begin a new one.

    Args:
        path: the log.
        applied: what the index contains of it.
        generation: of the index; 0 if there is none yet.
        max_operations, max_bytes: how many operations may wait, and how large they may be together.
        remembered: of tasks that are done, so many are remembered.
        growth: bytes that the log may grow by before what was applied is removed from it.

    Raises:
        DamagedLog: if the log is damaged, of a later version, or has applied operations that the index does not have.
    """
    if not path.exists():
        write_log(path, frames_of(secrets.token_hex(8), ()))
    log, contents = open_log(path)
    try:
        head, _ = unpack(contents[0])
        entries = entries_of(contents[1:])
        if version_of(path, head) != VERSION:
            log.rewrite(frames_of(head["id"], entries.values()))
        record = applied.record if applied is not None and applied.log == head["id"] else 0
        check_not_ahead(path, entries.values(), record)
        for entry in entries.values():
            if entry.task.state == "queued" and entry.number <= record:
                entry.task, entry.data = replace(entry.task, state="done", generation=generation), b""
    except BaseException:
        log.close()
        raise
    ordered = [entries[number] for number in sorted(entries)]
    return OperationQueue(log, head["id"], ordered, max_operations, max_bytes, remembered, growth)


def _storage_error(error: OSError) -> StorageFull:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StorageFull(f"the disk is full, and nothing can be written: {error.strerror}; free some space")
    return StorageFull(f"the disk cannot be written: {error}; nothing was changed")
