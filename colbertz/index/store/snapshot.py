"""An index as it was when it was opened: codec, segments, and where each document is."""

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from colbertz.errors import UnknownDocument, UserError
from colbertz.index.store.codec import Codec
from colbertz.index.store.manifest import Manifest, quick_checksum
from colbertz.index.store.segment import Segment, offsets_of, open_segment
from colbertz.kernels.cpu import plaid as plaid_cpu
from colbertz.kernels.cpu import residuals as residuals_cpu
from colbertz.ragged import Ragged


@dataclass(frozen=True, eq=False)
class Snapshot:
    """An index as it was when it was opened: nothing a writer does later changes it.

    Attributes:
        first_doc_idx: (num_segments + 1,) int64, the doc_idx of each segment's first document.
    """

    manifest: Manifest
    codec: Codec
    segments: tuple[Segment, ...]
    first_doc_idx: np.ndarray

    @functools.cached_property
    def byte_order(self) -> np.ndarray:
        return plaid_cpu.byte_order(self.codec.embedding_dim, self.codec.nbits)

    @functools.cached_property
    def centroids(self) -> plaid_cpu.PackedCentroids:
        return plaid_cpu.pack_centroids(self.codec.centroids.numpy(), self.byte_order)

    @functools.cached_property
    def levels(self) -> tuple[np.ndarray, float, float]:
        """Bucket weights in 7 bits, w ≈ low + level · step: the levels by reversed bucket, `low` and `step`."""
        weights = self.codec.bucket_weights.numpy()
        low, step = float(weights.min()), max(float(weights.max() - weights.min()), 1e-9) / 127
        levels = np.zeros(max(16, len(weights)), np.uint8)
        levels[residuals_cpu.reversed_bits(self.codec.nbits)] = np.rint((weights - low) / step)
        return levels, low, step

    def locate(self, numbers: np.ndarray) -> Iterator[tuple[int, slice]]:
        """The segments of sorted document numbers: which, and the part of `numbers` that is there."""
        bounds = np.searchsorted(numbers, self.first_doc_idx)
        for segment in range(len(self.segments)):
            if bounds[segment] < bounds[segment + 1]:
                yield segment, slice(int(bounds[segment]), int(bounds[segment + 1]))

    def decode(self, numbers: np.ndarray) -> Ragged:
        """The decoded embeddings of documents whose numbers are sorted."""
        return Ragged.cat(
            self.segments[segment].decode(self.codec, numbers[part] - self.first_doc_idx[segment])
            for segment, part in self.locate(numbers)
        )

    def doclens(self, numbers: np.ndarray) -> np.ndarray:
        """(num_documents,) int64, the tokens of these documents."""
        lengths: np.ndarray = np.concatenate(
            [np.empty(0, np.int64)] + [np.diff(segment.offsets) for segment in self.segments]
        )[numbers]
        return lengths

    def blocks(self, numbers: np.ndarray, max_tokens: int) -> Iterator[np.ndarray]:
        """Document numbers in parts of at most `max_tokens` tokens; a longer document is alone."""
        ends = np.cumsum(self.doclens(numbers))
        first = 0
        while first < len(numbers):
            begin = int(ends[first - 1]) if first else 0
            last = max(first + 1, int(np.searchsorted(ends, begin + max_tokens, side="right")))
            yield numbers[first:last]
            first = last


def open_snapshot(root: Path) -> Snapshot:
    """Open what the manifest of `root` names; the errors are those of `Index.open`."""
    manifest = Manifest.load(root)
    while True:
        try:
            for name, expected in manifest.files.items():
                if quick_checksum(root / name) != (expected.size, expected.quick):
                    raise UserError(f"{root / name} is damaged: it is not what was written; build the index again")
            codec = Codec.load(root / manifest.codec)
            if (codec.embedding_dim, codec.nbits) != (manifest.embedding_dim, manifest.nbits):
                raise UserError(f"{root} is damaged: its codec is not what its manifest says; build the index again")
            segments = tuple(open_segment(root, info) for info in manifest.segments)
            return Snapshot(manifest, codec, segments, offsets_of([len(segment) for segment in segments]))
        except (FileNotFoundError, ValueError) as error:
            # Another process may have replaced the index, and removed files, since we read its manifest.
            current = Manifest.load(root)
            if current.generation == manifest.generation:
                if isinstance(error, ValueError):
                    raise
                raise UserError(f"{root} is damaged: {error.filename} is missing; build the index again") from error
            manifest = current


def find_doc_idx(snapshot: Snapshot, ids: Sequence[str]) -> dict[str, int]:
    """The numbers of those ids that are in the index and not deleted."""
    found: dict[str, int] = {}
    for segment, first in zip(snapshot.segments, snapshot.first_doc_idx.tolist()):
        for id, number in zip(ids, segment.documents.numbers_of(ids)):
            if number is not None and (segment.live is None or segment.live[number]):
                found[id] = first + number
    return found


def doc_idx_of(snapshot: Snapshot, ids: Iterable[str]) -> np.ndarray:
    """The numbers of documents by their ids, sorted, each once.

    Raises:
        KeyError: naming those that are not there.
        TypeError: for ids that are not strings.
    """
    if isinstance(ids, str):
        raise TypeError(f"ids must be a list of strings, got the string {ids!r}")
    wanted = list(dict.fromkeys(ids))
    for id in wanted:
        if not isinstance(id, str):
            raise TypeError(f"ids must be strings, got {id!r} ({type(id).__name__})")
    found = find_doc_idx(snapshot, wanted)
    missing = [id for id in wanted if id not in found]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise UnknownDocument(f"the index has no document {', '.join(map(repr, missing[:3]))}{more}")
    return np.sort(np.array([found[id] for id in wanted], dtype=np.int64))


def allowed_doc_idx(snapshot: Snapshot, allowed: Sequence[np.ndarray | None]) -> np.ndarray:
    """The numbers of all documents that may be found, sorted."""
    return np.concatenate(
        [np.empty(0, np.int64)]
        + [
            first + (np.arange(len(segment)) if mask is None else np.flatnonzero(mask))
            for segment, mask, first in zip(snapshot.segments, allowed, snapshot.first_doc_idx)
        ]
    )
