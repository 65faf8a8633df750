"""A segment: documents that were added together, coded, with an inverted list for each cell. It never changes."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from colbertz.errors import UserError
from colbertz.index.store.arrays import read_array
from colbertz.index.store.codec import Codec
from colbertz.index.store.documents import Documents
from colbertz.index.store.encoded import Encoded
from colbertz.index.store.layout import SegmentFiles
from colbertz.index.store.manifest import SegmentInfo
from colbertz.kernels import cpu
from colbertz.kernels.cpu import sums
from colbertz.ragged import Ragged


class SegmentArrays(NamedTuple):
    """A segment's coded tokens and inverted lists, as search kernels read them. The large ones are memory-mapped.

    What the mapped ones hold is not checked when a segment is opened. Call `require_codes`, `require_tokens` or
    `require_lists` of the segment before a kernel reads the parts of some documents or cells.

    Attributes:
        codes: (num_tokens,) uint16 or uint32, the centroid of each token.
        residuals: (num_tokens, row bytes) uint8.
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


class Checks(NamedTuple):
    """What the arrays of a segment must hold, and which parts of them are checked already.

    Attributes:
        name: the segment's folder, for messages.
        num_centroids: codes must be below it.
        documents: (num_documents, 3) uint32, checksums of each document's codes, residuals and inverse norms; (0, 3) if
            there are none.
        lists: (num_cells,) uint32, the checksum of each list; empty if there are none.
        documents_done: (num_documents,) uint8, the checks that each document has passed.
        lists_done: (num_cells,) uint8, 1 for each list that has passed.
    """

    name: str
    num_centroids: int
    documents: np.ndarray
    lists: np.ndarray
    documents_done: np.ndarray
    lists_done: np.ndarray

    @classmethod
    def passed(cls, name: str, num_documents: int, num_cells: int) -> "Checks":
        """Of arrays that were checked as a whole."""
        done = np.full(num_documents, sums.CODES | sums.RESIDUALS, np.uint8)
        none = np.empty((0, 3), np.uint32)
        return cls(name, num_cells, none, none[:, 0], done, np.ones(num_cells, np.uint8))


class Stamp(NamedTuple):
    """What the operating system says of a file.

    Attributes:
        path: its name.
        file: numbers of the device and the inode: which file it is.
        size: in bytes.
        modified: nanoseconds.
    """

    path: str
    file: tuple[int, int]
    size: int
    modified: int

    @classmethod
    def of(cls, path: str) -> "Stamp":
        about = os.stat(path)  # noqa: PTH116 (Path.stat takes twice as long, and each search calls this)
        return cls(path, (about.st_dev, about.st_ino), about.st_size, about.st_mtime_ns)


@dataclass(frozen=True, eq=False)
class Segment:
    """An open segment.

    Attributes:
        arrays: the coded tokens and the inverted lists.
        checks: see `require_tokens`.
        stamps: the mapped files as they were when they were opened, see `require_untouched`.
        live: (num_documents,) bool, false for deleted documents; None if none is deleted.
        documents: ids, texts and metadata.
    """

    arrays: SegmentArrays
    checks: Checks
    stamps: tuple["Stamp", ...]
    live: np.ndarray | None
    documents: Documents

    def __len__(self) -> int:
        return len(self.arrays.offsets) - 1

    def require_codes(self, local_idx: np.ndarray, first: int, last: int) -> None:
        """Check the codes of the documents `local_idx[first:last]`, int64, if that has not been done yet.

        Raises:
            UserError: if a code is of no centroid, or the codes are not those that were written.
        """
        arrays, needed = self.arrays, self.checks
        bad = cpu.checks.bad_codes(
            *(local_idx, first, last, arrays.offsets, arrays.codes),
            *(needed.num_centroids, needed.documents, needed.documents_done),
        )
        self._refuse("the codes of document", bad)

    def require_tokens(self, local_idx: np.ndarray, first: int, last: int) -> None:
        """Check the codes, residuals and inverse norms of documents, as `require_codes` does.

        Raises:
            UserError: if one of them cannot be, or is not what was written.
        """
        self.require_codes(local_idx, first, last)
        arrays, needed = self.arrays, self.checks
        bad = cpu.checks.bad_residuals(
            *(local_idx, first, last, arrays.offsets, sums.words(arrays.residuals)),
            *(arrays.inverse_norms.view(np.uint32), needed.documents, needed.documents_done),
        )
        self._refuse("the residuals of document", bad)

    def require_lists(self, cells: np.ndarray) -> None:
        """Check the lists of some cells, of any shape, int32, if that has not been done yet.

        Raises:
            UserError: if a list is not of ascending numbers of documents, or is not what was written.
        """
        arrays, needed = self.arrays, self.checks
        bad = cpu.checks.bad_list(
            *(cells.reshape(-1), arrays.ivf, arrays.ivf_offsets, len(self)),
            *(needed.lists, needed.lists_done),
        )
        self._refuse("the list of cell", bad)

    def require_untouched(self) -> None:
        """Check that no program has written to the mapped files since they were opened.

        Another file of the same name, as a rename makes it, does no harm: the old one stays mapped. But a program that
        copies over a file changes what is mapped, and where the file becomes shorter, reading it ends the process.

        Raises:
            UserError: if a file has another size or time of modification and is still the same file.
        """
        for stamp in self.stamps:
            try:
                now = Stamp.of(stamp.path)
            except OSError:
                continue
            if now.file == stamp.file and now != stamp:
                raise UserError(f"{stamp.path} was written to while it was open; open the index again")

    def _refuse(self, what: str, bad: int) -> None:
        if bad >= 0:
            raise UserError(
                f"{self.checks.name} is damaged: {what} {bad} is not what was written; build the index again"
            )

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
        encoded = Encoded(codes[tokens], residuals[tokens], inverse_norms[tokens])
        self._require(local_idx, encoded)
        return encoded

    def _require(self, local_idx: np.ndarray, encoded: Encoded) -> None:
        """Do what `require_tokens` does, without compiled kernels: with those documents' tokens."""
        needed, passed = self.checks, sums.CODES | sums.RESIDUALS
        if (needed.documents_done[local_idx] == passed).all():
            return
        offsets = offsets_of(self.doclens(local_idx))
        bad = (encoded.codes >= needed.num_centroids) | ~(
            (encoded.inverse_norms >= 0) & (encoded.inverse_norms < np.inf)
        )
        wrong = np.add.reduceat(bad, offsets[:-1], dtype=np.int64) > 0
        if len(needed.documents):
            found = sums.document_checksums(offsets, encoded.codes, encoded.residuals, encoded.inverse_norms)
            wrong |= (found != needed.documents[local_idx]).any(1)
        if wrong.any():
            self._refuse("the tokens of document", int(local_idx[wrong.argmax()]))
        needed.documents_done[local_idx] = passed

    def decode(self, codec: Codec, local_idx: np.ndarray) -> Ragged:
        """The decoded embeddings of these documents, float32."""
        encoded = self.encoded(local_idx)
        values = codec.decode(encoded.codes, encoded.residuals, encoded.inverse_norms)
        return Ragged.from_lengths(values, torch.from_numpy(self.doclens(local_idx)))


