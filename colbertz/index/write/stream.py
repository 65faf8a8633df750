"""What comes into an index: documents with their embeddings, checked, in batches and then in chunks.

Everything here is lazy, so that a corpus may be larger than memory.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from colbertz.document import Document
from colbertz.errors import UserError, check_type
from colbertz.ragged import Ragged

# All embeddings; batch after batch; or a function that takes a number of documents and returns the batches after them.
Embeddings = Ragged | Iterable[Ragged] | Callable[[int], Iterable[Ragged]]
# Consecutive documents and the embeddings of each of them.
Batch = tuple[list[Document], Ragged]

# Tokens of a chunk: 64 MB of float16 at 128 dimensions. A longer document is a chunk of its own.
CHUNK_TOKENS = 1 << 18

_END = object()


class DocumentStream:
    """Documents in order, taken a number at a time, from whole documents or from columns of their parts.

    Attributes:
        next_number: the first number that may be the id of the next document, if the columns have no ids.
        is_taken: whether a document outside the stream has an id. Such numbers are skipped.
        reserved: ids that documents of the stream are given, if others are numbered. Such numbers are skipped too.
    """

    def __init__(
        self, columns: Mapping[str, Iterable[Any]], make: Callable[[int, Mapping[str, Any]], Document]
    ) -> None:
        """Use `of` or `from_columns`."""
        self.next_number = 0
        self.is_taken: Callable[[str], bool] = lambda doc_id: False
        self.reserved: Container[str] = ()
        self._columns = {name: iter(entries) for name, entries in columns.items()}
        self._make = make
        self._num_taken = 0
        # What the columns gave when some of them had ended and others had not.
        self._last_row: dict[str, Any] | None = None
        self._put_back: list[Document] = []

    @classmethod
    def of(cls, documents: Iterable[Document]) -> "DocumentStream":
        """A stream of whole documents."""
        return cls({"documents": documents}, _whole_document)

    @classmethod
    def from_columns(
        cls,
        ids: Iterable[str | None] | None,
        texts: Iterable[str | None] | Iterable[Document] | None,
        metadata: Iterable[dict[str, Any]] | None,
        *,
        some_numbered: bool = False,
    ) -> "DocumentStream":
        """Join the documents' ids, texts and metadata. Without any of them the stream has no end.

        Args:
            ids, texts, metadata: with one entry for each document, or None.
            some_numbered: whether a document whose id is None gets the next number; otherwise that is no id.

        Raises:
            TypeError: if one of them is a string.
        """
        columns = {
            name: entries
            for name, entries in (("ids", ids), ("texts", texts), ("metadata", metadata))
            if entries is not None
        }
        for name, entries in columns.items():
            if isinstance(entries, str | bytes) or not isinstance(entries, Iterable):
                found = "a string" if isinstance(entries, str | bytes) else f"{entries!r:.80}"
                raise TypeError(
                    f"{name} must be a list or another iterable with one entry for each document, got {found}"
                )
        return cls(columns, _document_or_number if some_numbered else _document_of_columns)

    def __iter__(self) -> Iterator[Document]:
        while taken := self.take(1, or_fewer=True):
            yield taken[0]

    def take(self, count: int, or_fewer: bool = False) -> list[Document]:
        """The next `count` documents.

        Raises:
            UserError: if there are fewer, unless `or_fewer`; if one column ends before another.
        """
        documents, self._put_back = self._put_back[:count], self._put_back[count:]
        while len(documents) < count:
            row = self._next_row()
            ended = [name for name in self._columns if name not in row]
            if ended and or_fewer and not row:
                break
            if ended:
                others = "embeddings" if not or_fewer else next(iter(row))
                end = self._num_taken + len(documents)
                raise UserError(f"fewer {ended[0]} than {others}: the {ended[0]} end after {end}")
            if "documents" not in row and row.get("ids") is None:
                while str(self.next_number) in self.reserved or self.is_taken(str(self.next_number)):
                    self.next_number += 1
            documents.append(self._make(self.next_number, row))
            self.next_number += 1
        self._num_taken += len(documents)
        return documents

    def put_back(self, documents: list[Document]) -> None:
        """Give back the documents that were taken last; `take` returns them once more."""
        self._put_back = documents + self._put_back
        self._num_taken -= len(documents)

    def check_exhausted(self) -> None:
        """Check that no documents are left.

        Raises:
            UserError: if some are.
        """
        left = list(self._columns) if self._columns and self._put_back else list(self._next_row())
        if left:
            raise UserError(f"more {left[0]} than embeddings: there are only {self._num_taken} documents")

    def _next_row(self) -> dict[str, Any]:
        """The next entry of each column that has one."""
        if self._last_row is not None:
            return self._last_row
        entries = {name: next(column, _END) for name, column in self._columns.items()}
        row = {name: entry for name, entry in entries.items() if entry is not _END}
        if len(row) < len(entries):
            self._last_row = row
        return row


def _whole_document(number: int, row: Mapping[str, Any]) -> Document:
    document = row["documents"]
    if not isinstance(document, Document):
        raise TypeError(f"documents must be objects of colbertz.Document, got {type(document).__name__}")
    return document


def _document_of_columns(number: int, row: Mapping[str, Any]) -> Document:
    text = row.get("texts")
    if isinstance(text, Document):
        if len(row) > 1:
            raise UserError("whole documents have their own ids and metadata; leave out ids and metadata")
        return text
    return Document(row.get("ids", str(number)), text, row.get("metadata", {}))


def _document_or_number(number: int, row: Mapping[str, Any]) -> Document:
    return _document_of_columns(number, row if row.get("ids") is not None else {**row, "ids": str(number)})


def whole_documents(
    documents: Iterable[str] | Iterable[Document],
    ids: Iterable[str] | None = None,
    metadata: Iterable[dict[str, Any]] | None = None,
) -> Iterator[Document]:
    """The documents, where they are only texts with their ids and metadata.

    Raises:
        TypeError: if `ids` or `metadata` is a string.
        UserError: while iterating, if there are fewer of one than of another, or if whole documents come with `ids` or
            `metadata`.
    """
    return iter(DocumentStream.from_columns(ids, documents, metadata))


@dataclass(frozen=True)
class ResumableBatches:
    """Batches from which documents that are stored already can be left out.

    Attributes:
        documents: all documents. Those that are stored are taken from it first.
        after: takes how many documents that were, and a function that checks and stores documents; returns the batches
            of the documents that are left. Documents go to that function before their embeddings are made, so that
            none are made for documents that the index refuses.
    """

    documents: DocumentStream
    after: Callable[[int, Callable[[list[Document]], None]], Iterable[Batch]]


def in_step(
    documents: DocumentStream, embeddings: Ragged | Iterable[Ragged], dim: int | None = None, first: int = 0
) -> Iterator[Batch]:
    """Join documents with their embeddings.

    Args:
        documents: as many as there are embeddings.
        embeddings: of any floating point type, on any device.
        dim: the dimension that they must have; None for that of the first batch.
        first: how many documents came before, for the messages.

    Raises:
        TypeError, UserError: as `checked`, and if there are fewer or more documents than embeddings.
    """
    check_type("embeddings", embeddings, Iterable, "a Ragged or an iterable of Ragged")
    for batch in [embeddings] if isinstance(embeddings, Ragged) else embeddings:
        if isinstance(batch, Ragged) and not len(batch):
            continue
        batch = checked(batch, dim, first)
        dim = batch.values.shape[1]
        first += len(batch)
        yield documents.take(len(batch)), batch
    documents.check_exhausted()


def in_step_from(documents: DocumentStream, embeddings: Embeddings) -> Iterable[Batch] | ResumableBatches:
    """Join documents with their embeddings; where `embeddings` is a function, a build can be resumed from them."""
    if not callable(embeddings):
        return in_step(documents, embeddings)

    def after(first: int, accept: Callable[[list[Document]], None]) -> Iterator[Batch]:
        for batch, values in in_step(documents, embeddings(first), first=first):
            accept(batch)
            yield batch, values

    return ResumableBatches(documents, after)


def embedded(
    documents: DocumentStream, embed: Callable[[list[Document]], Ragged], documents_at_once: int
) -> ResumableBatches:
    """Make the embeddings of the documents with a function, for some documents at a time.

    Raises:
        TypeError, UserError: as `checked`, and if `embed` returns more or fewer embeddings than it was given documents.
    """

    def after(first: int, accept: Callable[[list[Document]], None]) -> Iterator[Batch]:
        dim = None
        while batch := documents.take(documents_at_once, or_fewer=True):
            accept(batch)
            embeddings = checked(embed(batch), dim, first, batch)
            if len(embeddings) != len(batch):
                raise UserError(f"there are embeddings of {len(embeddings)} documents for {len(batch)} documents")
            dim = embeddings.values.shape[1]
            first += len(batch)
            yield batch, embeddings

    return ResumableBatches(documents, after)


def checked(
    embeddings: Ragged, dim: int | None = None, first: int = 0, documents: Sequence[Document] | None = None
) -> Ragged:
    """The embeddings as float16 on the CPU.

    Args:
        embeddings: (num_tokens, E), of any floating point type, on any device.
        dim: the dimension that they must have; None for any.
        first: how many documents came before, for the messages.
        documents: whose embeddings they are, for the messages.

    Raises:
        TypeError: if they are not a Ragged.
        UserError: for another dimension, documents without tokens, NaN and infinite values, and rows of zeros.
    """

    def named(position: int) -> str:
        known = documents is not None and position < len(documents)
        return documents[position].named(first + position) if documents and known else f"document {first + position}"

    if not isinstance(embeddings, Ragged):
        raise TypeError(f"embeddings must be a Ragged or an iterable of Ragged, got {type(embeddings).__name__}")
    if embeddings.values.dim() != 2 or not embeddings.dtype.is_floating_point:
        shape = tuple(embeddings.values.shape)
        raise UserError(
            f"embeddings must be floating point rows of one dimension, got {embeddings.dtype} values {shape}"
        )
    if dim is not None and embeddings.values.shape[1] != dim:
        raise UserError(f"{named(0)} has dimension {embeddings.values.shape[1]} and those before it {dim}")
    empty = (embeddings.lengths == 0).nonzero()
    if len(empty):
        raise UserError(f"{named(int(empty[0]))} has no tokens; leave it out of the index")
    rows, broken = _half(embeddings)
    if broken is not None:
        raise UserError(
            f"{named(broken)} has embeddings that are NaN, infinite or too large for float16;"
            " look for NaN weights in the model, or normalise the embeddings"
        )
    zero = _first_text(embeddings, (rows == 0).all(1))
    if zero is not None:
        raise UserError(
            f"{named(zero)} has a token whose embedding is zero in float16, so it has no direction; leave such tokens"
            " out"
        )
    return Ragged(rows, embeddings.offsets.cpu())


def _first_text(embeddings: Ragged, flags: torch.Tensor) -> int | None:
    """The position of the first text with a token that is flagged, (num_tokens,) bool; None if there is none."""
    if not bool(flags.any()):
        return None
    return int(torch.searchsorted(embeddings.offsets.cpu(), int(flags.nonzero()[0]), right=True)) - 1


def _half(embeddings: Ragged) -> tuple[torch.Tensor, int | None]:
    """The values as float16, and the position of the first text with a value that is not finite, if there is one."""
    rows = embeddings.values.detach().to("cpu", torch.float16).contiguous()
    # The sum of absolute values is finite exactly if all values are, and is much quicker to compute than a mask.
    if bool(rows.abs().sum(1, dtype=torch.float32).isfinite().all()):
        return rows, None
    return rows, _first_text(embeddings, ~rows.isfinite().all(1))


def chunked(batches: Iterable[Batch], max_tokens: int, keep_after_error: bool = False) -> Iterator[Batch]:
    """The same documents in chunks of at most `max_tokens` tokens; a longer document is a chunk of its own.

    Args:
        batches: documents with their embeddings.
        max_tokens: of a chunk.
        keep_after_error: if `batches` raises an error, or is interrupted, yield what came before it, then raise it.
    """
    parts: list[Batch] = []
    num_tokens = 0
    batches = iter(batches)
    while True:
        try:
            documents, embeddings = next(batches)
        except StopIteration:
            break
        except (Exception, KeyboardInterrupt):
            if parts and keep_after_error:
                yield _joined(parts)
            raise
        first = 0
        for part in embeddings.split(max_tokens):
            if parts and num_tokens + len(part.values) > max_tokens:
                yield _joined(parts)
                parts, num_tokens = [], 0
            parts.append((documents[first : first + len(part)], part))
            first += len(part)
            num_tokens += len(part.values)
    if parts:
        yield _joined(parts)


def _joined(parts: list[Batch]) -> Batch:
    return (
        [document for documents, _ in parts for document in documents],
        Ragged.cat(embeddings for _, embeddings in parts),
    )
