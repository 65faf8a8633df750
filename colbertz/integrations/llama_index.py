"""LlamaIndex: a vector store, a retriever and a reranking postprocessor over an index of colbertz or its server.

    store = ColBERTVectorStore.open("my-index", model="colbertz/nano")
    index = VectorStoreIndex.from_vector_store(store, embed_model=MockEmbedding(1))

The store encodes texts itself; LlamaIndex computes an embedding for every node and query all the same, so give it a
cheap one, as `MockEmbedding`. Scores are MaxSim. `pip install "colbertz[llama-index]"`.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from colbertz.errors import require

require("llama_index.core", "llama-index")

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, QueryBundle
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
    VectorStoreQueryResult,
)
from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict

from colbertz.document import Document
from colbertz.errors import UserError
from colbertz.index import Hit
from colbertz.integrations.conditions import (
    Condition,
    all_of,
    any_of,
    compare,
    field,
    has_element,
    none_of,
    one_of,
)
from colbertz.integrations.target import Target, open_target
from colbertz.models import ColBERT
from colbertz.searcher import Searcher

_CONDITIONS = {FilterCondition.AND: all_of, FilterCondition.OR: any_of, FilterCondition.NOT: none_of}
_COMPARISONS = {"==", "!=", ">", ">=", "<", "<="}


class ColBERTVectorStore(BasePydanticVectorStore):
    """An index as a vector store that is asked with texts."""

    stores_text: bool = True
    is_embedding_query: bool = False

    _target: Target = PrivateAttr()

    @classmethod
    def open(
        cls,
        location: Searcher | Target | str | Path,
        *,
        model: ColBERT | str | Path | None = None,
        token: str | None = None,
    ) -> "ColBERTVectorStore":
        """Open an index: a searcher, a directory that need not exist yet, or the URL of an index of a server."""
        store = cls()
        store._target = open_target(location, model=model, token=token)
        return store

    @property
    def client(self) -> Target:
        """What is searched."""
        return self._target

    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Add nodes and return their ids; nodes whose id the index has are replaced."""
        documents = [
            Document(
                node.node_id,
                node.get_content(metadata_mode=MetadataMode.NONE),
                node_to_metadata_dict(node, remove_text=True, flat_metadata=False),
            )
            for node in nodes
        ]
        self._target.add(documents)
        return [document.id for document in documents]

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Delete the nodes of a document."""
        found = self._target.matching(compare(field("ref_doc_id"), "==", ref_doc_id))
        self._target.delete([document.id for document in found])

    def delete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        """Delete nodes by their ids, or by filters, or those of the ids that meet the filters."""
        self._target.delete([node.node_id for node in self.get_nodes(node_ids, filters)])

    def clear(self) -> None:
        """Delete all nodes."""
        self._target.delete([document.id for document in self._target.matching()])

    def get_nodes(self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None) -> list[BaseNode]:
        """The nodes with these ids that meet the filters."""
        found = self._target.matching(_restricted(node_ids, None, filters))
        return [_node(document) for document in found]

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """The best nodes for the text of a query, in the modes DEFAULT and HYBRID.

        Raises:
            UserError: if the query has no text, or another mode.
        """
        if query.query_str is None:
            raise UserError("colbertz searches with the text of a query, and this one has only an embedding")
        if query.mode not in (VectorStoreQueryMode.DEFAULT, VectorStoreQueryMode.HYBRID):
            raise UserError(f"the modes are DEFAULT and HYBRID, got {query.mode}")
        hybrid = query.mode == VectorStoreQueryMode.HYBRID
        k = (query.hybrid_top_k if hybrid else None) or query.similarity_top_k
        # LlamaIndex's retriever gives empty lists where nothing is restricted.
        condition = _restricted(query.node_ids or None, query.doc_ids or None, query.filters)
        hits = self._target.search(query.query_str, k, condition, hybrid)
        return VectorStoreQueryResult(
            nodes=[_node(hit) for hit in hits],
            similarities=[hit.score for hit in hits],
            ids=[hit.id for hit in hits],
        )


class ColBERTRetriever(BaseRetriever):
    """An index as a retriever, for documents that were not added through LlamaIndex too."""

    def __init__(
        self,
        location: Searcher | Target | str | Path,
        *,
        model: ColBERT | str | Path | None = None,
        token: str | None = None,
        k: int = 4,
        filters: MetadataFilters | None = None,
        hybrid: bool = False,
        **kwargs: Any,
    ) -> None:
        """Open an index, as `ColBERTVectorStore.open`; the `k` best nodes that meet the filters come back."""
        super().__init__(**kwargs)
        self._target = open_target(location, model=model, token=token)
        self._k, self._filters, self._hybrid = k, filters, hybrid

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        condition = _restricted(None, None, self._filters)
        hits = self._target.search(query_bundle.query_str, self._k, condition, self._hybrid)
        return [NodeWithScore(node=_node(hit), score=hit.score) for hit in hits]


class ColBERTRerank(BaseNodePostprocessor):
    """Puts another retriever's nodes in the order of their MaxSim, and keeps the best."""

    model: Any
    top_n: int | None = 4

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise UserError("reranking needs the query; call postprocess_nodes with query_str or query_bundle")
        texts = [node.node.get_content(metadata_mode=MetadataMode.EMBED) for node in nodes]
        ranked = self.model.rank(query_bundle.query_str, texts, self.top_n, show_progress=False)
        return [NodeWithScore(node=nodes[hit.position].node, score=hit.score) for hit in ranked]


