"""mteb's evaluation of a model gives the same values as ours, on small tasks made of mteb's classes."""

import importlib.util
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from colbertz.evaluation import Collection, measures
from colbertz.evaluation.retrieve import retrieve
from colbertz.integrations.mteb import MtebModel
from colbertz.models import ColBERT

pytestmark = pytest.mark.skipif(importlib.util.find_spec("mteb") is None, reason="mteb is not installed")

WORDS = "red green blue cold warm dry wet old new big small round flat north south east west".split()
PAIRS = [(a, b) for i, a in enumerate(WORDS) for b in WORDS[i + 1 :]][:40]
IDS = [f"d{i}" for i in range(len(PAIRS))]
QUERIES = {f"q{i}": " ".join(PAIRS[4 * i]) for i in range(8)}
RELEVANT = {f"q{i}": {f"d{4 * i}": 1, f"d{4 * i + 2}": 2, f"d{39 - i}": 1} for i in range(8)}
PROMPTS = {"query": "north question ", "document": "round thing "}


@pytest.fixture(scope="module")
def mteb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The module; mteb creates the folder of its cache when it is imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MTEB_CACHE", str(tmp_path_factory.mktemp("mteb")))
        yield importlib.import_module("mteb")


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> ColBERT:
    return ColBERT.from_pretrained(checkpoint, prompts=PROMPTS)


def task_of(kind: str, **more: Any) -> Any:
    """A task of mteb's class; every other document has a title. `more` is added to its data."""
    from datasets import Dataset
    from mteb.abstasks import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    rows = [
        {"id": id, "title": a if place % 2 else "", "text": b if place % 2 else f"{a} {b}"}
        for place, (id, (a, b)) in enumerate(zip(IDS, PAIRS))
    ]
    queries = [{"id": id, "text": text} for id, text in QUERIES.items()]
    data = {
        "corpus": Dataset.from_list(rows),
        "queries": Dataset.from_list(queries),
        "relevant_docs": RELEVANT,
        "top_ranked": None,
    }

    class Task(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name=f"Words{kind}",
            description="pairs of words",
            dataset={"path": "nowhere", "revision": "none"},
            type=kind,
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
        )

        def load_data(self, *_: Any, **__: Any) -> None:
            self.dataset = {"default": {"test": {**data, **more}}}
            self.data_loaded = True

    return Task()


def scores_of(mteb: Any, model: MtebModel, task: Any, folder: Path) -> tuple[Mapping[str, float], dict[str, Any]]:
    """Mteb's scores, and the run that the model gave to mteb."""
    results = mteb.evaluate(
        model, task, cache=mteb.ResultCache(folder / "cache"), prediction_folder=folder, show_progress_bar=False
    )
    written = json.loads((folder / f"{task.metadata.name}_predictions.json").read_text())
    return results[0].scores["test"][0], written["default"]["test"]


def test_mteb_has_our_run_and_our_measures(mteb: Any, model: ColBERT, tmp_path: Path) -> None:
    scores, mteb_run = scores_of(mteb, MtebModel(model, "us/tiny"), task_of("Retrieval"), tmp_path)
    texts = [" ".join(pair) for pair in PAIRS]
    relevant = [{id: float(gain) for id, gain in row.items()} for row in RELEVANT.values()]
    collection = Collection("words", list(QUERIES), list(QUERIES.values()), IDS, texts, relevant)
    run = retrieve(model, collection, 1000, show_progress=False)
    for query_id, hits in run.items():
        assert mteb_run[query_id] == pytest.approx(hits, abs=1e-9)
    names = {"nDCG@10": "ndcg_at_10", "AP@100": "map_at_100", "R@5": "recall_at_5", "P@3": "precision_at_3"}
    ours = measures.per_query(RELEVANT, run, list(names))
    for our_name, name in names.items():
        mean = sum(ours[our_name].values()) / len(QUERIES)
        assert scores[name] == pytest.approx(round(mean, 5), abs=1e-9)  # mteb rounds
    assert 0 < scores["ndcg_at_10"] < 1

    # Queries had the query prompt, and documents the document prompt.
    queries = model.encode_query(list(QUERIES.values()), prompt=PROMPTS["query"])
    expected = model.similarity(queries, model.encode_document(texts, prompt=PROMPTS["document"]))
    again = torch.tensor([[mteb_run[query_id][doc_id] for doc_id in IDS] for query_id in QUERIES])
    torch.testing.assert_close(again, expected, rtol=0, atol=1e-5)


