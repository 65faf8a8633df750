"""What is copied from one index to another: documents that are not deleted, and their codes as they are.

Compaction copies an index into itself, as one segment; conversions (interop/) copy it into another directory.
"""

from collections.abc import Iterator

import numpy as np
from tqdm import tqdm

from colbertz.document import Document
from colbertz.index.store.codec import Encoded
from colbertz.index.store.documents import write_documents
from colbertz.index.store.manifest import SegmentFiles, SegmentInfo
from colbertz.index.store.snapshot import Snapshot
from colbertz.index.write.commit import segment_info, write_codes, write_lists

# 16 MB of residuals at 4 bits and 128 dimensions.
BLOCK_TOKENS = 1 << 18


def merge(snapshot: Snapshot, files: SegmentFiles, show_progress: bool | None) -> SegmentInfo:
    """Write everything that is not deleted as one new segment, for the codec of the snapshot."""
    numbers = live_doc_idx(snapshot)
    doclens = snapshot.doclens(numbers)
    num_tokens = int(doclens.sum())
    quiet = None if show_progress is None else not show_progress
    with (
        write_documents(files.documents) as rows,
        write_codes(files, snapshot.codec) as codes,
        tqdm(desc="compacting", total=num_tokens, unit=" tokens", unit_scale=True, disable=quiet, leave=False) as bar,
    ):
        rows.add(documents(snapshot))
        for piece in tokens(snapshot, numbers):
            codes.write(piece)
            bar.update(len(piece.codes))
    write_lists(files, doclens, len(snapshot.codec.centroids))
    return segment_info(files.folder.name, doclens, num_far(snapshot, num_tokens))


def live_doc_idx(snapshot: Snapshot) -> np.ndarray:
    """Sorted numbers (int64) of the documents that are not deleted."""
    return snapshot.doc_idx_in(snapshot.live)


def num_far(snapshot: Snapshot, num_tokens: int) -> int:
    """How many of so many tokens that are not deleted are far from their centroids: the share that all have.

    Those of deleted documents are not known apart.
    """
    share = sum(info.num_far for info in snapshot.manifest.segments) / max(1, snapshot.manifest.num_tokens)
    return round(share * num_tokens)


def tokens(snapshot: Snapshot, numbers: np.ndarray) -> Iterator[Encoded]:
    """The coded tokens of documents whose numbers are sorted, in pieces of at most `BLOCK_TOKENS`."""
    for at, part in snapshot.locate(numbers):
        segment, own = snapshot.segments[at].arrays, numbers[part] - snapshot.first_doc_idx[at]
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
