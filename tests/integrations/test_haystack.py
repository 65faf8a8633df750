"""Haystack's own tests of a document store, and the retriever and ranker in a pipeline."""

from pathlib import Path

import pytest
import torch

pytest.importorskip("haystack")

from haystack import Document, Pipeline
from haystack.document_stores.types import DocumentStore, DuplicatePolicy
from haystack.testing.document_store import (
    CountDocumentsTest,
    DeleteDocumentsTest,
    FilterDocumentsTest,
    WriteDocumentsTest,
)

from colbertz import ColBERT
from colbertz.integrations.haystack import ColBERTDocumentStore, ColBERTRanker, ColBERTRetriever

TEXTS = ["Bread needs yeast to rise.", "Glaciers move slowly.", "A list is sorted in place."]


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The directory of a model in float32."""
    path = tmp_path_factory.mktemp("model") / "nano"
    ColBERT.from_pretrained("colbertz/nano", dtype=torch.float32).save_pretrained(path)
    return str(path)


@pytest.fixture
def document_store(nano: str, tmp_path: Path) -> ColBERTDocumentStore:
    return ColBERTDocumentStore(str(tmp_path / "index"), model=nano)


class TestStandard(CountDocumentsTest, WriteDocumentsTest, DeleteDocumentsTest, FilterDocumentsTest):
    """The tests that Haystack gives to every document store."""

    def assert_documents_are_equal(self, received: list[Document], expected: list[Document]) -> None:
        """Compare what this store keeps: it makes embeddings of its own, and has no place for others."""
        assert {d.id: (d.content, d.meta) for d in received} == {d.id: (d.content, d.meta) for d in expected}
        assert len(received) == len(expected)

    def test_write_documents(self, document_store: DocumentStore) -> None:
        documents = [Document(content="test doc")]
        assert document_store.write_documents(documents) == 1
        assert document_store.write_documents(documents, DuplicatePolicy.SKIP) == 0


def test_a_pipeline_retrieves_and_ranks_and_can_be_stored(document_store: ColBERTDocumentStore, nano: str) -> None:
    document_store.write_documents([Document(id=str(n), content=t, meta={"n": n}) for n, t in enumerate(TEXTS)])
    pipeline = Pipeline()
    pipeline.add_component("retriever", ColBERTRetriever(document_store, top_k=3))
    pipeline.add_component("ranker", ColBERTRanker(nano, top_k=2))
    pipeline.connect("retriever.documents", "ranker.documents")
    stored = Pipeline.from_dict(pipeline.to_dict(), allowed_modules=["colbertz.integrations.haystack"])
    question = {"query": "what makes dough rise?"}
    for chain in (pipeline, stored):
        answer = chain.run({"retriever": question, "ranker": question}, include_outputs_from={"retriever"})
        found, ranked = answer["retriever"]["documents"], answer["ranker"]["documents"]
        assert found[0].id == "0" and len(found) == 3 and found[0].score > found[1].score
        assert ranked[0].id == "0" and len(ranked) == 2 and ranked[0].meta == {"n": 0}
    filters = {"field": "meta.n", "operator": ">", "value": 0}
    assert {d.id for d in ColBERTRetriever(document_store, filters=filters).run("rise")["documents"]} == {"1", "2"}


def test_a_document_without_content_is_refused(document_store: ColBERTDocumentStore) -> None:
    with pytest.raises(ValueError, match="no content"):
        document_store.write_documents([Document(id="x", meta={"a": 1})])
    assert document_store.count_documents() == 0
