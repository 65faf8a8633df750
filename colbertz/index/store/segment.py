"""A segment: documents that were added together, coded, with an inverted list for each cell. It never changes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from colbertz.errors import UserError
from colbertz.index.store.codec import Codec
from colbertz.index.store.documents import Documents
from colbertz.index.store.manifest import SegmentFiles, SegmentInfo
from colbertz.kernels.cpu.lists import count_postings, fill_postings
from colbertz.ragged import Ragged


@dataclass(frozen=True, eq=False)
class Segment:
    """An open segment. The large arrays are memory-mapped: memory follows use.

    Attributes:
        codes: (num_tokens,) uint16 or uint32.
        residuals: (num_tokens, embedding_dim · nbits / 8) uint8.
        inverse_norms: (num_tokens,) float32.
        offsets: (num_documents + 1,) int64, where each document's tokens begin.
        ivf: (postings,) int32, the documents of each cell, sorted.
        ivf_offsets: (cells + 1,) int64. Cells that came later than the segment have no list here.
        live: (num_documents,) bool, false for the deleted ones; None if none are.
        documents: ids, texts and metadata.
    """

    codes: np.ndarray
    residuals: np.ndarray
    inverse_norms: np.ndarray
    offsets: np.ndarray
    ivf: np.ndarray
    ivf_offsets: np.ndarray
    live: np.ndarray | None
    documents: Documents

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def decode(self, codec: Codec, numbers: np.ndarray) -> Ragged:
        """The decoded embeddings of some documents, float32."""
        begins, lengths = self.offsets[numbers], self.offsets[numbers + 1] - self.offsets[numbers]
        tokens: slice | np.ndarray
        if len(numbers) and (np.diff(numbers) == 1).all():
            tokens = slice(int(begins[0]), int(begins[-1] + lengths[-1]))  # copies nothing
        else:
            tokens = np.arange(lengths.sum()) + np.repeat(begins - np.cumsum(lengths) + lengths, lengths)
        values = codec.decode(self.codes[tokens], self.residuals[tokens], self.inverse_norms[tokens])
        return Ragged.from_lengths(values, torch.from_numpy(lengths))


def open_segment(root: Path, info: SegmentInfo) -> Segment:
    """Map the files of a segment.

    Raises:
        FileNotFoundError: if one is missing.
        ValueError: if they do not fit each other or the manifest.
    """
    files = SegmentFiles(root / info.name)
    # Plain arrays over the maps: numpy's memmap class makes every slice slow.
    codes, residuals, inverse_norms, ivf = (
        np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        for path in (files.codes, files.residuals, files.inverse_norms, files.ivf)
    )
    offsets, ivf_offsets = (
        offsets_of(np.load(path, allow_pickle=False)) for path in (files.doclens, files.ivf_lengths)
    )
    tokens = {len(codes), len(residuals), len(inverse_norms), int(offsets[-1])}
    if tokens != {info.num_tokens} or len(offsets) != info.num_documents + 1 or ivf_offsets[-1] != len(ivf):
        raise UserError(f"{files.folder} is damaged: it does not hold what its manifest says; build the index again")
    live = None
    if info.deleted is not None:
        live = np.ones(info.num_documents, bool)
        live[np.load(root / info.deleted, allow_pickle=False)] = False
    documents = Documents(files.documents, info.num_documents)
    return Segment(codes, residuals, inverse_norms, offsets, ivf, ivf_offsets, live, documents)


def offsets_of(lengths: np.ndarray | Sequence[int]) -> np.ndarray:
    """(n + 1,) int64 from (n,)."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def invert(codes: np.ndarray, offsets: np.ndarray, num_cells: int) -> tuple[np.ndarray, np.ndarray]:
    """The inverted lists: documents of each cell (postings,) int32, and how many (num_cells,) int32.

    A counting sort in two passes over the codes; it needs memory for the result, at most 4 bytes a token.
    """
    lengths = count_postings(codes, offsets, num_cells)
    starts = offsets_of(lengths)
    lists = np.empty(int(starts[-1]), np.int32)
    fill_postings(codes, offsets, starts[:-1].copy(), lists)
    return lists, lengths.astype(np.int32)
