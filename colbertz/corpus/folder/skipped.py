"""Why a file of a folder is not read, and how many files and bytes that concerns."""

from collections import Counter
from dataclasses import dataclass, field

# The reasons. Ignored folders count once, whatever is in them.
IGNORED = "ignored"
HIDDEN = "hidden"
EXCLUDED = "excluded"
LINK = "symbolic link"
SPECIAL = "not a regular file"
UNREADABLE = "unreadable"
BINARY = "binary"
GENERATED = "generated"
HUGE = "huge"
EMPTY = "empty"
DAMAGED = "damaged"
EXTRA = "install colbertz[files]"


@dataclass(frozen=True)
class SkippedFile:
    """A file that is not read.

    Attributes:
        reason: one of the constants of this module.
        size: bytes of the file.
    """

    reason: str
    size: int = 0


@dataclass
class Skipped:
    """How many files were not read, and their bytes, for each reason."""

    counts: Counter[str] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=Counter)

    def add(self, reason: str, size: int = 0) -> None:
        """Count one file or folder."""
        self.counts[reason] += 1
        self.sizes[reason] += size