def open_segment(root: Path, info: SegmentInfo, codec: Codec) -> Segment:
    """Open the files of a segment of the index `root`.

    Sizes, types and shapes are checked, and all that is read whole; the values of mapped arrays when they are used.

    Raises:
        FileNotFoundError: if a file is missing.
        UserError: if the files do not fit each other, the manifest or the codec.
    """
    files = SegmentFiles(root / info.name)
    tokens, documents = info.num_tokens, info.num_documents
    stamps = tuple(Stamp.of(str(path)) for path in (files.codes, files.residuals, files.inverse_norms, files.ivf))
    codes = _read(files.codes, (tokens,), "<u2", "<u4", mapped=True)
    residuals = _read(files.residuals, (tokens, codec.row_bytes), "u1", mapped=True)
    inverse_norms = _read(files.inverse_norms, (tokens,), "<f4", mapped=True)
    ivf = _read(files.ivf, (None,), "<i4", mapped=True)
    doclens = _read(files.doclens, (documents,), "<i4")
    ivf_lengths = _read(files.ivf_lengths, (None,), "<i4")
    offsets, ivf_offsets = offsets_of(doclens), offsets_of(ivf_lengths)
    if doclens.min() < 1 or offsets[-1] != tokens:
        raise _damaged(files.doclens, f"its lengths are not those of {tokens} tokens")
    num_cells = len(ivf_lengths)
    if not 0 < num_cells <= len(codec.centroids) or ivf_lengths.min() < 0 or ivf_offsets[-1] != len(ivf):
        raise _damaged(files.ivf_lengths, f"its lengths are not those of the {len(ivf)} entries of {files.ivf}")
    document_checksums, list_checksums = np.empty((0, 3), np.uint32), np.empty(0, np.uint32)
    if info.has_checksums:
        document_checksums = _read(files.document_checksums, (documents, 3), "<u4", mapped=True)
        list_checksums = _read(files.list_checksums, (num_cells,), "<u4")
    # Codes must have a list. Centroids that were added to the codec later have none, and no code of this segment.
    required = Checks(
        *(str(files.folder), num_cells, document_checksums, list_checksums),
        *(np.zeros(documents, np.uint8), np.zeros(num_cells, np.uint8)),
    )
    arrays = SegmentArrays(codes, residuals, inverse_norms, offsets, ivf, ivf_offsets)
    return Segment(arrays, required, stamps, read_live(root, info), read_documents(root, info))


def read_documents(root: Path, info: SegmentInfo) -> Documents:
    """Open the ids, texts and metadata of a segment."""
    return Documents(root / info.documents_name, info.num_documents)


def read_live(root: Path, info: SegmentInfo) -> np.ndarray | None:
    """The documents of a segment that are not deleted, (num_documents,) bool; None if none is deleted."""
    if info.deleted is None:
        return None
    deleted = _read(root / info.deleted, (info.num_deleted,), "<i4")
    if deleted[0] < 0 or deleted[-1] >= info.num_documents or (np.diff(deleted) <= 0).any():
        raise _damaged(root / info.deleted, f"it is not a list of some of {info.num_documents} documents")
    live = np.ones(info.num_documents, bool)
    live[deleted] = False
    return live


def _read(path: Path, shape: tuple[int | None, ...], *dtypes: str, mapped: bool = False) -> np.ndarray:
    try:
        return read_array(path, dtypes, shape, mapped=mapped)
    except ValueError as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, what: str) -> UserError:
    return UserError(f"{path} is damaged: {what}; build the index again")


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
