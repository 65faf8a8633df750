"""An operation in the log of an index, and the frames that say what the log knows of it."""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from colbertz.server.errors import DamagedLog
from colbertz.server.operations import Task, pack, unpack

# Version 1 had no frames that count attempts.
VERSION = 2
_OLDEST_VERSION = 1


@dataclass(eq=False)
class Entry:
    """An operation in the log.

    Attributes:
        number: its place among all operations of the index, from 1.
        task: what is known of it.
        key: the client's, by which it recognises the operation; None if it gave none.
        digest: of the operation.
        data: the operation, as `encode` makes it; empty once it was applied or has failed.
        synced: whether it is on the disk.
        since: when it came, on the monotonic clock.
        attempts: how often a process has begun to apply it.
        finished: set once it was applied or has failed; None if nobody waits for that. Each operation has its own, so
            that clients who wait for others are not woken.
    """

    number: int
    task: Task
    key: str | None
    digest: str
    data: bytes = b""
    synced: bool = True
    since: float = 0.0
    attempts: int = 0
    finished: threading.Event | None = None


def check_not_ahead(path: Path, entries: Iterable[Entry], record: int) -> None:
    """Check that the index contains what the log says was applied to it.

    Raises:
        DamagedLog: if it contains less.
    """
    known = max([e.number for e in entries if e.task.state == "done" and e.task.generation], default=0)
    if known > record:
        raise DamagedLog(
            f"{path} has applied {known:,} operations and the index contains {record:,} of them: the index was"
            f" replaced, or comes from an older backup. To go on with the index as it is, move {path} away"
        )


def version_of(path: Path, head: dict[str, Any]) -> int:
    """The version of a log by its first frame.

    Raises:
        DamagedLog: if this program does not know it.
    """
    version: int = head["version"]
    if version not in (_OLDEST_VERSION, VERSION):
        raise DamagedLog(f"{path} is of version {version!r:.80} and this colbertz reads {VERSION}: upgrade it")
    return version


def entries_of(contents: Sequence[bytes]) -> dict[int, Entry]:
    """The operations of a log by their numbers."""
    entries: dict[int, Entry] = {}
    for content in contents:
        head, data = unpack(content)
        if "attempts" in head:
            for number, attempts in head["attempts"].items():
                entries[int(number)].attempts = attempts
            continue
        entries[head["number"]] = Entry(head["number"], Task(**head["task"]), head["key"], head["digest"], data)
    return entries


def frames_of(log_id: str, entries: Iterable[Entry]) -> Iterator[bytes]:
    """All of a log."""
    yield pack({"version": VERSION, "id": log_id})
    attempts = {}
    for entry in entries:
        yield frame_of(entry)
        if entry.attempts and entry.task.state == "queued":
            attempts[entry.number] = entry.attempts
    if attempts:
        yield frame_of_attempts(attempts)


def frame_of(entry: Entry) -> bytes:
    """What the log says of an operation: with its data as long as it waits, later without."""
    head = {"number": entry.number, "task": asdict(entry.task), "key": entry.key, "digest": entry.digest}
    return pack(head, entry.data)


def frame_of_attempts(attempts: Mapping[int, int]) -> bytes:
    """What the log says of attempts to apply operations, by their numbers."""
    return pack({"attempts": attempts})
