"""Checksums of an index's files: quick ones for opening it, complete ones for `check`."""

import os
import stat
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from colbertz.files import sha256
from colbertz.kernels.cpu.sums import bytes_checksum

# Bytes of a page.
_PAGE = 4096
# Pages of a file that the quick checksum covers: the first, the last, and pages at equal distances between them.
_PAGES = 16
# Files that a search reads in parts. Opening an index does not read them; each part has a checksum of its own.
_READ_IN_PARTS = {
    *("codes.npy", "residuals.npy", "inverse_norms.npy", "ivf.npy"),
    *("document_checksums.npy", "documents.sqlite"),
}


@dataclass(frozen=True)
class Checksum:
    """What a file must be.

    Attributes:
        size: in bytes.
        quick: a checksum of some of its pages, compared when it is opened.
        sha256: for `check`.
        whole: a checksum of all of it, compared when it is opened, of files that are then read whole; None for others.
    """

    size: int
    quick: int
    sha256: str
    whole: int | None = None


def checksum(path: Path) -> Checksum:
    """Read the whole file."""
    size, quick = quick_checksum(path)
    return Checksum(size, quick, sha256(path), whole_checksum(path) if path.name not in _READ_IN_PARTS else None)


def whole_checksum(path: Path) -> int:
    """A checksum of all bytes of a file, quicker than SHA-256."""
    # In blocks of 64 KB, whose memory is used again: the system clears new memory, which takes longer than the sum.
    total, begin = 0, 0
    with path.open("rb") as file:
        while len(content := np.fromfile(file, np.uint8, 1 << 16)):
            total += bytes_checksum(content, begin)
            begin += len(content) // 4
    return total % (1 << 32)


def is_as_written(path: Path, expected: Checksum) -> bool:
    """Whether a file has the size and the checksums that are compared when it is opened."""
    return (
        stat.S_ISREG(path.stat().st_mode)
        and quick_checksum(path) == (expected.size, expected.quick)
        and (expected.whole is None or expected.whole == whole_checksum(path))
    )


def quick_checksum(path: Path) -> tuple[int, int]:
    """The size of a file and a CRC-32 of 64 KB of it: enough to see that it is another file, or has a hole."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        last = max(0, size - _PAGE)
        crc = 0
        for start in sorted({last * i // (_PAGES - 1) for i in range(_PAGES)}):
            file.seek(start)
            crc = zlib.crc32(file.read(_PAGE), crc)
    return size, crc
