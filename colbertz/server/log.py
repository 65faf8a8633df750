"""The log of an index: operations and what became of them, in one file that only grows until it is written anew.

    frame     magic, length of the content, CRC-32 of the content, CRC-32 of these three; then the content
    content   8 bytes with the length of a JSON object, the object, and further bytes

The first frame names the log. What the others mean is the queue's business (queue.py). A process that is killed, or a
power cut, can leave a part of a frame at the end, which was not acknowledged; it is cut off. Anything else that cannot
be read is damage, and refused.
"""

import logging
import os
import struct
import threading
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from colbertz.files import replaced_file
from colbertz.server.errors import DamagedLog

logger = logging.getLogger(__name__)

_MAGIC = b"cbzl"
_HEAD = struct.Struct("<4sQI")
_CHECK = struct.Struct("<I")
_FRAME = _HEAD.size + _CHECK.size
# After a power cut a part of a file that was not synced may be zeros, in whole sectors.
_SECTOR = 512


def frame(content: bytes) -> bytes:
    """The content with what is needed to find and to check it again."""
    head = _HEAD.pack(_MAGIC, len(content), zlib.crc32(content))
    return head + _CHECK.pack(zlib.crc32(head)) + content


class Ticket(NamedTuple):
    """What `sync` needs to know of a frame that was appended.

    Attributes:
        rewrites: how often the file had been written anew before.
        end: where the frame ends in the file.
    """

    rewrites: int
    end: int


class Log:
    """An open log, for one process. Threads may share it.

    Attributes:
        path: the file.
        size: bytes that are written.
        rewrites: how often the file was written anew.
        broken: the error after which the file has to be written anew; None if there was none.
    """

    def __init__(self, path: Path) -> None:
        """Use `open_log`, after `write_log` for a new one."""
        self.path = path
        self.rewrites = 0
        self._lock = threading.Lock()
        self._syncing = threading.Lock()
        self._open()

    def _open(self) -> None:
        self._file = self.path.open("r+b", buffering=0)
        self.size = self._synced = self._file.seek(0, os.SEEK_END)
        self.broken: OSError | None = None

    def append(self, content: bytes) -> Ticket:
        """Write a frame; `sync` waits until it is on the disk.

        Raises:
            OSError: if it cannot be written, as on a full disk. The file is then as it was.
        """
        data = memoryview(frame(content))
        with self._lock:
            if self.broken is not None:
                raise self.broken
            try:
                while data:
                    data = data[self._file.write(data) or 0 :]
            except OSError:
                self._file.truncate(self.size)
                self._file.seek(self.size)
                raise
            self.size = self._file.tell()
            return Ticket(self.rewrites, self.size)

    def sync(self, ticket: Ticket) -> None:
        """Wait until a frame is on the disk. One call does the work for all that wait.

        Raises:
            OSError: if that is not possible. What the system could not write it may have dropped, so that a second try
                could seem to succeed: the file is broken, until it is written anew.
        """
        with self._syncing:
            if ticket.rewrites < self.rewrites or self._synced >= ticket.end:
                return
            if self.broken is not None:
                raise self.broken
            size = self.size
            try:
                os.fsync(self._file.fileno())
            except OSError as error:
                self.broken = error
                raise
            self._synced = size

    def rewrite(self, contents: Iterable[bytes]) -> None:
        """Replace the file by one with these frames. They must have all that was appended and is to be kept.

        Raises:
            OSError: if the new file cannot be written. The old one is then as it was.
        """
        with self._syncing, self._lock:
            write_log(self.path, contents)
            self._file.close()
            self._open()
            self.rewrites += 1

    def close(self) -> None:
        self._file.close()


def write_log(path: Path, contents: Iterable[bytes]) -> None:
    """Write a file with these frames, in place of the one that is there."""
    with replaced_file(path) as temporary, temporary.open("wb") as file:
        file.writelines(map(frame, contents))


def open_log(path: Path) -> tuple[Log, list[bytes]]:
    """Open a log; cut off what a killed process left at its end.

    Returns:
        The log, and the content of each frame.

    Raises:
        DamagedLog: naming the file and the place of what cannot be read.
    """
    data = path.read_bytes()
    contents, end = [], 0
    while (content := _content_at(data, end)) is not None:
        contents.append(content)
        end += _FRAME + len(content)
    if end < len(data):
        if not contents or not _is_torn(data, end):
            raise DamagedLog(
                f"{path} is damaged at byte {end:,} of {len(data):,}: what is written there is not what was written;"
                " copy it back from a backup. Without it, operations that were acknowledged may be lost"
            )
        logger.warning("%s: %d bytes of an operation that was not acknowledged are cut off", path, len(data) - end)
        with path.open("r+b") as file:
            file.truncate(end)
            os.fsync(file.fileno())
    return Log(path), contents


def _content_at(data: bytes, start: int) -> bytes | None:
    """The content of the frame at a place; None if there is no whole one."""
    head = data[start : start + _HEAD.size]
    if len(data) < start + _FRAME or zlib.crc32(head) != _CHECK.unpack_from(data, start + _HEAD.size)[0]:
        return None
    magic, length, checksum = _HEAD.unpack(head)
    content = data[start + _FRAME : start + _FRAME + length]
    return content if magic == _MAGIC and len(content) == length and zlib.crc32(content) == checksum else None


def _is_torn(data: bytes, start: int) -> bool:
    """Whether what is at the end of a log may be a part of a frame that was being written.

    It is none if a whole frame follows, or if all of its bytes are there and none of its sectors is empty.
    """
    if any(_content_at(data, place) is not None for place in _magics(data, start + 1)):
        return False
    head = data[start : start + _FRAME]
    if len(head) < _FRAME or not any(data[start:]):
        return True
    _, length, _ = _HEAD.unpack_from(head)
    is_head = zlib.crc32(head[: _HEAD.size]) == _CHECK.unpack_from(head, _HEAD.size)[0]
    if is_head and start + _FRAME + length > len(data):
        return True
    sectors = range(-(-start // _SECTOR) * _SECTOR, len(data), _SECTOR)
    return any(not any(data[place : place + _SECTOR]) for place in sectors)


def _magics(data: bytes, start: int) -> Iterator[int]:
    """Where a frame may begin."""
    while (start := data.find(_MAGIC, start)) >= 0:
        yield start
        start += 1
