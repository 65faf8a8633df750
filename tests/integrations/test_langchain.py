"""LangChain's own tests of a vector store, and what they do not look at: filters, the retriever, the reranker."""

from pathlib import Path

import pytest
import torch

pytest.importorskip("langchain_core")

from langchain_core.documents import Document
from langchain_core.vectorstores import VectorStore
from langchain_tests.integration_tests.vectorstores import VectorStoreIntegrationTests

from colbertz import ColBERT
from colbertz.errors import UserError
from colbertz.integrations.langchain import ColBERTReranker, ColBERTRetriever, ColBERTVectorStore

TEXTS = ["Bread needs yeast to rise.", "Glaciers move slowly.", "A list is sorted in place."]
METADATA = [{"year": 2021, "tag": "food"}, {"year": 1999, "tag": "ice"}, {"year": 2021, "tag": "code"}]


@pytest.fixture(scope="module")
def model() -> ColBERT:
    return ColBERT.from_pretrained("colbertz/nano", dtype=torch.float32)


@pytest.fixture
def store(model: ColBERT, tmp_path: Path) -> ColBERTVectorStore:
    return ColBERTVectorStore.from_texts(
        TEXTS, None, METADATA, ids=["bread", "ice", "list"], location=tmp_path / "index", model=model
    )


@pytest.mark.anyio
class TestStandard(VectorStoreIntegrationTests):
    """The tests that LangChain gives to every vector store."""

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    def vectorstore(self, model: ColBERT, tmp_path: Path) -> VectorStore:
        return ColBERTVectorStore(tmp_path / "index", model=model)


def test_the_best_comes_first_and_filters_hold(store: ColBERTVectorStore) -> None:
    [(page, score)] = store.similarity_search_with_score("what makes dough rise?", k=1)
    assert (page.id, page.page_content, page.metadata) == ("bread", TEXTS[0], METADATA[0]) and score > 0
    assert {page.id for page in store.similarity_search("rise", filter={"year": 2021})} == {"bread", "list"}
    assert {page.id for page in store.similarity_search("rise", filter={"tag": ["ice", "code"]})} == {"ice", "list"}
    assert [page.id for page in store.similarity_search("rise", filter="year < 2000")] == ["ice"]
    assert store.similarity_search("rise", filter={"nothing": 1}) == []


def test_the_retriever_searches_what_the_store_wrote(store: ColBERTVectorStore, model: ColBERT, tmp_path: Path) -> None:
    retriever = ColBERTRetriever.open(tmp_path / "index", model=model, k=2, filter={"year": 2021}, hybrid=True)
    pages = retriever.invoke("what makes dough rise?")
    assert pages[0].id == "bread" and len(pages) == 2
    assert pages[0].metadata["score"] >= pages[1].metadata["score"]
    store.add_texts(["Yeast makes dough rise."], [{"year": 2021}], ids=["new"])
    assert retriever.invoke("what makes dough rise?")[0].id == "new", "what was added since is found"


def test_the_reranker_orders_pages_by_maxsim(model: ColBERT) -> None:
    pages = [Document(page_content=text, metadata={"n": n}) for n, text in enumerate(TEXTS)]
    best = ColBERTReranker(model=model, top_n=2).compress_documents(pages, "moving ice")
    assert best[0].metadata["n"] == 1 and len(best) == 2
    assert best[0].metadata["relevance_score"] == pytest.approx(model.rank("moving ice", TEXTS)[0].score)
    assert pages[1].metadata == {"n": 1}, "the pages that came in are as they were"


def test_a_new_directory_needs_a_model(tmp_path: Path) -> None:
    store = ColBERTVectorStore(tmp_path / "new")
    assert store.similarity_search("anything") == []
    with pytest.raises(UserError, match="give model="):
        store.add_texts(["text"])
