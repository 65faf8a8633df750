"""What is copied from one index to another: documents that are not deleted, and their codes as they are."""

from collections.abc import Iterator

import numpy as np

from colbertz.index.codec import Encoded
from colbertz.index.documents import Document
from colbertz.index.snapshot import Snapshot, allowed_numbers

# 16 MB of residuals at 4 bits and 128 dimensions.
BLOCK_TOKENS = 1 << 18


def live_numbers(snapshot: Snapshot) -> np.ndarray:
    """Sorted numbers (int64) of the documents that are not deleted."""
    return allowed_numbers(snapshot, [segment.live for segment in snapshot.segments])


def doclens(snapshot: Snapshot, numbers: np.ndarray) -> np.ndarray:
    """(num_documents,) int64, the tokens of these documents."""
    lengths: np.ndarray = np.concatenate([np.diff(segment.offsets) for segment in snapshot.segments])[numbers]
    return lengths


def num_far(snapshot: Snapshot, num_tokens: int) -> int:
    """How many of so many tokens that are not deleted are far from their centroids: the share that all have."""
    manifest = snapshot.manifest
    return round(sum(info.num_far for info in manifest.segments) / manifest.num_tokens * num_tokens)


def tokens(snapshot: Snapshot, numbers: np.ndarray) -> Iterator[Encoded]:
    """The coded tokens of documents whose numbers are sorted, in pieces of at most `BLOCK_TOKENS`."""
    for at, part in snapshot.locate(numbers):
        segment, own = snapshot.segments[at], numbers[part] - snapshot.firsts[at]
        for run in np.split(own, np.flatnonzero(np.diff(own) > 1) + 1):
            begin, end = int(segment.offsets[run[0]]), int(segment.offsets[run[-1] + 1])
            for first in range(begin, end, BLOCK_TOKENS):
                piece = slice(first, min(end, first + BLOCK_TOKENS))
                yield Encoded(segment.codes[piece], segment.residuals[piece], segment.inverse_norms[piece])


def documents(snapshot: Snapshot) -> Iterator[Document]:
    """The documents that are not deleted, in order."""
    for segment in snapshot.segments:
        for number, document in enumerate(segment.documents):
            if segment.live is None or segment.live[number]:
                yield document
