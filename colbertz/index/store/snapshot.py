"""An index as it was when it was opened: codec, segments, and where each document is."""

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from colbertz.document import Document
from colbertz.errors import UnknownDocument, UserError
from colbertz.index.store.checksums import is_as_written
from colbertz.index.store.codec import Codec
from colbertz.index.store.encoded import Encoded
from colbertz.index.store.manifest import Manifest, SegmentInfo
from colbertz.index.store.segment import Segment, offsets_of, open_segment, read_documents, read_live
from colbertz.kernels import cpu
from colbertz.ragged import Ragged

# For each segment, which of its documents may be found, (num_documents,) bool; None for all of them.
Masks = Sequence[np.ndarray | None]


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The state of an index at one moment: nothing that a writer does later changes it.

    A document is named by its id (`doc_id`, a string), by its place among all documents of the snapshot (`doc_idx`), or
    by its segment (`segment_idx`) and its place in that (`local_idx`). Deleted documents keep their places.

    Attributes:
        manifest: what the index says of itself.
        codec: turns embeddings into codes and back.
        segments: oldest first.
        first_doc_idx: (num_segments + 1,) int64, the doc_idx of each segment's first document.
    """

    manifest: Manifest
    codec: Codec
    segments: tuple[Segment, ...]
    first_doc_idx: np.ndarray

    @property
    def byte_order(self) -> np.ndarray:
        return self.codec.byte_order

    @property
    def centroids(self) -> "cpu.plaid.PackedCentroids":
        return self.codec.packed_centroids

    @functools.cached_property
    def live(self) -> Masks:
        """The mask of each segment that leaves out its deleted documents."""
        return tuple(segment.live for segment in self.segments)

    @functools.cached_property
    def mean_tokens(self) -> float:
        """The mean number of tokens of a document, deleted ones included."""
        return self.manifest.num_tokens / int(self.first_doc_idx[-1])

    def require_untouched(self) -> None:
        """Check that no program has written to the mapped files; see `Segment.require_untouched`."""
        for segment in self.segments:
            segment.require_untouched()

    # -- from ids to doc_idx and back ------------------------------------------------------------------------------

    def find(self, ids: Sequence[str]) -> dict[str, int]:
        """The doc_idx of each id that is in the index and not deleted; other ids are left out."""
        places: dict[str, int] = {}
        for segment, first_doc_idx in zip(self.segments, self.first_doc_idx.tolist()):
            for doc_id, local_idx in zip(ids, segment.documents.local_idx_of(ids)):
                if local_idx is not None and (segment.live is None or segment.live[local_idx]):
                    places[doc_id] = first_doc_idx + local_idx
        return places

    def has_had(self, doc_id: str) -> bool:
        """Whether a document has this id, or a deleted one whose segment was not rewritten since."""
        return any(segment.documents.local_idx_of([doc_id]) != [None] for segment in self.segments)

    def doc_idx_of(self, ids: Iterable[str]) -> np.ndarray:
        """The doc_idx of each id, (num_ids,) int64, in the order of the ids.

        Raises:
            UnknownDocument: naming the ids that are not in the index.
            TypeError: if an id is not a string, or `ids` is one string.
        """
        if isinstance(ids, str):
            raise TypeError(f"ids must be a list of strings, got the string {ids!r}")
        ids = list(ids)
        for doc_id in ids:
            if not isinstance(doc_id, str):
                raise TypeError(f"ids must be strings, got {doc_id!r} ({type(doc_id).__name__})")
        places = self.find(ids)
        missing = [doc_id for doc_id in dict.fromkeys(ids) if doc_id not in places]
        if missing:
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            raise UnknownDocument(f"the index has no document {', '.join(map(repr, missing[:3]))}{more}")
        return np.array([places[doc_id] for doc_id in ids], dtype=np.int64)

    def doc_idx_in(self, masks: Masks) -> np.ndarray:
        """The doc_idx of all documents that the masks of the segments let through, ascending, int64."""
        return np.concatenate(
            [np.empty(0, np.int64)]
            + [
                first_doc_idx + (np.arange(len(segment)) if mask is None else np.flatnonzero(mask))
                for segment, mask, first_doc_idx in zip(self.segments, masks, self.first_doc_idx)
            ]
        )

    def locate(self, doc_idx: np.ndarray) -> Iterator[tuple[int, slice]]:
        """Divide ascending `doc_idx` among the segments.

        Yields:
            The segment_idx of each segment that has some of these documents, and which slice of `doc_idx` they are.
        """
        bounds = np.searchsorted(doc_idx, self.first_doc_idx)
        for segment_idx in range(len(self.segments)):
            if bounds[segment_idx] < bounds[segment_idx + 1]:
                yield segment_idx, slice(int(bounds[segment_idx]), int(bounds[segment_idx + 1]))

    def by_segment(self, doc_idx: np.ndarray) -> Iterator[tuple[Segment, np.ndarray]]:
        """Each segment that has some of the documents (ascending `doc_idx`), and their local_idx in it."""
        for segment_idx, part in self.locate(doc_idx):
            yield self.segments[segment_idx], doc_idx[part] - self.first_doc_idx[segment_idx]

    # -- what documents hold ---------------------------------------------------------------------------------------

    def documents(self, doc_idx: Sequence[int] | np.ndarray) -> list[Document]:
        """The documents with these doc_idx, which need not be sorted, in the same order."""
        unique, places = np.unique(np.asarray(doc_idx, np.int64), return_inverse=True)
        rows = [row for segment, local_idx in self.by_segment(unique) for row in segment.documents.get(local_idx)]
        return [rows[place] for place in places]

    def live_documents(self, masks: Masks | None = None) -> Iterator[Document]:
        """The documents that are not deleted, in order; if `masks` are given, those that they let through."""
        for segment, mask in zip(self.segments, self.live if masks is None else masks):
            for local_idx, document in enumerate(segment.documents):
                if mask is None or mask[local_idx]:
                    yield document

    def ids(self, masks: Masks | None = None) -> list[str]:
        """The ids of the documents that are not deleted, in order; with `masks`, of those that they let through."""
        return [
            doc_id
            for segment, mask in zip(self.segments, self.live if masks is None else masks)
            for local_idx, doc_id in enumerate(segment.documents.ids())
            if mask is None or mask[local_idx]
        ]

    def count(self, masks: Masks) -> int:
        """How many documents the masks let through."""
        return sum(
            len(segment) if mask is None else int(np.count_nonzero(mask)) for segment, mask in zip(self.segments, masks)
        )

    # -- their tokens ----------------------------------------------------------------------------------------------

    def doclens(self, doc_idx: np.ndarray) -> np.ndarray:
        """The number of tokens of each document, (num_documents,) int64."""
        lengths: np.ndarray = np.concatenate(
            [np.empty(0, np.int64)] + [np.diff(segment.arrays.offsets) for segment in self.segments]
        )[doc_idx]
        return lengths

    def estimated_num_far(self) -> int:
        """About how many tokens of the documents that are not deleted are far from their centroids.

        It is known for all tokens of a segment only, so it is the same share of them.
        """
        share = sum(info.num_far for info in self.manifest.segments) / max(1, self.manifest.num_tokens)
        return round(share * int(self.doclens(self.doc_idx_in(self.live)).sum()))

    def blocks(self, doc_idx: np.ndarray, max_tokens: int) -> Iterator[np.ndarray]:
        """Divide documents into runs of at most `max_tokens` tokens; a longer document is a block of its own."""
        ends = np.cumsum(self.doclens(doc_idx))
        first = 0
        while first < len(doc_idx):
            begin = int(ends[first - 1]) if first else 0
            last = max(first + 1, int(np.searchsorted(ends, begin + max_tokens, side="right")))
            yield doc_idx[first:last]
            first = last

    def encoded(self, doc_idx: np.ndarray) -> Encoded:
        """The coded tokens of the documents with these ascending doc_idx."""
        parts = [segment.encoded(local_idx) for segment, local_idx in self.by_segment(doc_idx)]
        return parts[0] if len(parts) == 1 else Encoded.cat(parts)

    def decode(self, doc_idx: np.ndarray) -> Ragged:
        """The decoded embeddings of the documents with these ascending doc_idx, float32."""
        return Ragged.cat(segment.decode(self.codec, local_idx) for segment, local_idx in self.by_segment(doc_idx))


def open_snapshot(root: Path, before: Snapshot | None = None) -> Snapshot:
    """Open what the manifest of `root` names; the errors are those of `Index.open`.

    Args:
        root: the index.
        before: a state of the same index. What has not changed since is taken from it and not opened again, so that a
            small change is seen at a small cost, and two states do not hold two descriptors for a file.
    """
    manifest = Manifest.load(root)
    while True:
        try:
            return _open(root, manifest, before)
        except (FileNotFoundError, ValueError) as error:
            # Another process may have replaced the index, and removed files, since we read its manifest.
            current = Manifest.load(root)
            if current.generation == manifest.generation:
                if isinstance(error, ValueError):
                    raise
                raise UserError(f"{root} is damaged: {error.filename} is missing; build the index again") from error
            manifest = current


def _open(root: Path, manifest: Manifest, before: Snapshot | None) -> Snapshot:
    known = before.manifest.files if before else {}
    new = [name for name, expected in manifest.files.items() if known.get(name) != expected]
    for name in new:
        if not is_as_written(root / name, manifest.files[name]):
            raise UserError(f"{root / name} is damaged: it is not what was written; build the index again")
    replaceable = {name for info in manifest.segments for name in (info.deleted, info.documents)}
    new_folders = {Path(name).parent.name for name in new if name not in replaceable}
    if before and before.manifest.codec == manifest.codec and manifest.codec not in new_folders:
        codec = before.codec
    else:
        codec = Codec.load(root / manifest.codec, manifest.residual_coding)
    if (codec.embedding_dim, codec.coding) != (manifest.embedding_dim, manifest.residual_coding):
        raise UserError(f"{root} is damaged: its codec is not what its manifest says; build the index again")
    opened = dict(zip(before.manifest.segments, before.segments)) if before else {}
    # A deletion and a change of metadata give a segment another file, and leave the others as they are.
    unchanged = {_as_added(info): (info, segment) for info, segment in opened.items()}
    segments = []
    for info in manifest.segments:
        old, segment = unchanged.get(_as_added(info), (info, None))
        if segment is None or info.name in new_folders:
            segment = open_segment(root, info, codec)
        else:
            if info.deleted != old.deleted or info.deleted in new:
                segment = replace(segment, live=read_live(root, info))
            if info.documents != old.documents or info.documents in new:
                segment = replace(segment, documents=read_documents(root, info))
        segments.append(segment)
    return Snapshot(manifest, codec, tuple(segments), offsets_of([len(segment) for segment in segments]))


def _as_added(info: SegmentInfo) -> SegmentInfo:
    """The entry of a segment before anything was deleted or changed in it."""
    return replace(info, deleted=None, num_deleted=0, documents=None)
