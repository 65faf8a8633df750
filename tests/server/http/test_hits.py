"""colbertz's own routes: hits with texts, documents, explanations, fields, and DSPy's client."""

from pathlib import Path
from typing import Any

import pytest
from serving import Server

from colbertz import ColBERT, Document, Searcher
from colbertz.errors import UserError
from colbertz.integrations.target import ServerTarget, open_target

TEXTS = ["The lazy dog sleeps.", "Bread needs yeast.", "Glaciers move slowly.", "A quick brown fox."]
METADATA: list[dict[str, Any]] = [
    {"id": "dog", "kind": "animal", "year": 2001},
    {"id": "bread", "kind": "food", "year": 2011},
    {"id": "ice", "kind": "earth"},
    {"id": "fox", "kind": "animal", "year": 2021},
]


@pytest.fixture(scope="module")
def index(server: Server) -> str:
    server.add("hits", TEXTS, METADATA)
    return "/indices/hits"


@pytest.fixture(scope="module")
def searcher(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    """The same documents in an index of our own."""
    path = tmp_path_factory.mktemp("local") / "index"
    documents = [Document(row["id"], text, row) for text, row in zip(TEXTS, METADATA)]
    return Searcher.build(path, ColBERT.from_pretrained(checkpoint), documents)


@pytest.mark.parametrize("mode", ["plaid", "exact", "bm25", "hybrid"])
def test_hits_are_those_of_the_searcher(server: Server, index: str, searcher: Searcher, mode: str) -> None:
    answer = server.request("POST", f"{index}/query", json={"query": "a lazy dog", "k": 3, "mode": mode}).json()
    if mode == "bm25":
        [expected] = searcher.index.search_text(["a lazy dog"], 3)
    else:
        expected = searcher.search("a lazy dog", 3, exact=mode == "exact", hybrid=mode == "hybrid")
    assert [hit["id"] for hit in answer["hits"]] == [hit.id for hit in expected]
    assert [hit["score"] for hit in answer["hits"]] == pytest.approx([hit.score for hit in expected], rel=3e-3), (
        "the server computes in bfloat16 where that is fast"
    )
    best = answer["hits"][0]
    assert (best["id"], best["position"], best["text"], best["metadata"]) == ("dog", 0, TEXTS[0], METADATA[0])
    assert [part["text"] for line in best["passage"] for part in line if part["marked"]] == ["lazy", "dog"]
    assert bool(best["parts"]) == (mode == "hybrid") and answer["generation"] == 1


def test_an_explanation_is_the_searchers(server: Server, index: str, searcher: Searcher) -> None:
    answer = server.request("POST", f"{index}/explain", json={"query": "a lazy dog", "id": "dog"}).json()
    expected = searcher.explain("a lazy dog", "dog").heatmap()
    assert [word["met"] for word in answer["query_words"]] == [word["met"] for word in expected["query_words"]]
    assert answer["score"] == pytest.approx(expected["score"], abs=0.1)
    assert answer["document_words"] == expected["document_words"]
    refused = server.request("POST", f"{index}/explain", json={"query": "dog", "id": "nobody"})
    assert refused.status_code == 400 and "nobody" in refused.json()["message"]


def test_documents_by_id_and_condition(server: Server, index: str) -> None:
    def ids(**body: Any) -> list[str]:
        answer = server.request("POST", f"{index}/get", json=body).json()
        assert answer["count"] >= len(answer["documents"])
        return [document["id"] for document in answer["documents"]]

    assert ids() == ["dog", "bread", "ice", "fox"]
    assert ids(ids=["fox", "nobody", "dog", "fox"]) == ["fox", "dog"]
    assert ids(where="kind = ?", parameters=["animal"]) == ["dog", "fox"]
    assert ids(ids=["fox", "ice"], where="kind = ?", parameters=["animal"]) == ["fox"]
    assert ids(offset=1, limit=2) == ["bread", "ice"]
    assert ids(ids=[]) == []


def test_fields_with_their_values(server: Server, index: str) -> None:
    fields = {field.pop("name"): field for field in server.request("GET", f"{index}/fields").json()["fields"]}
    assert fields["kind"]["values"] == ["animal", "food", "earth"]
    assert (fields["year"]["values"], fields["year"]["least"], fields["year"]["greatest"]) == ([], 2001, 2021)


def test_dspys_client_gets_its_answer(server: Server, index: str) -> None:
    """The requests are those of `dspy.ColBERTv2` 3.4.1, which was tried by hand; its package is large."""
    answer = server.request("GET", f"{index}/colbertv2", params={"query": "a lazy dog", "k": 2}).json()
    headers = {"Content-Type": "application/json; charset=utf-8"}
    body = {"query": "a lazy dog", "k": 2}
    assert server.request("POST", f"{index}/colbertv2", json=body, headers=headers).json() == answer
    assert [set(row) for row in answer["topk"]] == [{"text", "long_text", "pid", "id", "rank", "score", "prob"}] * 2
    first, second = answer["topk"]
    assert (first["text"], first["pid"], first["rank"], second["rank"]) == (TEXTS[0], 0, 1, 2)
    assert first["prob"] + second["prob"] == pytest.approx(1) and first["prob"] >= second["prob"]


def test_wrong_requests(server: Server, index: str) -> None:
    for body in ({"query": ""}, {"query": "a", "k": 0}, {"query": "a", "mode": "best"}, {"query": "a", "k": 10**9}):
        assert server.request("POST", f"{index}/query", json=body).status_code == 400, body
    assert server.request("GET", f"{index}/colbertv2", params={"query": " "}).status_code == 400
    assert server.request("POST", "/indices/nothing/query", json={"query": "a"}).status_code == 404


def test_an_empty_index(server: Server) -> None:
    server.request("POST", "/indices", json={"name": "hollow"}).raise_for_status()
    assert server.request("POST", "/indices/hollow/query", json={"query": "a"}).json()["hits"] == []
    assert server.request("GET", "/indices/hollow/colbertv2", params={"query": "a"}).json()["topk"] == []
    assert server.request("GET", "/indices/hollow/fields").json()["fields"] == []
    assert server.request("POST", "/indices/hollow/get", json={"ids": ["a"]}).json()["documents"] == []
    assert server.request("POST", "/indices/hollow/explain", json={"query": "a", "id": "a"}).status_code == 400


def test_the_target_of_the_adapters_over_http(server: Server) -> None:
    target = open_target(f"{server.url}/indices/adapted")
    assert isinstance(target, ServerTarget)
    assert target.search("dog", 3) == [] and target.get(["dog"]) == [] and target.delete(["dog"]) == 0
    documents = [Document(row["id"], text, row) for text, row in zip(TEXTS, METADATA)]
    assert target.count() == 0
    target.add(documents)
    assert target.count() == 4
    assert [hit.id for hit in target.search("a lazy dog", 1, hybrid=True)] == ["dog"]
    assert target.search("dog", 9, ("year > ?", [2005]))[0].id in ("bread", "fox")
    assert [document.text for document in target.get(["ice", "nobody"])] == [TEXTS[2]]
    target.add([Document("ice", "Ice melts.", {"id": "ice"})])
    assert [document.text for document in target.get(["ice"])] == ["Ice melts."]
    assert target.delete(["ice", "nobody", "fox"]) == 2
    assert [document.id for document in target.matching()] == ["dog", "bread"]
    with pytest.raises(UserError, match="refused with status 400"):
        target.search("", 3)
    with pytest.raises(UserError, match="ends in /indices/NAME"):
        open_target("http://127.0.0.1:1/nothing")
