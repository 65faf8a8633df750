"""Merging segments, so that an index has few of them however often it was changed: each costs every search some time.

After each change:

- A segment is merged with all later ones when those together have at least as many tokens. So each segment has more
  tokens than all later ones together: there are at most log2(tokens) + 1 segments. A merge at least doubles the segment
  that a token is in, so a token is copied at most log2(tokens) times. Sources: Bentley and Saxe 1980; O'Neil et al.
  1996 (the log-structured merge-tree).
- A segment is written again when more than half of its documents are deleted. That copies fewer documents than there
  were deletions.

Deleted documents do not count as tokens here. Only neighbours are merged, so that documents stay in order. Tokens keep
their codes.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from colbertz.errors import UserError
from colbertz.index.store.manifest import Manifest, SegmentInfo, check_files
from colbertz.index.store.segment import offsets_of
from colbertz.index.store.snapshot import Snapshot, open_snapshot
from colbertz.index.write.commit import commit, next_name, remove_leftovers
from colbertz.index.write.segment_writer import SegmentWriter
from colbertz.index.write.stream import CHUNK_TOKENS
from colbertz.progress import progress

logger = logging.getLogger(__name__)


def merge_due(root: Path, manifest: Manifest, before: Snapshot) -> Manifest:
    """Merge what is due in the index `root`, whose lock this process holds. Each merge is a state of its own.

    A merge that fails leaves the index as it was, and a warning: the change before it is complete.

    Args:
        root: the index.
        manifest: its present state.
        before: this or an earlier state, opened.

    Returns:
        The state afterwards.
    """
    while (due := due_merge(manifest.segments)) is not None:
        generation = manifest.generation + 1
        folder = root / next_name("segment", generation)
        try:
            before = open_snapshot(root, before)
            part = part_of(before, due)
            check_files(root, part.manifest)  # damage is not copied into files with checksums that are right
            merged = merge(part, folder)
            segments = (*manifest.segments[: due.start], merged, *manifest.segments[due.stop :])
            manifest = commit(root, replace(manifest, generation=generation, segments=segments), [folder])
        except (OSError, UserError) as error:
            manifest = Manifest.load(root)
            remove_leftovers(root, manifest)
            logger.warning("%s: the documents were changed, but segments could not be merged: %s", root, error)
            break
    return manifest


def due_merge(segments: Sequence[SegmentInfo]) -> slice | None:
    """Which segments should become one; None if all should stay."""
    sizes = [info.num_tokens * (info.num_documents - info.num_deleted) // info.num_documents for info in segments]
    for first in range(len(segments) - 1):
        if sizes[first] <= sum(sizes[first + 1 :]):
            return slice(first, len(segments))
    for segment_idx, info in enumerate(segments):
        if 2 * info.num_deleted > info.num_documents:
            return slice(segment_idx, segment_idx + 1)
    return None


def part_of(snapshot: Snapshot, chosen: slice) -> Snapshot:
    """A snapshot that has only some of the segments."""
    segments = snapshot.segments[chosen]
    infos = snapshot.manifest.segments[chosen]
    folders = {info.name for info in infos}
    files = {name: file for name, file in snapshot.manifest.files.items() if Path(name).parent.name in folders}
    manifest = replace(snapshot.manifest, segments=infos, files=files)
    return Snapshot(manifest, snapshot.codec, segments, offsets_of([len(segment) for segment in segments]))


def merge(
    snapshot: Snapshot,
    folder: Path,
    *,
    show_progress: bool | None = False,
    what: str = "compacting",
    block_tokens: int = CHUNK_TOKENS,
) -> SegmentInfo:
    """Write the documents that are not deleted as one new segment, with the codec of the snapshot.

    Codes and residuals are copied as they are. `what` names the job for the progress.
    """
    doc_idx = snapshot.doc_idx_in(snapshot.live)
    doclens = snapshot.doclens(doc_idx)
    documents = snapshot.live_documents()
    with (
        SegmentWriter(folder, snapshot.codec) as writer,
        progress(what, int(doclens.sum()), "tokens", show_progress) as bar,
    ):
        for block in snapshot.blocks(doc_idx, block_tokens):
            encoded = snapshot.encoded(block)
            writer.add_coded(islice(documents, len(block)), encoded, snapshot.doclens(block))
            bar.update(len(encoded))
    return replace(writer.info, num_far=snapshot.estimated_num_far())
