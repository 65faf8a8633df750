"""Compacting: all segments become one, without the deleted documents, with the same codec or with a new one."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from colbertz.errors import UserError, check_integer, check_show_progress, check_type
from colbertz.index.store.manifest import Manifest, check_files
from colbertz.index.store.snapshot import Snapshot
from colbertz.index.write.build import write
from colbertz.index.write.commit import changing, commit, next_name
from colbertz.index.write.merge import merge
from colbertz.index.write.progress import Settings
from colbertz.index.write.stream import CHUNK_TOKENS, Batch, checked

# An index is better compacted if it has more segments than this,
MANY_SEGMENTS = 16
# or a larger share of its documents is deleted,
MANY_DELETED = 0.3
# or a larger share of its tokens is far from all centroids,
MANY_FAR = 0.4
# or it has more than this many times the tokens that its centroids were made for.
GROWN = 4


def compact(
    root: Path,
    *,
    retrain: bool = False,
    seed: int = 42,
    show_progress: bool | None = False,
    block_tokens: int = CHUNK_TOKENS,
) -> None:
    """Write all documents that are not deleted as one segment.

    Args:
        root, retrain, seed, show_progress: see `Index.compact`.
        block_tokens: tokens that are copied at a time.

    Raises:
        UserError, BlockingIOError: as `Index.compact`.
    """
    check_type("retrain", retrain, bool, "True or False")
    check_integer("seed", seed, 0)
    check_show_progress(show_progress)
    with changing(root) as snapshot:
        manifest = snapshot.manifest
        generation = manifest.generation + 1
        if not manifest.num_documents:
            raise UserError(f"{root} has no documents left; build a new index in its place")
        check_files(root, manifest)  # damage is not copied into files with checksums that are right
        if retrain:
            settings = Settings(
                manifest.residual_coding,
                seed,
                manifest.model,
                manifest.fingerprint,
                manifest.encoding,
                compacted=manifest.generation,
            )
            write(
                root,
                generation,
                _decoded(snapshot, block_tokens),
                settings,
                show_progress=show_progress,
                next_number=manifest.next_number,
                chunk_tokens=block_tokens,
                applied=manifest.applied,
            )
        else:
            folder = root / next_name("segment", generation)
            segment = merge(snapshot, folder, show_progress=show_progress, block_tokens=block_tokens)
            commit(root, replace(manifest, generation=generation, segments=(segment,)), [folder])


def _decoded(snapshot: Snapshot, block_tokens: int) -> Iterator[Batch]:
    """The documents that are not deleted, and their decoded embeddings."""
    documents = snapshot.live_documents()
    for block in snapshot.blocks(snapshot.doc_idx_in(snapshot.live), block_tokens):
        yield list(islice(documents, len(block))), checked(snapshot.decode(block))


@dataclass(frozen=True)
class Advice:
    """To compact an index.

    Attributes:
        reason: what is wrong with it.
        retrain: whether it needs new centroids.
    """

    reason: str
    retrain: bool = False

    def __str__(self) -> str:
        return f"{self.reason}; compact it{' with retrain' * self.retrain}"


def advice(manifest: Manifest) -> Advice | None:
    """What would make an index faster, smaller or better; None if nothing would."""
    segments = manifest.segments
    num_tokens = max(1, manifest.num_tokens)
    far = sum(segment.num_far for segment in segments) / num_tokens
    if far > MANY_FAR:
        return Advice(f"{far:.0%} of its tokens are far from their centroids", retrain=True)
    if num_tokens > GROWN * manifest.trained_on:
        return Advice(f"it has {num_tokens / manifest.trained_on:.1f} times the tokens of its centroids", retrain=True)
    deleted = sum(segment.num_deleted for segment in segments) / max(1, sum(s.num_documents for s in segments))
    if deleted > MANY_DELETED:
        return Advice(f"{deleted:.0%} of its documents are deleted")
    if len(segments) > MANY_SEGMENTS:
        return Advice(f"it is in {len(segments)} segments")
    return None
