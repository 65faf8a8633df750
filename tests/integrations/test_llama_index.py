"""LlamaIndex's vector index over a store of ours, its filters, the retriever and the postprocessor."""

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("llama_index.core")

from llama_index.core import MockEmbedding, StorageContext, VectorStoreIndex
from llama_index.core.schema import Document, NodeRelationship, NodeWithScore, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters, VectorStoreQuery

from colbertz import ColBERT, Searcher
from colbertz.integrations.llama_index import ColBERTRerank, ColBERTRetriever, ColBERTVectorStore

TEXTS = ["Bread needs yeast to rise.", "Glaciers move slowly.", "A list is sorted in place."]
METADATA: list[dict[str, Any]] = [
    {"year": 2021, "tags": ["food", "home"], "note": "50% off"},
    {"year": 1999, "tags": ["ice"]},
    {"tags": [], "note": "A Note"},
]


@pytest.fixture(scope="module")
def model() -> ColBERT:
    return ColBERT.from_pretrained("colbertz/nano", dtype=torch.float32)


@pytest.fixture
def store(model: ColBERT, tmp_path: Path) -> ColBERTVectorStore:
    store = ColBERTVectorStore.open(tmp_path / "index", model=model)
    rows = zip(("bread", "ice", "list"), TEXTS, METADATA)
    store.add([TextNode(id_=name, text=text, metadata=metadata) for name, text, metadata in rows])
    return store


def test_a_vector_store_index_adds_finds_and_deletes(model: ColBERT, tmp_path: Path) -> None:
    store = ColBERTVectorStore.open(tmp_path / "index", model=model)
    context = StorageContext.from_defaults(vector_store=store)
    documents = [Document(id_=f"doc{n}", text=text, metadata={"n": n}) for n, text in enumerate(TEXTS)]
    index = VectorStoreIndex.from_documents(documents, context, embed_model=MockEmbedding(1))
    found = index.as_retriever(similarity_top_k=2).retrieve("what makes dough rise?")
    assert found[0].node.get_content() == TEXTS[0] and len(found) == 2
    assert found[0].node.metadata == {"n": 0} and found[0].score > found[1].score
    assert found[0].node.ref_doc_id == "doc0"
    index.delete_ref_doc("doc0")
    again = VectorStoreIndex.from_vector_store(store, embed_model=MockEmbedding(1))
    assert {node.node.ref_doc_id for node in again.as_retriever(similarity_top_k=9).retrieve("rise")} == {
        "doc1",
        "doc2",
    }


@pytest.mark.parametrize(
    ("key", "operator", "value", "expected"),
    [
        ("year", "==", 2021, ["bread"]),
        ("year", "!=", 2021, ["ice", "list"]),
        ("year", ">", 1999, ["bread"]),
        ("year", "<=", 2021, ["bread", "ice"]),
        ("year", "in", [1999, 7], ["ice"]),
        ("year", "nin", [1999], ["bread", "list"]),
        ("tags", "any", ["ice", "home"], ["bread", "ice"]),
        ("tags", "all", ["food", "home"], ["bread"]),
        ("tags", "contains", "ice", ["ice"]),
        ("tags", "is_empty", None, ["list"]),
        ("note", "is_empty", None, ["ice"]),
        ("note", "text_match", "50%", ["bread"]),
        ("note", "text_match", "note", []),
        ("note", "text_match_insensitive", "note", ["list"]),
        ("note", "text_match_insensitive", "5%f", []),
        ("nobody", "==", 1, []),
    ],
)
def test_filters(store: ColBERTVectorStore, key: str, operator: str, value: Any, expected: list[str]) -> None:
    filters = MetadataFilters(filters=[MetadataFilter(key=key, operator=operator, value=value)])
    assert [node.node_id for node in store.get_nodes(filters=filters)] == expected
    result = store.query(VectorStoreQuery(query_str="rise", similarity_top_k=9, filters=filters))
    assert sorted(result.ids) == sorted(expected)


def test_filters_are_joined_and_nested(store: ColBERTVectorStore) -> None:
    year = MetadataFilter(key="year", operator=">", value=0)
    food = MetadataFilter(key="tags", operator="contains", value="food")
    for condition, expected in (("and", ["bread"]), ("or", ["bread", "ice"]), ("not", ["ice", "list"])):
        filters = MetadataFilters(filters=[year, food], condition=condition)
        assert [node.node_id for node in store.get_nodes(filters=filters)] == expected, condition
        assert [n.node_id for n in store.get_nodes(filters=MetadataFilters(filters=[filters]))] == expected
    assert [node.node_id for node in store.get_nodes(["list", "bread"])] == ["bread", "list"]


def test_nodes_are_deleted_by_id_filter_and_document(store: ColBERTVectorStore) -> None:
    source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id="doc")}
    store.add([TextNode(id_="part", text="More bread.", relationships=source)])
    store.delete("doc")
    assert [node.node_id for node in store.get_nodes()] == ["bread", "ice", "list"]
    store.delete_nodes(["bread", "nobody"])
    store.delete_nodes(filters=MetadataFilters(filters=[MetadataFilter(key="year", value=1999)]))
    assert [node.node_id for node in store.get_nodes()] == ["list"]
    store.clear()
    assert store.get_nodes() == []


def test_modes(store: ColBERTVectorStore) -> None:
    assert store.query(VectorStoreQuery(query_str="yeast", mode="hybrid", similarity_top_k=1)).ids == ["bread"]
    with pytest.raises(ValueError, match="the modes are"):
        store.query(VectorStoreQuery(query_str="yeast", mode="mmr"))
    with pytest.raises(ValueError, match="only an embedding"):
        store.query(VectorStoreQuery(query_embedding=[0.1]))


def test_the_retriever_takes_an_index_that_was_built_elsewhere(model: ColBERT, tmp_path: Path) -> None:
    Searcher.build(tmp_path / "index", model, TEXTS, metadata=METADATA)
    filters = MetadataFilters(filters=[MetadataFilter(key="year", operator=">", value=0)])
    retriever = ColBERTRetriever(tmp_path / "index", model=model, k=3, filters=filters)
    found = retriever.retrieve("what makes dough rise?")
    assert [(node.node.node_id, node.node.metadata) for node in found] == [("0", METADATA[0]), ("1", METADATA[1])]


def test_the_postprocessor_orders_nodes_by_maxsim(model: ColBERT) -> None:
    nodes = [NodeWithScore(node=TextNode(id_=str(n), text=text), score=1.0) for n, text in enumerate(TEXTS)]
    best = ColBERTRerank(model=model, top_n=2).postprocess_nodes(nodes, query_str="moving ice")
    assert best[0].node.node_id == "1" and len(best) == 2
    assert best[0].score == pytest.approx(model.rank("moving ice", TEXTS)[0].score)
    with pytest.raises(ValueError, match="needs the query"):
        ColBERTRerank(model=model).postprocess_nodes(nodes)
