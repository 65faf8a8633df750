"""Runs of a model on a collection: by exact search, with an index, ranked again; and the whole of `colbertz eval`."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from colbertz.cli import main
from colbertz.evaluation import Collection, evaluate, measures, runs
from colbertz.evaluation.retrieve import as_run, encode_in_blocks, rerank, retrieve, search
from colbertz.models import ColBERT
from colbertz.models.dtypes import dtype_name
from colbertz.training.config import DataConfig, EvalConfig, ModelConfig, OptimConfig, SourceConfig, TrainingConfig
from colbertz.training.loop import train

pytest.importorskip("ir_measures")

WORDS = "red green blue cold warm dry wet old new big small round flat north south east west".split()
DOCUMENTS = [f"{a} {b} thing" for i, a in enumerate(WORDS) for b in WORDS[i + 1 :]][:60]


@pytest.fixture(scope="module")
def collection() -> Collection:
    """Queries are words of documents. Query 3 has the id of a document that is not relevant, query 5 of one that is."""
    queries = [DOCUMENTS[i].removesuffix(" thing") for i in range(0, 60, 6)]
    ids = [f"d{i}" for i in range(60)]
    query_ids = [f"q{i}" for i in range(10)]
    query_ids[3], query_ids[5] = "d18", "d30"
    relevant: list[dict[str, float]] = [{f"d{6 * i}": 1.0, f"d{6 * i + 1}": 2.0} for i in range(10)]
    relevant[3] = {"d19": 1.0}
    return Collection("words", query_ids, queries, ids, DOCUMENTS, relevant)


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> ColBERT:
    return ColBERT.from_pretrained(checkpoint)


@pytest.fixture
def beir(collection: Collection, tmp_path: Path) -> Path:
    folder = tmp_path / "words"
    (folder / "qrels").mkdir(parents=True)

    def write(name: str, ids: Sequence[str], texts: Sequence[str]) -> None:
        rows = [json.dumps({"_id": id, "text": text}) for id, text in zip(ids, texts)]
        (folder / name).write_text("\n".join(rows))

    write("corpus.jsonl", collection.document_ids, collection.documents)
    write("queries.jsonl", collection.query_ids, collection.queries)
    lines = [
        f"{query}\t{id}\t{gain:.0f}"
        for query, gains in zip(collection.query_ids, collection.relevant)
        for id, gain in gains.items()
    ]
    (folder / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *lines]))
    return folder


def test_exact_runs_have_the_metrics_that_training_reports(model: ColBERT, collection: Collection) -> None:
    run = retrieve(model, collection, 20, show_progress=False)
    assert all(len(scores) == 20 for scores in run.values())
    assert "d18" not in run["d18"] and "d30" in run["d30"]
    relevant = dict(zip(collection.query_ids, collection.relevant))
    values = measures.per_query(relevant, run, ["nDCG@10", "MRR@10", "R@10"])
    means = {name: sum(row.values()) / len(row) for name, row in values.items()}
    expected = evaluate(model, collection)
    assert means["nDCG@10"] == pytest.approx(expected["ndcg@10"], abs=1e-9)
    assert means["MRR@10"] == pytest.approx(expected["mrr@10"], abs=1e-9)
    assert means["R@10"] == pytest.approx(expected["recall@10"], abs=1e-9)


def test_an_index_has_the_hits_of_exact_search(model: ColBERT, collection: Collection) -> None:
    exact = retrieve(model, collection, 10, show_progress=False)
    plaid = retrieve(model, collection, 10, index="plaid", show_progress=False)
    shared = [len(exact[query_id].keys() & plaid[query_id].keys()) for query_id in exact]
    assert sum(shared) >= 0.9 * 10 * len(exact)
    with pytest.raises(ValueError, match="index must be exact or plaid, got 'ivf'"):
        retrieve(model, collection, index="ivf")  # type: ignore[arg-type]


def test_ranking_again_gives_the_scores_of_the_search(
    model: ColBERT, collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = retrieve(model, collection, 15, show_progress=False)
    shuffled = {query_id: dict.fromkeys(sorted(scores), 0.0) for query_id, scores in run.items()}
    at_once = rerank(model, collection, shuffled, show_progress=False)
    encoded: list[str] = []
    encode = type(model).encode

    def counted(self: ColBERT, texts: Sequence[str], side: Any, **options: Any) -> Any:
        encoded.extend(texts if side == "document" else [])
        return encode(self, texts, side, **options)

    monkeypatch.setattr(type(model), "encode", counted)
    in_blocks = rerank(model, collection, shuffled, block_documents=7, show_progress=False)
    for reranked in (at_once, in_blocks):
        assert reranked.keys() == run.keys()
        for query_id, scores in reranked.items():
            assert list(scores) == sorted(scores)  # in the order of the run
            assert scores == pytest.approx(run[query_id], abs=1e-4)
    assert len(encoded) == len(set(encoded)) == len({doc_id for scores in run.values() for doc_id in scores})


def test_a_block_has_as_many_texts_as_its_tokens_allow(model: ColBERT) -> None:
    tokens = 4 * model.settings.document_length
    assert [len(block) for block in encode_in_blocks(model, DOCUMENTS[:10], block_tokens=tokens)] == [4, 4, 2]
    assert [len(block) for block in encode_in_blocks(model, DOCUMENTS[:2], block_tokens=1)] == [1, 1]


def test_a_query_does_not_find_itself_when_a_run_is_ranked_again(
    checkpoint: Path, beir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Query d18 has the id of a document that is not relevant, d30 of one that is."""
    mine, other = tmp_path / "mine.trec", tmp_path / "other.trec"
    runs.write_run(other, {query: {"d18": 2.0, "d30": 1.0} for query in ("d18", "d30")})
    command = ["eval", "--data", str(beir), "--model", str(checkpoint), "--rerank", str(other), "--run", str(mine)]
    assert main([*command, "--json"]) == 0
    assert {query_id: set(scores) for query_id, scores in runs.read_run(str(mine)).items()} == {
        "d18": {"d30"},
        "d30": {"d18", "d30"},
    }


