"""langchain-plaid, an adapter to next-plaid's server by others, on colbertz's server."""

from pathlib import Path

import pytest
from langchain_core.documents import Document
from langchain_plaid import NextPlaidVectorStore
from serving import Server

from colbertz import ColBERT

TEXTS = ["bread needs yeast", "glaciers move slowly", "yeast is a fungus"]


class Embeddings:
    """What the adapter asks for: a matrix for each text."""

    def __init__(self, model: ColBERT) -> None:
        self.model = model

    def embed_documents(self, texts: list[str]) -> list[list[list[float]]]:
        return [matrix.tolist() for matrix in self.model.encode_document(texts)]

    def embed_query(self, text: str) -> list[list[float]]:
        return self.model.encode_query(text).tolist()


@pytest.fixture(scope="module")
def embeddings(checkpoint: Path) -> Embeddings:
    return Embeddings(ColBERT.from_pretrained(checkpoint))


def test_the_vector_store(server: Server, embeddings: Embeddings) -> None:
    store = NextPlaidVectorStore(server.url, "langchain", embeddings, write_timeout=60)
    assert store.similarity_search("anything") == []
    metadatas = [{"year": 2021}, {"year": 2019}, {"year": 2020}]
    assert store.add_texts(TEXTS, metadatas, ids=["a", "b", "c"]) == ["a", "b", "c"]

    best, score = store.similarity_search_with_score("glaciers move slowly", k=1)[0]
    assert (best.id, best.page_content, best.metadata) == ("b", TEXTS[1], {"year": 2019})
    assert score > 0
    found = store.similarity_search("yeast", k=3, filter={"year": 2020})
    assert [document.id for document in found] == ["c"]
    assert [document.page_content for document in store.get_by_ids(["c", "a", "nothing"])] == [TEXTS[0], TEXTS[2]]

    store.add_texts(["bread needs salt"], ids=["a"])  # replaces
    assert [document.page_content for document in store.get_by_ids(["a"])] == ["bread needs salt"]
    assert store.delete(["b"])
    assert store.get_by_ids(["b"]) == []
    assert len(store.similarity_search("bread", k=10)) == 2
    # A second store on the same index finds it there.
    again = NextPlaidVectorStore.from_documents(
        [Document(page_content="the moon moves the tides", metadata={"year": 1})],
        embeddings,
        url=server.url,
        index_name="langchain",
        write_timeout=60,
    )
    retriever = again.as_retriever(search_kwargs={"k": 1})
    assert retriever.invoke("the moon moves the tides")[0].page_content == "the moon moves the tides"
