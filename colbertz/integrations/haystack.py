"""Haystack: a document store, a retriever and a ranker over an index of colbertz or one of its server.

    store = ColBERTDocumentStore("my-index", model="colbertz/nano")
    store.write_documents([Document(content="Bread needs yeast.", meta={"year": 2021})])
    ColBERTRetriever(store, top_k=3).run(query="what makes dough rise?")

Scores are MaxSim. `pip install "colbertz[haystack]"`.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from colbertz.errors import require

require("haystack", "haystack")

from haystack import component, default_from_dict, default_to_dict
from haystack.dataclasses import Document as Page
from haystack.document_stores.errors import DuplicateDocumentError
from haystack.document_stores.types import DuplicatePolicy
from haystack.errors import FilterError

from colbertz.document import Document
from colbertz.errors import UserError
from colbertz.index import Hit
from colbertz.integrations.conditions import Condition, all_of, any_of, compare, field, none_of, one_of
from colbertz.integrations.target import open_target
from colbertz.models import ColBERT

_LOGIC: dict[str, Callable[[list[Condition]], Condition]] = {"AND": all_of, "OR": any_of, "NOT": none_of}
_ORDER = {">", ">=", "<", "<="}


class ColBERTDocumentStore:
    """An index as a document store. Texts are encoded by colbertz; embeddings of the documents are not stored."""

    def __init__(self, location: str, *, model: str | None = None, token: str | None = None) -> None:
        """Open an index.

        Args:
            location: a directory, which need not exist yet, or the URL of an index of a server.
            model: for a directory; a directory or a hub id.
            token: of the server.
        """
        self._settings = {"location": location, "model": model}
        self.target = open_target(location, model=model, token=token)

    def to_dict(self) -> dict[str, Any]:
        """The settings, without the token: it is a secret."""
        return default_to_dict(self, **self._settings)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "ColBERTDocumentStore":
        """A store from its settings."""
        store: ColBERTDocumentStore = default_from_dict(cls, data)
        return store

    def count_documents(self) -> int:
        """How many documents there are."""
        return self.target.count()

    def filter_documents(self, filters: dict[str, Any] | None = None) -> list[Page]:
        """The documents that meet the filters.

        Raises:
            FilterError: for filters of a wrong form.
        """
        return [_page(document) for document in self.target.matching(condition(filters))]

    def write_documents(self, documents: list[Page], policy: DuplicatePolicy = DuplicatePolicy.NONE) -> int:
        """Add documents and return how many were written; NONE is FAIL.

        Raises:
            DuplicateDocumentError: if an id is in the index, and the policy neither skips nor overwrites.
            ValueError: if something is no Document, or has no text.
        """
        if not isinstance(documents, list) or not all(isinstance(page, Page) for page in documents):
            raise ValueError("write_documents takes a list of haystack's Documents")
        for page in documents:
            if page.content is None:
                raise UserError(f"the document {page.id!r} has no content to encode")
        by_id: dict[str, Page] = {}
        for page in documents:
            if page.id not in by_id or policy == DuplicatePolicy.OVERWRITE:
                by_id[page.id] = page
            elif policy != DuplicatePolicy.SKIP:
                raise DuplicateDocumentError(f"the id {page.id!r} is given twice")
        if policy != DuplicatePolicy.OVERWRITE:
            for present in self.target.get(by_id):
                if policy != DuplicatePolicy.SKIP:
                    raise DuplicateDocumentError(f"the id {present.id!r} is in the index already")
                del by_id[present.id]
        self.target.add([Document(page.id, page.content, page.meta) for page in by_id.values()])
        return len(by_id)

    def delete_documents(self, document_ids: list[str]) -> None:
        """Delete documents; ids that are not there are no error."""
        self.target.delete(document_ids)


@component
class ColBERTRetriever:
    """An index as a retriever."""

    def __init__(
        self,
        document_store: ColBERTDocumentStore,
        *,
        top_k: int = 10,
        filters: dict[str, Any] | None = None,
        hybrid: bool = False,
    ) -> None:
        """Remember the store and how to search it; `hybrid` fuses with BM25."""
        self.document_store, self.top_k, self.filters, self.hybrid = document_store, top_k, filters, hybrid

    def to_dict(self) -> dict[str, Any]:
        """The settings, with those of the store."""
        settings = {"top_k": self.top_k, "filters": self.filters, "hybrid": self.hybrid}
        return default_to_dict(self, document_store=self.document_store.to_dict(), **settings)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "ColBERTRetriever":
        """A retriever from its settings."""
        parameters = data["init_parameters"]
        store = ColBERTDocumentStore.from_dict(parameters["document_store"])
        retriever: ColBERTRetriever = default_from_dict(
            cls, data | {"init_parameters": parameters | {"document_store": store}}
        )
        return retriever

    @component.output_types(documents=list[Page])
    def run(self, query: str, filters: dict[str, Any] | None = None, top_k: int | None = None) -> dict[str, list[Page]]:
        """The best documents for a query, with their scores."""
        chosen = condition(filters or self.filters)
        hits = self.document_store.target.search(query, top_k or self.top_k, chosen, self.hybrid)
        return {"documents": [_page(hit) for hit in hits]}


@component
class ColBERTRanker:
    """Puts another retriever's documents in the order of their MaxSim, and keeps the best."""

    def __init__(self, model: str, *, top_k: int = 10) -> None:
        """Remember the model, a directory or a hub id; it is loaded by `warm_up`, or at the first run."""
        self.model, self.top_k = model, top_k
        self._loaded: ColBERT | None = None

    def warm_up(self) -> None:
        """Load the model."""
        self._loaded = self._loaded or ColBERT.from_pretrained(self.model)

    @component.output_types(documents=list[Page])
    def run(self, query: str, documents: list[Page], top_k: int | None = None) -> dict[str, list[Page]]:
        """The best documents, best first, with their scores; those without content are left out."""
        self.warm_up()
        assert self._loaded is not None
        pages = [page for page in documents if page.content]
        ranked = self._loaded.rank(query, [page.content or "" for page in pages], top_k or self.top_k)
        return {"documents": [_scored(pages[hit.position], hit.score) for hit in ranked]}


