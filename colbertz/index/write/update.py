"""Changing an index: adding, deleting, updating, compacting. Each makes one new state of the manifest, or none.

Nothing that is there is written again: new documents are a new segment, a deletion is a list of numbers, and compacting
writes one segment in place of all.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from colbertz.errors import UnknownDocument, UserError
from colbertz.index.interop import require_own
from colbertz.index.store.codec import Codec
from colbertz.index.store.documents import MAX_FIELDS, fold, write_documents
from colbertz.index.store.manifest import Manifest, SegmentFiles, SegmentInfo
from colbertz.index.store.snapshot import Snapshot, open_snapshot
from colbertz.index.write import build as building
from colbertz.index.write import compact as copying
from colbertz.index.write.build import CHUNK_TOKENS
from colbertz.index.write.commit import (
    commit,
    next_name,
    only_writer,
    remove_leftovers,
    segment_info,
    write_codes,
    write_lists,
)
from colbertz.index.write.stream import Described, checked, chunked
from colbertz.ragged import Ragged

logger = logging.getLogger(__name__)

# By its definition a quarter of a collection's tokens is farther from a centroid than `cluster_threshold`. Where more
# than this share of new ones is, centroids are missing.
_FAR_SHARE = 0.5
# When an index is better compacted: too many segments, deleted documents, far tokens, or tokens for its centroids.
_MANY_SEGMENTS, _MANY_DELETED, _MANY_FAR, _GROWN = 16, 0.3, 0.4, 4

OnDuplicate = Literal["error", "replace"]


def add(
    root: Path,
    embeddings: Ragged | Iterable[Ragged],
    *,
    ids: Iterable[str] | None,
    texts: Iterable[str | None] | None,
    metadata: Iterable[dict[str, Any]] | None,
    on_duplicate: OnDuplicate,
    only_known: bool = False,
) -> None:
    """Add a segment of documents; the arguments and errors are those of `Index.add`.

    Args:
        only_known: refuse ids that are not in the index, for `Index.update`.
    """
    with _changing(root) as snapshot:
        manifest = snapshot.manifest
        generation = manifest.generation + 1
        folder = root / next_name("segment", generation)
        folder.mkdir()
        codec, info, replaced = _write_segment(
            SegmentFiles(folder),
            snapshot,
            checked(embeddings, manifest.embedding_dim),
            Described(ids, texts, metadata, manifest.next_number),
            on_duplicate,
            only_known,
        )
        folders = [folder]
        if codec is not snapshot.codec:
            folders.append(root / next_name("codec", generation))
            folders[1].mkdir()
            codec.save(folders[1])
        segments, files = _with_deleted(root, snapshot, replaced, generation)
        manifest = replace(
            manifest,
            generation=generation,
            codec=folders[-1].name if len(folders) > 1 else manifest.codec,
            segments=(*segments, info),
            next_number=manifest.next_number + info.num_documents,
        )
        manifest = commit(root, manifest, folders, files)
    if advised := advice(manifest):
        logger.warning("%s: %s", root, advised)


@contextmanager
def _changing(root: Path) -> Iterator[Snapshot]:
    """The state that the only writer starts from. Before and after, what no state needs is removed."""
    require_own(root)
    with only_writer(root):
        remove_leftovers(root, Manifest.load(root))
        try:
            yield open_snapshot(root)
        except BaseException:
            # By the manifest on disk and not the one we had: Ctrl-C may come when the new state is already there.
            remove_leftovers(root, Manifest.load(root))
            raise


def _write_segment(
    files: SegmentFiles,
    snapshot: Snapshot,
    batches: Iterator[Ragged],
    described: Described,
    on_duplicate: OnDuplicate,
    only_known: bool,
) -> tuple[Codec, SegmentInfo, np.ndarray]:
    """Returns the codec, perhaps with new centroids, the new segment, and the numbers of the documents it replaces."""
    codec, density = snapshot.codec, snapshot.manifest.trained_on / len(snapshot.codec.centroids)
    doclens: list[int] = []
    replaced: list[int] = []
    num_far = 0
    with write_documents(files.documents) as documents, write_codes(files, codec) as codes:
        for chunk in chunked(batches, CHUNK_TOKENS):
            rows = described.take(len(chunk))
            documents.add(rows)
            replaced += _duplicates(snapshot, [row.id for row in rows], on_duplicate, only_known)
            encoded, distances = codec.encode(chunk.values)
            far = distances > codec.cluster_threshold
            if far.mean() > _FAR_SHARE:
                codec = codec.extended(chunk.values[torch.from_numpy(far)], density, codes.code_dtype)
                encoded, distances = codec.encode(chunk.values)
            codes.write(encoded)
            num_far += int((distances > codec.cluster_threshold).sum())
            doclens += chunk.lengths.tolist()
        described.check_exhausted()
        if not doclens:
            raise UserError("nothing to add: got no embeddings")
    _check_fields(snapshot, documents.fields)
    lengths = np.array(doclens, dtype=np.int64)
    write_lists(files, lengths, len(codec.centroids))
    return codec, segment_info(files.folder.name, lengths, num_far), np.array(replaced, dtype=np.int64)


def _duplicates(snapshot: Snapshot, ids: Sequence[str], on_duplicate: OnDuplicate, only_known: bool) -> list[int]:
    found = snapshot.find(ids)
    if found and on_duplicate == "error":
        raise UserError(
            f"the index already has a document {next(iter(found))!r};"
            ' use update, or add with on_duplicate="replace", to put new ones in place of old ones'
        )
    if only_known and len(found) < len(ids):
        unknown = next(id for id in ids if id not in found)
        raise UnknownDocument(f"the index has no document {unknown!r} to update; use add for new ones")
    return list(found.values())


def _check_fields(snapshot: Snapshot, new: Iterable[str]) -> None:
    """Compacted, all segments share one table of fields."""
    known = {fold(name) for segment in snapshot.segments for name in segment.documents.fields}
    if len(known | set(new)) > MAX_FIELDS:
        raise UserError(
            f"with these documents the index would have more than {MAX_FIELDS:,} metadata keys; keys should be the"
            " names of fields"
        )


def delete(root: Path, ids: Iterable[str]) -> int:
    """Delete documents; returns how many. The errors are those of `Index.delete`."""
    with _changing(root) as snapshot:
        numbers = np.unique(snapshot.doc_idx_of(ids))
        if len(numbers):
            generation = snapshot.manifest.generation + 1
            segments, files = _with_deleted(root, snapshot, numbers, generation)
            commit(root, replace(snapshot.manifest, generation=generation, segments=segments), [], files)
    return len(numbers)


def _with_deleted(
    root: Path, snapshot: Snapshot, numbers: np.ndarray, generation: int
) -> tuple[tuple[SegmentInfo, ...], list[Path]]:
    """The segments without these documents, and the new lists of deleted ones. Empty segments are left out."""
    numbers = np.sort(numbers)
    segments = list(snapshot.manifest.segments)
    files = []
    for at, part in snapshot.locate(numbers):
        info, live = segments[at], snapshot.segments[at].live
        dead = np.zeros(info.num_documents, bool) if live is None else ~live
        dead[numbers[part] - snapshot.first_doc_idx[at]] = True
        if dead.all():
            segments[at] = replace(info, num_deleted=info.num_documents)
            continue
        path = root / info.name / f"deleted-{generation:06d}.npy"
        np.save(path, np.flatnonzero(dead).astype(np.int32), allow_pickle=False)
        files.append(path)
        segments[at] = replace(info, deleted=str(path.relative_to(root)), num_deleted=int(dead.sum()))
    return tuple(info for info in segments if info.num_deleted < info.num_documents), files


def advice(manifest: Manifest) -> str | None:
    """What would make the index faster, smaller or better, if anything would."""
    segments = manifest.segments
    num_tokens = max(1, manifest.num_tokens)
    far = sum(segment.num_far for segment in segments) / num_tokens
    if far > _MANY_FAR:
        return f"{far:.0%} of its tokens are far from their centroids; compact it with retrain"
    if num_tokens > _GROWN * manifest.trained_on:
        return (
            f"it has {num_tokens / manifest.trained_on:.1f} times the tokens of its centroids; compact it with retrain"
        )
    deleted = sum(segment.num_deleted for segment in segments) / max(1, sum(s.num_documents for s in segments))
    if deleted > _MANY_DELETED:
        return f"{deleted:.0%} of its documents are deleted; compact it"
    if len(segments) > _MANY_SEGMENTS:
        return f"it is in {len(segments)} segments; compact it"
    return None


def compact(root: Path, *, retrain: bool, seed: int, show_progress: bool | None) -> None:
    """Write all documents that are not deleted as one segment; the arguments are those of `Index.compact`."""
    with _changing(root) as snapshot:
        manifest = snapshot.manifest
        generation = manifest.generation + 1
        if not manifest.num_documents:
            raise UserError(f"{root} has no documents left; build a new index in its place")
        if retrain:
            settings = building.Settings(
                manifest.nbits, seed, manifest.model, manifest.fingerprint, compacted=manifest.generation
            )
            described = Described(*_columns(snapshot))
            blocks = snapshot.blocks(copying.live_doc_idx(snapshot), CHUNK_TOKENS)
            building.write(
                root,
                generation,
                (snapshot.decode(block) for block in blocks),
                settings,
                described,
                show_progress=show_progress,
                next_number=manifest.next_number,
            )
            return
        folder = root / next_name("segment", generation)
        folder.mkdir()
        info = copying.merge(snapshot, SegmentFiles(folder), show_progress)
        commit(root, replace(manifest, generation=generation, segments=(info,)), [folder])


def _columns(snapshot: Snapshot) -> tuple[Iterator[str], Iterator[str | None], Iterator[dict[str, Any]]]:
    return (
        (document.id for document in copying.documents(snapshot)),
        (document.text for document in copying.documents(snapshot)),
        (document.metadata for document in copying.documents(snapshot)),
    )
