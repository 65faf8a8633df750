"""Adding, updating and deleting documents. Each makes one new state of the index, or none.

No file of the index is written again: new documents are a new segment, and deletions are a list of documents. Merges
(merge.py) keep the number of segments small.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from colbertz.errors import UnknownDocument, UserError
from colbertz.index.store.arrays import save_array
from colbertz.index.store.document_writer import MAX_FIELDS, replace_metadata
from colbertz.index.store.documents import fold
from colbertz.index.store.manifest import Applied, SegmentInfo
from colbertz.index.store.snapshot import Snapshot
from colbertz.index.write.commit import changing, commit, next_name
from colbertz.index.write.compact import advice
from colbertz.index.write.merge import merge_due
from colbertz.index.write.segment_writer import SegmentWriter
from colbertz.index.write.stream import CHUNK_TOKENS, DocumentStream, chunked, in_step
from colbertz.ragged import Ragged

logger = logging.getLogger(__name__)

OnDuplicate = Literal["error", "replace"]


def add(
    root: Path,
    documents: DocumentStream,
    embeddings: Ragged | Iterable[Ragged],
    *,
    on_duplicate: OnDuplicate = "error",
    only_known: bool = False,
    chunk_tokens: int = CHUNK_TOKENS,
    opened: Snapshot | None = None,
    applied: Applied | None = None,
) -> None:
    """Add a segment of documents, and merge segments where that is due.

    Args:
        root, embeddings, on_duplicate: see `Index.add`.
        documents: as many as there are embeddings. Those without an id get the next numbers of the index that are
            no ids yet.
        only_known: refuse ids that are not in the index, for `Index.update`.
        chunk_tokens: tokens that are coded at a time.
        opened: a state of the index that is open, see `open_snapshot`.
        applied: what the new state contains of a server's log, which merges segments and compacts later; None for no
            more than the old state, and to merge segments now.

    Raises:
        UserError, TypeError, BlockingIOError: as `Index.add`.
        UnknownDocument: for an unknown id, if `only_known`.
    """
    if on_duplicate not in ("error", "replace"):
        raise UserError(f'on_duplicate must be "error" or "replace", got {on_duplicate!r}')
    with changing(root, opened) as snapshot:
        manifest = snapshot.manifest
        generation = manifest.generation + 1
        documents.next_number, documents.is_taken = manifest.next_number, snapshot.has_had
        segment_folder = root / next_name("segment", generation)
        # Where new centroids are needed, as many for a number of tokens as the index had when it was built.
        tokens_per_centroid = manifest.trained_on / len(snapshot.codec.centroids)
        replaced: list[int] = []
        with SegmentWriter(segment_folder, snapshot.codec, tokens_per_centroid=tokens_per_centroid) as writer:
            for rows, values in chunked(in_step(documents, embeddings, manifest.embedding_dim), chunk_tokens):
                writer.add(rows, values)
                replaced += _duplicates(snapshot, [row.id for row in rows], on_duplicate, only_known)
            if not writer.num_documents:
                raise UserError("nothing to add: got no embeddings")
            _check_fields(snapshot, writer.fields)
        new_folders = [segment_folder]
        if writer.codec is not snapshot.codec:
            codec_folder = root / next_name("codec", generation)
            writer.codec.save(codec_folder)
            new_folders.append(codec_folder)
            manifest = replace(manifest, codec=codec_folder.name)
        segments, files = _without(root, snapshot, np.array(replaced, np.int64), generation)
        manifest = replace(
            manifest,
            generation=generation,
            segments=(*segments, writer.info),
            next_number=max(manifest.next_number + writer.num_documents, documents.next_number),
            applied=applied or manifest.applied,
        )
        manifest = commit(root, manifest, new_folders, files)
        if applied is None:
            manifest = merge_due(root, manifest, snapshot)
    if applied is None and (advised := advice(manifest)):
        logger.warning("%s: %s", root, advised)


def _duplicates(snapshot: Snapshot, ids: Sequence[str], on_duplicate: OnDuplicate, only_known: bool) -> list[int]:
    """The doc_idx of the documents that new documents with these ids replace."""
    known = snapshot.find(ids)
    if known and on_duplicate == "error":
        raise UserError(f"the index already has a document {next(iter(known))!r}; give the new one another id")
    if only_known and len(known) < len(ids):
        unknown = next(doc_id for doc_id in ids if doc_id not in known)
        raise UnknownDocument(f"the index has no document {unknown!r} to update; use add for new ones")
    return list(known.values())


def _check_fields(snapshot: Snapshot, new: Iterable[str]) -> None:
    """Check that one segment can hold the metadata keys of all documents, because compacting makes one."""
    known = {fold(name) for segment in snapshot.segments for name in segment.documents.fields}
    if len(known | set(new)) > MAX_FIELDS:
        raise UserError(
            f"with these documents the index would have more than {MAX_FIELDS:,} metadata keys; keys should be the"
            " names of fields"
        )


def delete(root: Path, ids: Iterable[str], *, opened: Snapshot | None = None, applied: Applied | None = None) -> int:
    """Delete documents and return how many they were. The errors are those of `Index.delete`.

    Args:
        root, ids: see `Index.delete`.
        opened: a state of the index that is open, see `open_snapshot`.
        applied: as for `add`; if given, there is a new state for no ids too.
    """
    with changing(root, opened) as snapshot:
        manifest = snapshot.manifest
        doc_idx = np.unique(snapshot.doc_idx_of(ids))
        if len(doc_idx) or applied:
            generation = manifest.generation + 1
            segments, files = _without(root, snapshot, doc_idx, generation)
            manifest = replace(manifest, generation=generation, segments=segments, applied=applied or manifest.applied)
            manifest = commit(root, manifest, [], files)
        if applied is None:
            merge_due(root, manifest, snapshot)
    return len(doc_idx)


def merge_segments(root: Path, *, opened: Snapshot | None = None) -> None:
    """Merge segments where that is due, see merge.py; for changes that were made with `applied`.

    Raises:
        BlockingIOError: if another process is writing.
    """
    with changing(root, opened) as snapshot:
        merge_due(root, snapshot.manifest, snapshot)


def update_metadata(
    root: Path,
    ids: Iterable[str],
    updates: dict[str, Any],
    *,
    opened: Snapshot | None = None,
    applied: Applied | None = None,
) -> int:
    """Give some metadata keys of documents new values, and return how many documents that were.

    The documents keep their places, and no embeddings are written again.

    Args:
        root: the index.
        ids: of the documents.
        updates: the keys with their new values; other keys stay.
        opened, applied: as for `delete`.

    Raises:
        UnknownDocument: if an id is not in the index. Nothing has changed then.
        UserError, TypeError: as `DocumentWriter.add` for metadata.
        BlockingIOError: if another process is writing.
    """
    with changing(root, opened) as snapshot:
        manifest = snapshot.manifest
        doc_idx = np.unique(snapshot.doc_idx_of(ids))
        if len(doc_idx) or applied:
            generation = manifest.generation + 1
            segments = list(manifest.segments)
            files = []
            for segment_idx, part in snapshot.locate(doc_idx):
                info, documents = segments[segment_idx], snapshot.segments[segment_idx].documents
                local_idx = doc_idx[part] - snapshot.first_doc_idx[segment_idx]
                changed = [replace(row, metadata=row.metadata | updates) for row in documents.get(local_idx)]
                path = root / info.name / f"documents-{generation:06d}.sqlite"
                fields = replace_metadata(root / info.documents_name, path, dict(zip(local_idx.tolist(), changed)))
                _check_fields(snapshot, fields)
                files.append(path)
                segments[segment_idx] = replace(info, documents=str(path.relative_to(root)))
            manifest = replace(
                manifest, generation=generation, segments=tuple(segments), applied=applied or manifest.applied
            )
            commit(root, manifest, [], files)
    return len(doc_idx)


def _without(
    root: Path, snapshot: Snapshot, doc_idx: np.ndarray, generation: int
) -> tuple[tuple[SegmentInfo, ...], list[Path]]:
    """Delete documents from the segments.

    Returns:
        The entries of the segments that have documents left, and the new files that list their deleted documents.
    """
    doc_idx = np.sort(doc_idx)
    segments = list(snapshot.manifest.segments)
    files = []
    for segment_idx, part in snapshot.locate(doc_idx):
        info, live = segments[segment_idx], snapshot.segments[segment_idx].live
        dead = np.zeros(info.num_documents, bool) if live is None else ~live
        dead[doc_idx[part] - snapshot.first_doc_idx[segment_idx]] = True
        if dead.all():
            segments[segment_idx] = replace(info, num_deleted=info.num_documents)
            continue
        path = root / info.name / f"deleted-{generation:06d}.npy"
        save_array(path, np.flatnonzero(dead).astype(np.int32))
        files.append(path)
        segments[segment_idx] = replace(info, deleted=str(path.relative_to(root)), num_deleted=int(dead.sum()))
    return tuple(info for info in segments if info.num_deleted < info.num_documents), files