def test_a_run_of_another_collection_is_refused(model: ColBERT, collection: Collection) -> None:
    with pytest.raises(ValueError, match="no query of the collection"):
        rerank(model, collection, {"other": {"d1": 1.0}})
    with pytest.raises(ValueError, match="the collection has none of the run's documents, such as 'x'"):
        rerank(model, collection, {"q0": {"x": 1.0}})


def test_candidates_that_the_collection_lacks_are_left_out_and_counted(
    model: ColBERT, collection: Collection, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = collection.query_ids[:2]
    whole = rerank(model, collection, {first: {"d1": 1.0, "d2": 1.0}}, show_progress=False)
    assert not caplog.records
    given = {first: {"d1": 1.0, "x": 1.0, "d2": 1.0}, second: {"y": 1.0}}
    assert rerank(model, collection, given, show_progress=False) == {**whole, second: {}}
    assert caplog.messages == ["2 of 4 candidates are not in the collection, such as 'x'; they are left out"]


def test_an_id_of_several_documents_keeps_the_best_score() -> None:
    twice = Collection("c", ["q"], ["query"], ["a", "b", "a"], ["1", "2", "3"], [{"a": 1.0}])
    assert as_run(twice, [[(2, 0.9), (1, 0.5), (0, 0.1)]], 5) == {"q": {"a": 0.9, "b": 0.5}}


def test_empty_texts_are_counted(model: ColBERT, caplog: pytest.LogCaptureFixture) -> None:
    search(model, ["what"], ["one", "", " \n", "two"], 2, show_progress=False)
    assert caplog.messages == ["2 texts are empty"]


# -- colbertz eval -----------------------------------------------------------------------------------------------


def test_the_command_searches_writes_scores_reranks_and_compares(
    checkpoint: Path, beir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, again, rows = tmp_path / "first.trec", tmp_path / "again.trec", tmp_path / "rows.jsonl"
    command = ["eval", "--data", str(beir)]
    assert main([*command, "--model", str(checkpoint), "--run", str(first), "--per-query", str(rows), "--json"]) == 0
    means = json.loads(capsys.readouterr().out)
    assert list(means) == ["nDCG@10", "MRR@10", "MAP", "R@100", "P@10"]
    values = [json.loads(line) for line in rows.read_text().splitlines()]
    assert len(values) == 10
    for name, mean in means.items():
        assert sum(row[name] for row in values) / 10 == pytest.approx(mean)

    assert main([*command, "--score", str(first), "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == means
    assert captured.err == f"the run {first}, which answers 10 of 10 queries\n"
    part = tmp_path / "part.trec"
    run = runs.read_run(str(first))
    runs.write_run(part, {**{query_id: run[query_id] for query_id in list(run)[:3]}, "stranger": {"d1": 1.0}})
    assert main([*command, "--score", str(part), "--compare", str(first)]) == 0
    shown = capsys.readouterr().out
    assert f"the run {part}, which answers 3 of 10 queries; compared with the run {first}, which answers 10" in shown
    options = ["--model", str(checkpoint), "--query-length", "8", "--measures", "P@1"]
    assert main([*command, *options, "--rerank", str(first), "--run", str(again), "--compare", str(first)]) == 0
    shown = capsys.readouterr().out
    assert "words: 10 queries, 60 documents" in shown and "P@1" in shown and f"minus {first}" in shown
    assert runs.read_run(str(again)).keys() == runs.read_run(str(first)).keys()


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".tsv"])
def test_pairs_have_the_values_that_training_reports(
    suffix: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two pairs have one query, and two have one document, with other capitals."""
    queries = [document.removesuffix(" thing") for document in DOCUMENTS[:30]] + ["red green", "old shoes"]
    documents = [*DOCUMENTS[:30], "a thing in two colours", DOCUMENTS[3].title()]
    pairs, run, rows = tmp_path / f"pairs{suffix}", tmp_path / "run.trec", tmp_path / "rows.jsonl"
    if suffix == ".tsv":
        lines = ["query\tdocument", *map("\t".join, zip(queries, documents))]
    else:
        lines = [json.dumps({"query": query, "document": document}) for query, document in zip(queries, documents)]
    content = "\n".join(lines).encode()
    pairs.write_bytes(gzip.compress(content) if suffix == ".jsonl.gz" else content)
    command = ["eval", "--pairs", str(pairs), "--measures", "nDCG@10", "MRR@10", "R@10"]
    options = ["--model", str(checkpoint), "--run", str(run), "--per-query", str(rows)]
    assert main([*command, *options]) == 0
    computed = dtype_name(ColBERT.from_pretrained(checkpoint, dtype="auto"))
    assert f"{pairs}: 31 queries, 31 documents; {checkpoint} in {computed}, exact" in capsys.readouterr().out
    assert [json.loads(line)["query_id"] for line in rows.read_text().splitlines()] == [f"q{i}" for i in range(31)]
    assert main([*command, "--score", str(run), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)

    config = EvalConfig(pairs=str(pairs))
    source = SourceConfig(str(pairs))
    train(
        TrainingConfig(
            str(tmp_path / "run"),
            ModelConfig(init=str(checkpoint)),
            DataConfig([source]),
            optim=OptimConfig(lr=1e-12),
            eval=config,
            batch_size=2,
            max_steps=1,
        )
    )
    trained = json.loads((tmp_path / "run" / "result.json").read_text())["metrics"]
    assert list(values.values()) == pytest.approx(list(trained.values()), abs=1e-4)
    assert main([*command, "--model", str(tmp_path / "run" / "model"), "--json"]) == 0
    values = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(values.values()) == pytest.approx(list(trained.values()), abs=1e-9)


def test_pairs_and_a_collection_exclude_each_other_and_pairs_have_no_splits(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for options, message in {
        ("--pairs", "p.jsonl", "--data", "d"): "argument --data: not allowed with argument --pairs",
        ("--pairs", "p.jsonl", "--split", "dev"): "--split is for --data",
        ("--pairs", str(tmp_path / "p.jsonl")): "p.jsonl",
        (): "one of the arguments --data --pairs is required",
    }.items():
        try:
            status = main(["eval", *options, "--model", str(checkpoint)])
        except SystemExit as exit:
            status = exit.code
        assert status == 2
        assert message in capsys.readouterr().err


def test_the_command_warns_of_missing_documents_and_counts_judged_ones_that_are_not_relevant(
    checkpoint: Path,
    beir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    pytrec_eval = pytest.importorskip("pytrec_eval")
    qrels, run = beir / "qrels" / "test.tsv", tmp_path / "run.trec"
    qrels.write_text("q0\td1\t1\nq0\tgone\t2\nq0\td0\t0\nq1\td6\t0\nq2\td12\t1\nq4\td24\t-1\n")
    command = ["eval", "--data", str(beir), "--model", str(checkpoint), "--json", "--run", str(run)]
    assert main([*command, "--measures", "nDCG@10", "Bpref", "Judged@10"]) == 0
    means = json.loads(capsys.readouterr().out)
    [said] = caplog.messages
    assert said.startswith("1 of the 3 relevant documents") and "'gone'; they are counted as not found" in said
    judged: dict[str, dict[str, int]] = {}
    for line in qrels.read_text().splitlines():
        query, document, gain = line.split()
        judged.setdefault(query, {})[document] = int(gain)
    hits = runs.read_run(str(run))
    expected = pytrec_eval.RelevanceEvaluator(judged, {"ndcg_cut_10", "bpref"}).evaluate(hits)
    for ours, theirs in {"nDCG@10": "ndcg_cut_10", "Bpref": "bpref"}.items():
        assert means[ours] == pytest.approx(sum(row[theirs] for row in expected.values()) / 4, abs=1e-9)
    shares = [len(judged[query].keys() & set(list(scores)[:10])) / 10 for query, scores in hits.items()]
    assert means["Judged@10"] == pytest.approx(sum(shares) / 4) and means["Judged@10"] > 0


def test_collections_that_are_searched_apart_are_judged_together(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """LongEmbed's passkey has documents of several lengths, and a query is searched among those of its own length."""
    run, again = tmp_path / "run.trec", tmp_path / "again.trec"
    # As huggingface_hub leaves a download in its cache, which it reads while the network is off.
    repository = tmp_path / "datasets--dwzhu--LongEmbed"
    folder = repository / "snapshots" / "0123" / "passkey"
    folder.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    for name in ("corpus", "queries", "qrels"):
        lines = [
            json.dumps({"doc_id": f"{length}-{i}", "qid": f"q{i}", "text": DOCUMENTS[i], "context_length": length})
            for length in (256, 512)
            for i in range(5)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    command = ["eval", "--data", "longembed:passkey", "--model", str(checkpoint), "--measures", "nDCG@1"]
    assert main([*command, "--run", str(run)]) == 0
    assert "passkey-256, passkey-512: 10 queries, 10 documents" in capsys.readouterr().out
    for query_id, scores in runs.read_run(str(run)).items():
        assert sorted(scores) == [f"{query_id.split('/')[0]}-{i}" for i in range(5)]
    assert main([*command, "--rerank", str(run), "--run", str(again), "--json"]) == 0
    assert runs.read_run(str(again)).keys() == runs.read_run(str(run)).keys()
    assert json.loads(capsys.readouterr().out) == {"nDCG@1": 1.0}
    assert main([*command, "--split", "512"]) == 0
    assert "passkey-512: 5 queries, 5 documents" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give either --model"),
        (["--model", "m", "--score", "r"], "give either --model"),
        (["--score", "r", "--rerank", "r"], "--rerank needs a model"),
        (["--score", "r", "--compare", "r", "--json"], "--json has the measures alone"),
        (["--model", "nowhere", "--run", "nowhere/r"], "there is no directory nowhere to write r in"),
        (["--model", "nowhere", "--measures", "P"], "cannot compute all of P"),
        (["--model", "nowhere", "-k", "10", "--measures", "R@1000"], "R@1000 need 1000 documents a query; -k is 10"),
        (["--score", "r", "--measures", "what@2"], "'what@2' is not a measure"),
        (["--score", "nowhere.trec"], "there is no file nowhere.trec"),
        (["--score", "r", "--split", "dev"], "the splits of words are: test"),
        (["--model", "nowhere", "--run", "r"], "id 'q 0' has blanks, which a TREC run cannot hold"),
    ],
)
def test_the_command_refuses_wrong_options(
    options: list[str], message: str, beir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    queries, qrels = beir / "queries.jsonl", beir / "qrels" / "test.tsv"
    for path in (queries, qrels):
        path.write_text(path.read_text().replace("q0", "q 0"))
    assert main(["eval", "--data", str(beir), *options]) == 2
    assert message in capsys.readouterr().err