def condition(filters: dict[str, Any] | None) -> Condition | None:
    """Haystack's filters as the index's expression.

    Raises:
        FilterError: if a key is missing, or a value cannot be compared.
    """
    if not filters:
        return None
    if "field" in filters:
        return _comparison(filters)
    if "operator" not in filters or "conditions" not in filters:
        raise FilterError(f"a filter has a field, or an operator and conditions, got {filters}")
    if filters["operator"] not in _LOGIC:
        raise FilterError(f"the operators over conditions are {', '.join(_LOGIC)}, got {filters['operator']!r}")
    parts = [condition(part) for part in filters["conditions"]]
    return _LOGIC[filters["operator"]]([part for part in parts if part is not None])


def _comparison(filters: dict[str, Any]) -> Condition:
    if "operator" not in filters or "value" not in filters:
        raise FilterError(f"a filter with a field has an operator and a value, got {filters}")
    name, operator, value = filters["field"], filters["operator"], filters["value"]
    expression = {"id": "id", "content": "text"}.get(name) or field(name.removeprefix("meta."))
    if operator in ("in", "not in"):
        if not isinstance(value, list):
            raise FilterError(f"{operator!r} takes a list, got {value!r}")
        return one_of(expression, value, negated=operator == "not in")
    if operator in _ORDER:
        if isinstance(value, list | dict) or (isinstance(value, str) and not _is_date(value)):
            raise FilterError(f"{operator!r} compares numbers and ISO dates, got {value!r}")
    elif operator not in ("==", "!="):
        raise FilterError(f"there is no operator {operator!r}")
    return compare(expression, operator, value)


def _is_date(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _page(found: Document | Hit) -> Page:
    return Page(
        id=found.id,
        content=found.text,
        meta=dict(found.metadata),
        score=found.score if isinstance(found, Hit) else None,
    )


def _scored(page: Page, score: float) -> Page:
    return Page.from_dict(page.to_dict() | {"score": score})