def _restricted(
    node_ids: list[str] | None, doc_ids: list[str] | None, filters: MetadataFilters | None
) -> Condition | None:
    """The condition for all three restrictions; None for none."""
    conditions = []
    if node_ids is not None:
        conditions.append(one_of("id", node_ids))
    if doc_ids is not None:
        conditions.append(one_of(field("ref_doc_id"), doc_ids))
    if filters is not None:
        conditions.append(_condition(filters))
    return all_of(conditions) if conditions else None


def _condition(filters: MetadataFilters | MetadataFilter) -> Condition:
    if isinstance(filters, MetadataFilters):
        return _CONDITIONS[filters.condition or FilterCondition.AND]([_condition(part) for part in filters.filters])
    name, operator, value = field(filters.key), filters.operator, filters.value
    values = value if isinstance(value, list) else [value]
    if operator.value in _COMPARISONS:
        return compare(name, operator.value, value)
    if operator in (FilterOperator.IN, FilterOperator.NIN):
        return one_of(name, values, negated=operator == FilterOperator.NIN)
    if operator in (FilterOperator.ANY, FilterOperator.CONTAINS):
        return any_of([has_element(name, element) for element in values])
    if operator == FilterOperator.ALL:
        return all_of([has_element(name, element) for element in values])
    if operator == FilterOperator.IS_EMPTY:
        return f"{name} is null or {name} = '[]'", []
    if operator == FilterOperator.TEXT_MATCH_INSENSITIVE:
        return f"{name} like ? escape '\\'", [f"%{_escaped(str(value))}%"]
    return f"{name} glob ?", [f"*{_in_glob(str(value))}*"]


def _escaped(text: str) -> str:
    """The text for a pattern of LIKE, in which % and _ stand for themselves."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _in_glob(text: str) -> str:
    """The text for a pattern of GLOB, in which *, ? and [ stand for themselves."""
    return "".join(f"[{character}]" if character in "*?[" else character for character in text)


def _node(found: Document | Hit) -> BaseNode:
    """The node that was added; for a document that came into the index otherwise, one of its text and metadata."""
    from llama_index.core.schema import TextNode

    if "_node_content" in found.metadata:
        return metadata_dict_to_node(found.metadata, text=found.text or "")
    return TextNode(id_=found.id, text=found.text or "", metadata=json.loads(json.dumps(found.metadata)))