def test_an_index_has_nearly_the_same_ndcg(mteb: Any, model: ColBERT, tmp_path: Path) -> None:
    exact, _ = scores_of(mteb, MtebModel(model, "us/tiny"), task_of("Retrieval"), tmp_path / "a")
    plaid, _ = scores_of(mteb, MtebModel(model, "us/tiny", index="plaid"), task_of("Retrieval"), tmp_path / "b")
    assert plaid["ndcg_at_10"] == pytest.approx(exact["ndcg_at_10"], abs=0.1)


def test_reranking_ranks_only_the_given_documents(mteb: Any, model: ColBERT, tmp_path: Path) -> None:
    given = {query: IDS[i : i + 12] for i, query in enumerate(QUERIES)} | {"q7": []}
    _, everything = scores_of(mteb, MtebModel(model, "us/tiny"), task_of("Retrieval"), tmp_path)
    _, reranked = scores_of(mteb, MtebModel(model, "us/tiny"), task_of("Reranking", top_ranked=given), tmp_path)
    assert reranked.keys() == given.keys()
    for query_id, doc_ids in given.items():
        assert reranked[query_id] == pytest.approx({id: everything[query_id][id] for id in doc_ids}, abs=1e-4)


def test_instructions_are_read_and_conversations_refused(model: ColBERT) -> None:
    wrapped = MtebModel(model, "us/tiny")
    wrapped.index([{"id": "a", "text": "red green", "title": None}, {"id": "b", "text": "cold warm"}])
    run = wrapped.search([{"id": "q", "text": "red", "instruction": "find a color"}], top_k=1)
    expected = model.similarity(model.encode_query("red find a color"), model.encode_document("red green"))
    assert run == {"q": {"a": pytest.approx(expected.item(), abs=1e-5)}}
    with pytest.raises(ValueError, match="conversations are not supported"):
        wrapped.search([{"id": "q", "text": ["red", "green"]}], top_k=1)


@pytest.mark.parametrize("index", ["exact", "plaid"])
def test_documents_with_one_id_keep_the_best_score_and_missing_candidates_are_left_out(
    index: Any, model: ColBERT, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [
        ("a", "red green"),
        ("b", "cold warm"),
        ("a", "wet dry"),
        ("c", "old new"),
        ("b", "big small"),
        ("a", "flat"),
    ]
    wrapped = MtebModel(model, "us/tiny", index=index)
    wrapped.index([{"id": doc_id, "text": text} for doc_id, text in rows])
    queries = {"q": "red green", "r": "big small"}
    scores = model.similarity(model.encode_query(list(queries.values())), model.encode_document([t for _, t in rows]))
    expected = {
        query_id: {doc_id: max(s for (i, _), s in zip(rows, row) if i == doc_id) for doc_id in "abc"}
        for query_id, row in zip(queries, scores.tolist())
    }
    given = [{"id": query_id, "text": text} for query_id, text in queries.items()]
    run = wrapped.search(given, top_k=3)
    if index == "exact":
        for query_id in queries:
            assert run[query_id] == pytest.approx(expected[query_id], abs=1e-5)
            assert list(run[query_id].values()) == sorted(run[query_id].values(), reverse=True)
    assert all(row.keys() == set("abc") for row in run.values())
    ranked = wrapped.search(given, top_k=2, top_ranked={"q": ["a", "gone", "b"], "r": ["2"]})
    assert ranked["q"] == pytest.approx({doc_id: expected["q"][doc_id] for doc_id in "ab"}, abs=1e-5)
    assert ranked["r"] == {}
    assert "2 of 7 candidates are not in the collection, such as 'gone'; they are left out" in caplog.messages


def test_the_revision_depends_on_weights_and_settings(mteb: Any, model: ColBERT, checkpoint: Path) -> None:
    meta = MtebModel(model, "us/tiny").mteb_model_meta
    assert meta == MtebModel(model, "us/tiny").mteb_model_meta
    assert meta.experiment_kwargs == {"query_length": 32, "document_length": 180, "index": "exact"}
    other = MtebModel(ColBERT.from_pretrained(checkpoint), "us/tiny").mteb_model_meta
    assert other.revision != meta.revision
    with pytest.raises(ValueError, match="organisation/model, got 'tiny'"):
        MtebModel(model, "tiny")
