"""Writing a segment: documents, the codes of their tokens, and the inverted lists, in a folder of its own.

Building, adding, compacting and converting all write segments with `SegmentWriter`. It needs a codec and a folder, and
no index around the folder: `colbertz.index.write.commit` makes the segment part of an index.
"""

import math
import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
import torch

from colbertz.document import Document
from colbertz.errors import UserError
from colbertz.index.store.arrays import save_array
from colbertz.index.store.codec import Codec
from colbertz.index.store.document_writer import DocumentWriter, write_documents
from colbertz.index.store.encoded import Encoded
from colbertz.index.store.layout import SegmentFiles
from colbertz.index.store.manifest import SegmentInfo
from colbertz.index.store.segment import invert, offsets_of
from colbertz.index.write.stream import checked
from colbertz.kernels.cpu.sums import checksums, document_checksums
from colbertz.ragged import Ragged

# Bytes before the values of an array: numpy pads its headers to this size, unless there are dozens of dimensions.
_HEADER = 128
# By its definition a quarter of the tokens that a codec was made for is farther from a centroid than its
# `cluster_threshold`. Where more than this share of new tokens is, the codec lacks centroids.
FAR_SHARE = 0.5


class SegmentWriter:
    """Writes one segment. Used in a `with` block, at the end of which the segment is complete:

        with SegmentWriter(folder, codec) as writer:
            writer.add(documents, embeddings)
        writer.info

    Nothing is synced to the disk; `commit` does that. After an error the folder is to be removed.

    Attributes:
        codec: codes the next tokens.
        num_far: tokens so far that are farther from their centroid than `codec.cluster_threshold`.
        norm_deviation: of the documents so far, see `SegmentInfo`.
    """

    def __init__(
        self,
        folder: Path,
        codec: Codec,
        *,
        tokens_per_centroid: float | None = None,
        device: torch.device | str = "cpu",
        doclens: Sequence[int] | None = None,
        checksums: np.ndarray | None = None,
        num_far: int = 0,
        norm_deviation: float = 0.0,
    ) -> None:
        """Create the files of a segment, or continue a segment that was left unfinished.

        Args:
            folder: is created if it does not exist. Files that an earlier attempt left in it are replaced.
            codec: codes the tokens.
            tokens_per_centroid: one centroid for so many tokens is added to the codec where more than `FAR_SHARE` of
                the embeddings of one `add` is far from all centroids; None to leave the codec as it is.
            device: where tokens are coded.
            doclens: to continue a segment whose documents are all stored, the lengths of those documents whose tokens
                are coded, too; tokens after these are removed. None to begin a segment.
            checksums: with `doclens`, what `stored_checksums` returns for them, if the caller has called it.
            num_far: with `doclens`, how many of those tokens are far.
            norm_deviation: with `doclens`, that of those documents, see `SegmentInfo`.
        """
        self.codec = codec
        self.num_far = num_far
        self.norm_deviation = norm_deviation
        self._tokens_per_centroid = tokens_per_centroid
        self._device = torch.device(device)
        self._doclens = list(doclens or [])
        if checksums is None:
            checksums = stored_checksums(folder, codec, self._doclens)
        if len(checksums) < len(self._doclens):
            raise UserError(
                f"{folder} does not hold the codes of {len(self._doclens)} documents; begin the segment anew"
            )
        self._checksums = [checksums]
        folder.mkdir(parents=True, exist_ok=True)
        self._files = SegmentFiles(folder)
        self._open_files = ExitStack()
        self._documents: DocumentWriter | None = None
        if doclens is None:
            self._files.documents.unlink(missing_ok=True)
            self._documents = self._open_files.enter_context(write_documents(self._files.documents))
        try:
            self._tokens = _TokenWriter(self._files, codec, sum(self._doclens))
        except BaseException:
            self._open_files.close()
            raise
        self._open_files.callback(self._tokens.close)

    def add(self, documents: Iterable[Document], embeddings: Ragged) -> None:
        """Store documents and code their tokens.

        Args:
            documents: as many as `embeddings` has texts.
            embeddings: (num_tokens, E) of any floating point type; coded as float16.

        Raises:
            TypeError, UserError: for embeddings as `checked` says, for documents as `DocumentWriter.add` says, and if
                there are not as many documents as embeddings.
        """
        embeddings = checked(embeddings, self.codec.embedding_dim, len(self._doclens))
        self._add_documents(documents, len(embeddings))
        self.add_tokens(embeddings)

    def add_coded(self, documents: Iterable[Document], encoded: Encoded, doclens: np.ndarray) -> None:
        """Store documents whose tokens this codec has coded already.

        Args:
            documents: as many as there are `doclens`.
            encoded: the documents' tokens.
            doclens: (num_documents,) int64, the number of tokens of each document.

        Raises:
            UserError: if there are not as many documents as `doclens`.
        """
        self._add_documents(documents, len(doclens))
        self._append(encoded, doclens.tolist())

    def add_tokens(self, embeddings: Ragged) -> np.ndarray:
        """Code the next tokens of a segment whose documents are all stored.

        Args:
            embeddings: (num_tokens, E), as `checked` returns them.

        Returns:
            The checksums of these documents, (num_documents, 3) uint32.
        """
        if not len(embeddings):
            return np.empty((0, 3), np.uint32)
        tokens = embeddings.values.to(self._device)
        encoded, distances = self.codec.encode(tokens)
        far = distances > self.codec.cluster_threshold
        if self._tokens_per_centroid is not None and far.mean() > FAR_SHARE:
            far_tokens = embeddings.values[torch.from_numpy(far)]
            self.codec = self.codec.extended(far_tokens, self._tokens_per_centroid, self._tokens.code_dtype)
            encoded, distances = self.codec.encode(tokens)
        self.num_far += int((distances > self.codec.cluster_threshold).sum())
        return self._append(encoded, embeddings.lengths.tolist())

    @property
    def num_documents(self) -> int:
        """Documents whose tokens are coded."""
        return len(self._doclens)

    @property
    def fields(self) -> set[str]:
        """The metadata keys of the documents that have a column, in lower case."""
        return set() if self._documents is None else self._documents.fields

    @property
    def info(self) -> SegmentInfo:
        """The entry of the manifest for this segment."""
        return SegmentInfo(
            self._files.folder.name,
            len(self._doclens),
            sum(self._doclens),
            self.num_far,
            has_checksums=True,
            norm_deviation=self.norm_deviation,
        )

    def sync(self) -> None:
        """Wait until all codes so far are on the disk."""
        self._tokens.sync()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open_files.__exit__(kind, error, traceback)
        if error is None:
            self._write_lists()

    def _add_documents(self, documents: Iterable[Document], count: int) -> None:
        assert self._documents is not None, "the documents of this segment are stored already"
        before = self._documents.count
        self._documents.add(documents)
        if self._documents.count - before != count:
            raise UserError(f"there are embeddings of {count} documents for {self._documents.count - before} documents")

    def _append(self, encoded: Encoded, doclens: list[int]) -> np.ndarray:
        self._tokens.write(encoded)
        self._doclens += doclens
        offsets = offsets_of(doclens)
        self._checksums.append(document_checksums(offsets, encoded.codes, encoded.residuals, encoded.inverse_norms))
        self.norm_deviation = max(self.norm_deviation, self.codec.norm_deviation(encoded, offsets))
        return self._checksums[-1]

    def _write_lists(self) -> None:
        """Write the document lengths and the inverted lists, from the codes in their file."""
        codes = np.load(self._files.codes, mmap_mode="r", allow_pickle=False)
        doclens = np.array(self._doclens, np.int64)
        lists, lengths = invert(codes, offsets_of(doclens), len(self.codec.centroids))
        save_array(self._files.doclens, doclens.astype(np.int32))
        save_array(self._files.ivf, lists)
        save_array(self._files.ivf_lengths, lengths)
        save_array(self._files.document_checksums, np.concatenate(self._checksums))
        list_checksums = checksums(lists, offsets_of(lengths))
        save_array(self._files.list_checksums, list_checksums)


