"""`View`: one state of an index that is served. Whatever is written meanwhile, it does not change."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from colbertz.document import Document
from colbertz.errors import UnknownDocument
from colbertz.index import Hit, Index, SearchOptions
from colbertz.index.search.allowed import matching_documents
from colbertz.index.search.options import Parameters, check_count
from colbertz.ragged import Ragged
from colbertz.server.searching import SearchThreads

# Queries of one request that are searched in one turn.
_QUERIES_AT_ONCE = 4


class View:
    """A state of an index. Documents have ids, and positions: 0 to n - 1 in order of insertion, without deleted ones.

    A deletion moves the positions of later documents, from one generation to the next; ids stay.

    Attributes:
        index: open at this state; None if the index was declared and nothing was added yet.
        generation: the number of the state; 0 if nothing was added yet.
    """

    def __init__(self, index: Index | None, threads: SearchThreads) -> None:
        """Use `ServedIndex.snapshot`. The index must not be refreshed any more."""
        self.index = index
        self.generation = 0 if index is None else index.manifest.generation
        self._threads = threads

    def __len__(self) -> int:
        """The number of documents."""
        return 0 if self.index is None else len(self.index)

    def __contains__(self, doc_id: object) -> bool:
        """Whether there is a document with this id."""
        return self.index is not None and doc_id in self.index

    @property
    def num_tokens(self) -> int:
        """Tokens in the files; those of deleted documents count until the index is compacted."""
        return 0 if self.index is None else self.index.num_tokens

    @property
    def num_cells(self) -> int:
        """Centroids, each with an inverted list."""
        return 0 if self.index is None else self.index.num_cells

    @property
    def embedding_dim(self) -> int | None:
        """E; None if nothing was added yet."""
        return None if self.index is None else self.index.embedding_dim

    @property
    def fields(self) -> tuple[str, ...]:
        """The metadata fields that a condition can name."""
        return () if self.index is None else self.index.fields

    def search(
        self,
        queries: Ragged | None,
        texts: Sequence[str] | None = None,
        k: int = 10,
        options: SearchOptions | None = None,
    ) -> list[list[Hit]]:
        """The best `k` documents for each query; none in an index to which nothing was added yet.

        Args:
            queries: (num_tokens, E) embeddings; None to search by BM25 alone.
            texts: of the queries, for BM25. With queries too, the option `hybrid` says whether both are fused.
            k: hits for each query.
            options: how to search, and among which documents.

        Raises:
            UserError, UnknownDocument, TypeError: as `Index.search`, `search_text` and `search_hybrid`.
        """
        options = options or SearchOptions()
        check_count("k", k)
        count = len(queries) if queries is not None else len(texts or ())
        subsets = options.subset_of_each(count)
        if self.index is None:
            return [[] for _ in range(count)]
        parts: list[Callable[[], list[list[Hit]]]] = []
        for first in range(0, count, _QUERIES_AT_ONCE):
            chosen = slice(first, first + _QUERIES_AT_ONCE)
            part_options = options if options.subset is None else replace(options, subset=subsets[chosen])
            part_queries = None if queries is None else queries[chosen]
            part_texts = None if texts is None else texts[chosen]
            parts.append(partial(_search, self.index, part_queries, k, part_options, part_texts))
        return [hits for part in self._threads.run(parts) for hits in part]

    def matching(
        self, where: str | None = None, parameters: Parameters = (), seconds: float = SearchOptions.where_seconds
    ) -> list[str]:
        """The ids of all documents, or of those for which a condition holds, by their positions; see `Index.ids`.

        Args:
            where, parameters: the condition.
            seconds: after which it is stopped.
        """
        if self.index is None:
            return []
        options = SearchOptions(where=where, parameters=parameters, where_seconds=seconds)
        snapshot = self.index.snapshot
        return snapshot.ids(matching_documents(snapshot, options))

    def ids_at(self, positions: Sequence[int]) -> list[str | None]:
        """The id of the document at each position; None where there is none."""
        found = self.documents_at(positions)
        return [None if document is None else document.id for document in found]

    def documents_at(self, positions: Sequence[int]) -> list[Document | None]:
        """The document at each position; None where there is none."""
        known = [position for position in positions if 0 <= position < len(self)]
        documents = [] if self.index is None else self.index.snapshot.documents(self._doc_idx[known])
        by_position = dict(zip(known, documents))
        return [by_position.get(position) for position in positions]

    def get(self, ids: Sequence[str]) -> list[Document]:
        """The documents with these ids, in their order.

        Raises:
            UnknownDocument: for an id that is not in the index.
        """
        if self.index is None:
            return _unknown(ids)
        return self.index.get(ids)

    def positions(self, ids: Sequence[str]) -> list[int]:
        """The position of the document with each of these ids.

        Raises:
            UnknownDocument: for an id that is not in the index.
        """
        if self.index is None:
            return _unknown(ids)
        positions: list[int] = np.searchsorted(self._doc_idx, self.index.snapshot.doc_idx_of(ids)).tolist()
        return positions

    @cached_property
    def _doc_idx(self) -> np.ndarray:
        """The doc_idx at each position, (num_documents,) int64."""
        if self.index is None:
            return np.empty(0, np.int64)
        return self.index.snapshot.doc_idx_in(self.index.snapshot.live)


def _search(
    index: Index, queries: Ragged | None, k: int, options: SearchOptions, texts: Sequence[str] | None
) -> list[list[Hit]]:
    if queries is None:
        return index.search_text(texts or [], k, options)
    if options.hybrid:
        return index.search_hybrid(queries, texts or [], k, options)
    return index.search(queries, k, options)


def _unknown(ids: Sequence[str]) -> list[Any]:
    """What an index without documents has of these ids."""
    if ids:
        raise UnknownDocument(f"the index has no document {ids[0]!r:.80}: nothing was added yet")
    return []
