"""LangChain: a retriever, a vector store and a reranker over an index of colbertz or one of its server.

    store = ColBERTVectorStore("my-index", model="colbertz/nano")
    store.add_texts(["Bread needs yeast."], [{"year": 2021}])
    store.similarity_search("what makes dough rise?", k=3, filter={"year": 2021})

Filters are a dict of metadata values, or an SQL expression over the metadata as for `SearchOptions.where`. Scores are
MaxSim, so higher is better. `pip install "colbertz[langchain]"`.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from colbertz.errors import require

require("langchain_core", "langchain")

from langchain_core.callbacks import CallbackManagerForRetrieverRun, Callbacks
from langchain_core.documents import BaseDocumentCompressor
from langchain_core.documents import Document as Page
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import VectorStore
from pydantic import ConfigDict

from colbertz.document import Document
from colbertz.index import Hit
from colbertz.integrations.conditions import Condition, equal
from colbertz.integrations.target import Target, open_target
from colbertz.models import ColBERT
from colbertz.searcher import Searcher

# A dict of metadata values, an SQL expression, or none.
Filter = dict[str, Any] | str | None


class ColBERTVectorStore(VectorStore):
    """An index as a vector store. The embeddings are colbertz's own: no `Embeddings` object is used."""

    def __init__(
        self,
        location: Searcher | Target | str | Path,
        *,
        model: ColBERT | str | Path | None = None,
        token: str | None = None,
        hybrid: bool = False,
    ) -> None:
        """Open an index; see `colbertz.integrations.target.open_target`.

        Args:
            location: a searcher, a directory that need not exist yet, or the URL of an index of a server.
            model: for a new directory.
            token: of the server.
            hybrid: fuse with BM25.
        """
        self._target = open_target(location, model=model, token=token)
        self._hybrid = hybrid

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings | None = None,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> "ColBERTVectorStore":
        """A store with texts in it; `kwargs` are those of the constructor, and `embedding` is not used."""
        store = cls(**kwargs)
        store.add_texts(texts, metadatas, ids=ids)
        return store

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Add texts and return their ids; texts whose id the index has are replaced."""
        texts = list(texts)
        names = [doc_id or str(uuid4()) for doc_id in ids or [""] * len(texts)]
        rows = zip(names, texts, metadatas or [{}] * len(texts), strict=True)
        # The last of several texts with one id is the one that stays.
        documents = {doc_id: Document(doc_id, text, metadata) for doc_id, text, metadata in rows}
        self._target.add(list(documents.values()))
        return names

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool | None:
        """Delete documents by their ids, or all of them without ids; ids that are not there are no error."""
        self._target.delete([document.id for document in self._target.matching()] if ids is None else ids)
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Page]:
        """The documents that are there of these."""
        return [_page(document) for document in self._target.get(ids)]

    def similarity_search(self, query: str, k: int = 4, filter: Filter = None, **kwargs: Any) -> list[Page]:
        """The `k` best documents for a query."""
        return [page for page, _ in self.similarity_search_with_score(query, k, filter)]

    def similarity_search_with_score(
        self, query: str, k: int = 4, filter: Filter = None, **kwargs: Any
    ) -> list[tuple[Page, float]]:
        """The `k` best documents with their scores, which are MaxSim, or fused ones if the store is hybrid."""
        hits = self._target.search(query, k, _condition(filter), self._hybrid)
        return [(_page(hit), hit.score) for hit in hits]


class ColBERTRetriever(BaseRetriever):
    """An index as a retriever. Each page has its score in the metadata, as "score"."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    target: Any
    k: int = 4
    filter: Filter = None
    hybrid: bool = False

    @classmethod
    def open(
        cls,
        location: Searcher | Target | str | Path,
        *,
        model: ColBERT | str | Path | None = None,
        token: str | None = None,
        **fields: Any,
    ) -> "ColBERTRetriever":
        """Open an index; `fields` are `k`, `filter` and `hybrid`, the rest as for `ColBERTVectorStore`."""
        return cls(target=open_target(location, model=model, token=token), **fields)

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Page]:
        hits = self.target.search(query, self.k, _condition(self.filter), self.hybrid)
        pages = [_page(hit) for hit in hits]
        for page, hit in zip(pages, hits):
            page.metadata["score"] = hit.score
        return pages


class ColBERTReranker(BaseDocumentCompressor):
    """Puts another retriever's documents in the order of their MaxSim, and keeps the best."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    model: ColBERT
    top_n: int | None = 4

    def compress_documents(
        self, documents: Sequence[Page], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Page]:
        """The best `top_n` documents, best first, with their score in the metadata as "relevance_score"."""
        ranked = self.model.rank(query, [page.page_content for page in documents], self.top_n, show_progress=False)
        return [
            documents[hit.position].model_copy(
                update={"metadata": documents[hit.position].metadata | {"relevance_score": hit.score}}
            )
            for hit in ranked
        ]


def _condition(filter: Filter) -> Condition | None:
    if not filter:
        return None
    return (filter, ()) if isinstance(filter, str) else equal(filter)


def _page(found: Document | Hit) -> Page:
    return Page(id=found.id, page_content=found.text or "", metadata=dict(found.metadata))
