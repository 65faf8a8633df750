"""What comes into an index: embeddings and what describes the documents, walked in step and checked."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import Any

import torch

from colbertz.document import Document
from colbertz.errors import UserError
from colbertz.ragged import Ragged

# All embeddings, batch after batch, or a function that begins with the document of a given number.
Embeddings = Ragged | Iterable[Ragged] | Callable[[int], Iterable[Ragged]]

_END = object()


class Described:
    """The documents' ids, texts and metadata, from streams that may be generators over a corpus larger than memory."""

    def __init__(
        self,
        ids: Iterable[str] | None,
        texts: Iterable[str | None] | None,
        metadata: Iterable[dict[str, Any]] | None,
        next_number: int = 0,
    ) -> None:
        """`next_number` becomes the id of the first document if there are no ids.

        Raises:
            TypeError: for a string in place of a list.
        """
        given = {"ids": ids, "texts": texts, "metadata": metadata}
        for name, items in given.items():
            if isinstance(items, str | bytes):
                raise TypeError(
                    f"{name} must be a list or another iterable with one entry for each document, got a string"
                )
        self._streams = {name: iter(items) for name, items in given.items() if items is not None}
        self._next_number = next_number
        self._taken = 0
        self._latest: tuple[int, dict[str, list[Any]]] = 0, {}

    def take(self, count: int, or_fewer: bool = False) -> list[Document]:
        """The next `count` documents.

        Raises:
            ValueError: if there are fewer, unless `or_fewer`.
        """
        numbers = range(self._next_number + self._taken, self._next_number + self._taken + count)
        columns: dict[str, list[Any]] = {
            "ids": [str(number) for number in numbers],
            "texts": [None] * count,
            "metadata": [{}] * count,
        }
        for name, stream in self._streams.items():
            columns[name] = list(islice(stream, count))
            if len(columns[name]) < count and not or_fewer:
                end = self._taken + len(columns[name])
                raise UserError(f"fewer {name} than embeddings: the {name} end after {end}")
        self._taken += count
        self._latest = count, columns
        return [Document(*row) for row in zip(*columns.values())]

    def put_back(self) -> None:
        """Take the latest documents once more next time."""
        count, columns = self._latest
        self._streams = {name: chain(columns[name], stream) for name, stream in self._streams.items()}
        self._taken -= count

    def check_exhausted(self) -> None:
        """Raises ValueError if there are more of them than embeddings."""
        for name, stream in self._streams.items():
            if next(stream, _END) is not _END:
                raise UserError(f"more {name} than embeddings: there are only {self._taken} documents")


def checked(embeddings: Ragged | Iterable[Ragged], dim: int | None = None, first: int = 0) -> Iterator[Ragged]:
    """The batches as float16 on the CPU, without empty ones.

    Args:
        embeddings: of any floating-point type, on any device.
        dim: the dimension they must have; None for that of the first.
        first: number of the first document, for the messages.

    Raises:
        TypeError: if they are not Ragged.
        ValueError: for wrong dimensions, documents without tokens, NaN and infinite values.
    """
    for batch in [embeddings] if isinstance(embeddings, Ragged) else embeddings:
        if not isinstance(batch, Ragged):
            raise TypeError(f"embeddings must be a Ragged or an iterable of Ragged, got {type(batch).__name__}")
        if not len(batch):
            continue
        if batch.values.dim() != 2 or not batch.dtype.is_floating_point:
            shape = tuple(batch.values.shape)
            raise UserError(
                f"embeddings must be floating point rows of one dimension, got {batch.dtype} values {shape}"
            )
        dim = dim or batch.values.shape[1]
        if batch.values.shape[1] != dim:
            raise UserError(f"document {first} has dimension {batch.values.shape[1]} and those before it {dim}")
        empty = (batch.lengths == 0).nonzero()
        if len(empty):
            raise UserError(f"document {first + int(empty[0])} has no tokens; leave it out of the index")
        yield Ragged(_finite_half(batch, first), batch.offsets.cpu())
        first += len(batch)


def _finite_half(batch: Ragged, first: int) -> torch.Tensor:
    rows = batch.values.detach().to("cpu", torch.float16).contiguous()
    # The sum of absolute values is finite exactly if all are, and much quicker to make than a mask.
    if not bool(rows.abs().sum(1, dtype=torch.float32).isfinite().all()):
        broken = int((~rows.isfinite().all(1)).nonzero()[0])
        document = int(torch.searchsorted(batch.offsets.cpu(), broken, right=True)) - 1
        raise UserError(
            f"document {first + document} has embeddings that are NaN, infinite or too large for float16;"
            " look for NaN weights in the model, or normalise the embeddings"
        )
    return rows


def chunked(batches: Iterable[Ragged], max_tokens: int) -> Iterator[Ragged]:
    """The same documents in chunks of at most `max_tokens` tokens, each as long as can be; a longer document alone."""
    held: list[Ragged] = []
    size = 0
    for part in (part for batch in batches for part in batch.split(max_tokens)):
        if held and size + len(part.values) > max_tokens:
            yield Ragged.cat(held)
            held, size = [], 0
        held.append(part)
        size += len(part.values)
    if held:
        yield Ragged.cat(held)
