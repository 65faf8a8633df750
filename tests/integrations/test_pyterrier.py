"""PyTerrier's pipelines over an index of ours."""

from pathlib import Path

import pytest
import torch

pytest.importorskip("pyterrier")

import pandas as pd
import pyterrier as pt

from colbertz import ColBERT, Searcher
from colbertz.integrations.pyterrier import ColBERTIndexer, ColBERTReranker, ColBERTRetriever

TEXTS = ["Bread needs yeast to rise.", "Glaciers move slowly.", "A list is sorted in place."]
TOPICS = pd.DataFrame({"qid": ["1", "2"], "query": ["what makes dough rise?", "moving ice"]})
QRELS = pd.DataFrame({"qid": ["1", "2"], "docno": ["d0", "d1"], "label": [1, 1]})


@pytest.fixture(scope="module")
def model() -> ColBERT:
    return ColBERT.from_pretrained("colbertz/nano", dtype=torch.float32)


@pytest.fixture(scope="module")
def path(model: ColBERT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pyterrier") / "index"
    rows = ({"docno": f"d{n}", "text": text, "n": n} for n, text in enumerate(TEXTS))
    retriever = ColBERTIndexer(path, model=model).index(rows)
    assert len(retriever.search("ice")) == 3
    return path


def test_the_retriever_finds_what_the_searcher_finds(path: Path, model: ColBERT) -> None:
    results = ColBERTRetriever(path, model=model, k=2)(TOPICS)
    assert list(results.columns) == ["qid", "query", "docno", "text", "score", "rank"]
    assert results["rank"].tolist() == [0, 1, 0, 1]
    searcher = Searcher.open(path, model)
    for qid, query in TOPICS.itertuples(index=False):
        hits = searcher.search(query, 2)
        rows = results[results.qid == qid]
        assert rows.docno.tolist() == [hit.id for hit in hits]
        assert rows.score.tolist() == pytest.approx([hit.score for hit in hits])
    assert ColBERTRetriever(path, model=model, where="n > 0")(TOPICS).docno.isin(["d1", "d2"]).all()
    assert len(ColBERTRetriever(path, model=model)(TOPICS[:0])) == 0


def test_an_experiment_with_reranking(path: Path, model: ColBERT) -> None:
    retriever = ColBERTRetriever(path, model=model)
    shuffled = pt.apply.generic(lambda frame: frame.sample(frac=1, random_state=0))
    pipeline = retriever >> shuffled >> ColBERTReranker(model)
    table = pt.Experiment(
        [retriever, pipeline], TOPICS, QRELS, ["recip_rank"], names=["index", "reranked"], plan="tree"
    )
    assert table.recip_rank.tolist() == [1.0, 1.0]
    reranked = pipeline(TOPICS)
    assert reranked[reranked.qid == "2"].docno.tolist()[0] == "d1"
    assert reranked.groupby("qid")["rank"].apply(list).tolist() == [[0, 1, 2], [0, 1, 2]]
    assert len(ColBERTReranker(model)(reranked[:0])) == 0