def stored_checksums(folder: Path, codec: Codec, doclens: Sequence[int]) -> np.ndarray:
    """The checksums of documents whose tokens an interrupted writer has coded, (num_documents, 3) uint32.

    Args:
        folder: of the segment.
        codec: that has coded them.
        doclens: the lengths of these documents.

    Returns:
        The checksums of the first documents, as far as all three files hold their tokens.
    """
    arrays = []
    for path, dtype, shape in _token_files(SegmentFiles(folder), codec):
        available = path.stat().st_size - _HEADER if path.is_file() else 0
        rows = max(0, available) // (dtype.itemsize * math.prod(shape))
        count = min(rows, sum(doclens))
        arrays.append(np.memmap(path, dtype, "r", _HEADER, (count, *shape)) if count else np.empty((0, *shape), dtype))
    offsets = offsets_of(doclens)
    whole = int(np.searchsorted(offsets, min(map(len, arrays)), side="right")) - 1
    codes, residuals, inverse_norms = (np.asarray(array[: offsets[whole]]) for array in arrays)
    return document_checksums(offsets[: whole + 1], codes, residuals, inverse_norms)


def _token_files(files: SegmentFiles, codec: Codec) -> list[tuple[Path, np.dtype, tuple[int, ...]]]:
    """The files of coded tokens, with the type and the shape of what each holds of one token."""
    return [
        (files.codes, codec.code_dtype, ()),
        (files.residuals, np.dtype(np.uint8), (codec.row_bytes,)),
        (files.inverse_norms, np.dtype(np.float32), ()),
    ]


class _TokenWriter:
    """Writes the arrays of coded tokens from front to back.

    It writes in the ordinary way, because a full disk then raises OSError; with a memory-mapped file it would kill the
    process.
    """

    def __init__(self, files: SegmentFiles, codec: Codec, num_tokens: int) -> None:
        """Create the files; if `num_tokens` is not 0, open them and remove what comes after so many tokens."""
        self.num_tokens = num_tokens
        self.code_dtype = codec.code_dtype
        self._arrays: list[tuple[BinaryIO, np.dtype, tuple[int, ...]]] = []
        for path, dtype, shape in _token_files(files, codec):
            file = path.open("r+b" if num_tokens else "wb")
            self._arrays.append((file, dtype, shape))
            self._write_header(file, dtype, shape)
            file.seek(num_tokens * dtype.itemsize * math.prod(shape), os.SEEK_CUR)
            file.truncate()

    def write(self, encoded: Encoded) -> None:
        """Write the next tokens."""
        self.num_tokens += len(encoded)
        for (file, dtype, _), array in zip(self._arrays, (encoded.codes, encoded.residuals, encoded.inverse_norms)):
            file.write(np.ascontiguousarray(array, dtype).data)

    def sync(self) -> None:
        """Wait until everything written is on the disk."""
        for file, _, _ in self._arrays:
            file.flush()
            os.fsync(file.fileno())

    def close(self) -> None:
        """Write the final number of tokens into the headers."""
        for file, dtype, shape in self._arrays:
            file.seek(0)
            self._write_header(file, dtype, shape)
            file.close()

    def _write_header(self, file: BinaryIO, dtype: np.dtype, shape: tuple[int, ...]) -> None:
        # numpy pads a header so that its size stays the same while the first axis grows: it can be written again.
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False}
        np.lib.format.write_array_header_1_0(file, header | {"shape": (self.num_tokens, *shape)})
