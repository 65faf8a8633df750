"""A segment: documents that were added together, coded, with an inverted list for each cell. It never changes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from colbertz.errors import UserError
from colbertz.index.store.codec import Codec, Encoded
from colbertz.index.store.documents import Documents
from colbertz.index.store.manifest import SegmentFiles, SegmentInfo
from colbertz.index.store.npy import open_array
from colbertz.kernels import cpu
from colbertz.ragged import Ragged


class SegmentArrays(NamedTuple):
    """A segment's coded tokens and inverted lists, as search kernels read them. The large ones are memory-mapped.

    Attributes:
        codes: (num_tokens,) uint16 or uint32, the centroid of each token.
        residuals: (num_tokens, embedding_dim · nbits / 8) uint8.
        inverse_norms: (num_tokens,) float32, 1 / norm of centroid + residual.
        offsets: (num_documents + 1,) int64, the first token of each document.
        ivf: (num_postings,) int32, the local_idx of the documents in each cell, ascending within a cell.
        ivf_offsets: (num_cells + 1,) int64, the first posting of each cell. Centroids that were added to the codec
            after this segment was written have no cell here.
    """

    codes: np.ndarray
    residuals: np.ndarray
    inverse_norms: np.ndarray
    offsets: np.ndarray
    ivf: np.ndarray
    ivf_offsets: np.ndarray


@dataclass(frozen=True, eq=False)
class Segment:
    """An open segment.

    Attributes:
        arrays: the coded tokens and the inverted lists.
        live: (num_documents,) bool, false for deleted documents; None if none is deleted.
        documents: ids, texts and metadata.
    """

    arrays: SegmentArrays
    live: np.ndarray | None
    documents: Documents

    def __len__(self) -> int:
        return len(self.arrays.offsets) - 1

    def doclens(self, local_idx: np.ndarray) -> np.ndarray:
        """The number of tokens of each of these documents, (num_documents,) int64."""
        offsets = self.arrays.offsets
        lengths: np.ndarray = offsets[local_idx + 1] - offsets[local_idx]
        return lengths

    def encoded(self, local_idx: np.ndarray) -> Encoded:
        """The coded tokens of these documents. Consecutive documents are not copied."""
        begins, lengths = self.arrays.offsets[local_idx], self.doclens(local_idx)
        tokens: slice | np.ndarray
        if len(local_idx) and (np.diff(local_idx) == 1).all():
            tokens = slice(int(begins[0]), int(begins[-1] + lengths[-1]))
        else:
            tokens = np.arange(lengths.sum()) + np.repeat(begins - np.cumsum(lengths) + lengths, lengths)
        codes, residuals, inverse_norms = self.arrays[:3]
        return Encoded(codes[tokens], residuals[tokens], inverse_norms[tokens])

    def decode(self, codec: Codec, local_idx: np.ndarray) -> Ragged:
        """The decoded embeddings of these documents, float32."""
        encoded = self.encoded(local_idx)
        values = codec.decode(encoded.codes, encoded.residuals, encoded.inverse_norms)
        return Ragged.from_lengths(values, torch.from_numpy(self.doclens(local_idx)))


def open_segment(root: Path, info: SegmentInfo) -> Segment:
    """Open the files of a segment of the index `root`.

    Raises:
        FileNotFoundError: if a file is missing.
        UserError: if the files do not fit each other or the manifest.
    """
    files = SegmentFiles(root / info.name)
    codes, residuals, inverse_norms, ivf = map(
        open_array, (files.codes, files.residuals, files.inverse_norms, files.ivf)
    )
    offsets, ivf_offsets = (
        offsets_of(np.load(path, allow_pickle=False)) for path in (files.doclens, files.ivf_lengths)
    )
    num_tokens = {len(codes), len(residuals), len(inverse_norms), int(offsets[-1])}
    if num_tokens != {info.num_tokens} or len(offsets) != info.num_documents + 1 or ivf_offsets[-1] != len(ivf):
        raise UserError(f"{files.folder} is damaged: it does not hold what its manifest says; build the index again")
    arrays = SegmentArrays(codes, residuals, inverse_norms, offsets, ivf, ivf_offsets)
    return Segment(arrays, read_live(root, info), Documents(files.documents, info.num_documents))


def read_live(root: Path, info: SegmentInfo) -> np.ndarray | None:
    """Which documents of a segment are not deleted, (num_documents,) bool; None if none is deleted."""
    if info.deleted is None:
        return None
    live = np.ones(info.num_documents, bool)
    live[np.load(root / info.deleted, allow_pickle=False)] = False
    return live


def offsets_of(lengths: np.ndarray | Sequence[int]) -> np.ndarray:
    """Where each of some consecutive parts begins, and where the last one ends: (n + 1,) int64 from (n,) lengths."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def invert(codes: np.ndarray, offsets: np.ndarray, num_cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Make the inverted lists by a counting sort, in two passes over the codes.

    Memory: that of the result, at most 4 bytes a token.

    Args:
        codes: (num_tokens,) of an unsigned integer type.
        offsets: (num_documents + 1,) int64, the first token of each document.
        num_cells: the number of centroids.

    Returns:
        The local_idx of the documents in each cell, (num_postings,) int32, and the number of documents in each cell,
        (num_cells,) int32.
    """
    lengths = cpu.lists.count_postings(codes, offsets, num_cells)
    starts = offsets_of(lengths)
    lists = np.empty(int(starts[-1]), np.int32)
    cpu.lists.fill_postings(codes, offsets, starts[:-1].copy(), lists)
    return lists, lengths.astype(np.int32)
