"""Measures against pytrec_eval, intervals and tests against what is known of them, runs there and back."""

import gzip
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colbertz.evaluation import measures, named, runs, significance
from colbertz.evaluation.collections import read_qrels
from colbertz.evaluation.runs import Run

pytrec_eval = pytest.importorskip("pytrec_eval")

IDS = [f"d{i}" for i in range(12)]
QUERIES = ["q1", "q2", "q3"]
gains = st.dictionaries(st.sampled_from(IDS), st.integers(-1, 3), min_size=1)
scores = st.dictionaries(st.sampled_from(IDS), st.floats(-3, 3, width=16), min_size=1)


@settings(max_examples=150, deadline=None)
@given(st.fixed_dictionaries(dict.fromkeys(QUERIES, gains)), st.fixed_dictionaries(dict.fromkeys(QUERIES, scores)))
def test_measures_are_pytrec_evals(qrels: dict[str, dict[str, int]], run: Run) -> None:
    names = {
        "nDCG@10": "ndcg_cut_10",
        "MAP": "map",
        "R@5": "recall_5",
        "P@3": "P_3",
        "MRR": "recip_rank",
        "Bpref": "bpref",
    }
    expected = pytrec_eval.RelevanceEvaluator(qrels, set(names.values())).evaluate(run)
    found = measures.per_query(qrels, run, list(names))
    for ours, theirs in names.items():
        assert found[ours] == pytest.approx({query: expected[query][theirs] for query in QUERIES}, abs=1e-9)
    # ir_measures has it from another program, for which equal scores are in another order.
    first = measures.per_query(qrels, run, ["MRR@2"])["MRR@2"]
    assert first == {query: value if value >= 0.5 else 0.0 for query, value in found["MRR"].items()}


def test_equal_scores_and_those_that_single_precision_makes_equal() -> None:
    for scores in ({"a": 1.0, "b": 1.0}, {"a": 12.34567891, "b": 12.34567890}):
        values = measures.per_query({"q": {"b": 1}}, {"q": scores}, ["MRR", "MRR@10", "nDCG@10", "Judged@1"])
        assert {name: row["q"] for name, row in values.items()} == dict.fromkeys(values, 1.0)


def test_a_measure_by_two_names_has_both() -> None:
    """The first of them was 0 for every query."""
    values = measures.per_query(
        {"a": {"x": 2, "y": 1}}, {"a": {"y": 2.0, "x": 1.0}}, ["MRR@10", "RR@10", "MRR(rel=2)@10"]
    )
    assert values == {"MRR@10": {"a": 1.0}, "RR@10": {"a": 1.0}, "MRR(rel=2)@10": {"a": 0.5}}


def test_a_query_that_found_nothing_counts_as_zero_and_one_that_is_not_judged_does_not_count() -> None:
    values = measures.per_query({"a": {"x": 1}, "b": {"y": 1}}, {"a": {"x": 1.0}, "c": {"y": 1.0}}, ["MRR@10"])
    assert values == {"MRR@10": {"a": 1.0, "b": 0.0}}


def test_measures_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="'nonsense@3' is not a measure"):
        measures.per_query({"a": {"x": 1}}, {"a": {"x": 1.0}}, ["nonsense@3"])
    with pytest.raises(ValueError, match=r"whole numbers, as in trec_eval's qrels; there is 0\.5"):
        measures.per_query({"a": {"x": 0.5}}, {"a": {"x": 1.0}})
    with pytest.raises(ValueError, match="do run and qrels belong together"):
        measures.per_query({"a": {"x": 1}}, {"b": {"x": 1.0}})
    for names in (["nDCG@10", "P"], ["RBP"], ["StRecall@10"]):
        with pytest.raises(ValueError, match="cannot compute all of"):
            measures.check({"a": {"x": 1}}, names)
    assert measures.per_query({"a": {"x": 1}, "b": {"y": 1}}, {"a": {}, "b": {"y": 1.0}}, ["Judged@10", "MRR@10"]) == {
        "Judged@10": {"a": 0.0, "b": 1.0},
        "MRR@10": {"a": 0.0, "b": 1.0},
    }


# -- runs --------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(QUERIES), st.dictionaries(st.sampled_from(IDS), st.floats(-9, 9, width=32))))
def test_a_run_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, run: Run) -> None:
    path = tmp_path_factory.mktemp("runs") / "run.trec"
    runs.write_run(path, run)
    kept = {query: found for query, found in run.items() if found}
    if not kept:
        with pytest.raises(ValueError, match="holds no candidates"):
            runs.read_run(str(path))
        return
    assert {query: dict(found) for query, found in runs.read_run(str(path)).items()} == kept
    ranks = [line.split()[3] for line in path.read_text().splitlines()]
    assert ranks == [str(rank) for found in kept.values() for rank in range(1, len(found) + 1)]


def test_runs_that_cannot_be(tmp_path: Path) -> None:
    path = tmp_path / "run.trec"
    path.write_text("q Q0 d 1 0.5 x\nq Q0 d 2 0.4 x\n")
    with pytest.raises(ValueError, match="line 2: the document 'd' comes twice for the query 'q'"):
        runs.read_run(str(path))
    with pytest.raises(ValueError, match="'a b' has blanks"):
        runs.write_run(tmp_path / "other.trec", {"q": {"a b": 1.0}})
    assert not (tmp_path / "other.trec").exists()


# -- significance ------------------------------------------------------------------------------------------------


def test_the_interval_is_that_of_the_normal_distribution_where_that_holds() -> None:
    values = np.random.default_rng(1).normal(0.4, 0.2, 2000)
    one = significance.estimate({str(i): value for i, value in enumerate(values)})
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert one.mean == pytest.approx(values.mean())
    assert (one.low, one.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=half / 10)


def test_p_is_the_share_of_sign_flips_that_make_as_large_a_difference() -> None:
    """Eight queries have 256 ways to flip; all of them give the exact value."""
    values = {str(i): value for i, value in enumerate([0.9, 0.8, 0.3, 0.5, 0.7, 0.2, 0.9, 0.4])}
    others = {str(i): value for i, value in enumerate([0.7, 0.8, 0.4, 0.1, 0.6, 0.0, 0.5, 0.4])}
    by = np.array([values[query] - others[query] for query in values])
    flips = [np.abs(np.mean(by * [1 if bits >> i & 1 else -1 for i in range(8)])) for bits in range(256)]
    exact = np.mean(np.array(flips) >= abs(by.mean()) - 1e-12)
    found = significance.difference(values, others)
    assert found.mean == pytest.approx(by.mean()) and found.p == pytest.approx(exact, abs=0.01)
    assert significance.difference(values, values).p == 1
    with pytest.raises(ValueError, match="'7' is in one of them only"):
        significance.difference(values, {query: 1.0 for query in values if query != "7"})


# -- collections by name -----------------------------------------------------------------------------------------


def test_a_collection_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two repositories, as BEIR has them: texts, and judgements without a folder."""
    texts, qrels = tmp_path / "scifact", tmp_path / "scifact-qrels"
    texts.mkdir()
    qrels.mkdir()
    (texts / "corpus.jsonl").write_text('{"_id": "d1", "title": "T", "text": "one"}\n')
    (texts / "queries.jsonl").write_text('{"_id": "q1", "text": "two"}\n{"_id": "q2", "text": "no judgement"}\n')
    (qrels / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t2\n")
    monkeypatch.setattr(named, "_downloaded", lambda repository, *_: tmp_path / repository.removeprefix("BeIR/"))
    collection = named.load("beir:scifact", None)
    assert (collection.name, collection.queries, collection.relevant) == ("scifact", ["two"], [{"d1": 2.0}])
    with pytest.raises(FileNotFoundError, match="the splits of scifact are: test"):
        named.load("beir:scifact", "dev")


def test_judgements_may_be_compressed(tmp_path: Path) -> None:
    (tmp_path / "qrels").mkdir()
    for name, text in {
        "corpus.jsonl.gz": '{"_id": "d1", "text": "one"}\n',
        "queries.jsonl.gz": '{"_id": "q1", "text": "two"}\n',
        "qrels/test.tsv.gz": "q1\td1\t1\n",
    }.items():
        (tmp_path / name).write_bytes(gzip.compress(text.encode()))
    assert named.load(str(tmp_path), None).relevant == [{"d1": 1.0}]


def test_ids_may_have_blanks_between_tabs(tmp_path: Path) -> None:
    qrels = tmp_path / "test.tsv"
    for text in ("query-id\tcorpus-id\tscore\na query\ta document\t2\n\n", "a query\t0\ta document\t2\n"):
        qrels.write_text(text)
        assert read_qrels(qrels) == {"a query": {"a document": 2.0}}
    qrels.write_text("q  Q0 d   2")
    assert read_qrels(qrels) == {"q": {"d": 2.0}}
    for text in ("q\td\t1\t", "q\td\tinf", "q\td\t1\nq\te\tnan"):
        qrels.write_text(f"query\tcorpus\tscore\n{text}")
        with pytest.raises(ValueError, match=r"test.tsv, line \d: expected query id, document id and score"):
            read_qrels(qrels)
    qrels.write_text("q\td\t1\t")  # no header
    with pytest.raises(ValueError, match="line 1: expected"):
        read_qrels(qrels)


def test_two_documents_with_one_id(tmp_path: Path) -> None:
    (tmp_path / "qrels").mkdir()
    (tmp_path / "corpus.jsonl").write_text('{"_id": "d1", "text": "one", "metadata": null}\n' * 2)
    (tmp_path / "queries.jsonl").write_text('{"_id": "q1", "text": "two"}\n')
    (tmp_path / "qrels" / "test.tsv").write_text("q1\td1\t1\n")
    with pytest.raises(ValueError, match=r"two documents of .* have the id 'd1'"):
        named.load(str(tmp_path), None)


def test_splits_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "qrels").mkdir()
    for name in ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv.gz"):
        (tmp_path / name).touch()
    with pytest.raises(FileNotFoundError, match=r"the splits of .* are: test"):
        named.load(str(tmp_path), "dev")


# -- NanoBEIR ----------------------------------------------------------------------------------------------------


@pytest.fixture
def nanobeir(tmp_path: Path) -> Path:
    """The layout of sentence-transformers/NanoBEIR-en: a folder a table, a Parquet file a set."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for set_name, word in (("NanoMSMARCO", "one"), ("NanoNQ", "two")):
        tables = {
            "corpus": {"_id": ["d1", "d2"], "text": [word, f"not {word}"]},
            "queries": {"_id": ["q1", "q2"], "text": [f"{word}?", "not judged"]},
            "qrels": {"query-id": ["q1"], "corpus-id": ["d1"]},
            "bm25": {"query-id": ["q1"], "corpus-ids": [["d2", "d1"]]},
        }
        for folder, columns in tables.items():
            (tmp_path / folder).mkdir(exist_ok=True)
            parquet.write_table(arrow.table(columns), tmp_path / folder / f"{set_name}-00000-of-00001.parquet")
    return tmp_path


@pytest.mark.parametrize("name", ["msmarco", "NanoMSMARCO", "MSMARCO"])
def test_a_set_of_nanobeir(name: str, nanobeir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(named, "_downloaded", lambda *wanted: asked.append(wanted) or nanobeir)
    found = named.load(f"nanobeir:{name}", None)
    patterns = [f"{folder}/NanoMSMARCO-*.parquet" for folder in ("corpus", "queries", "qrels")]
    assert asked == [("sentence-transformers/NanoBEIR-en", *patterns)]
    assert (found.name, found.query_ids, found.queries) == ("NanoMSMARCO", ["q1"], ["one?"])
    assert (found.document_ids, found.documents) == (["d1", "d2"], ["one", "not one"])
    assert found.relevant == [{"d1": 1.0}]
    assert named.lengths(f"nanobeir:{name}") == {"query_length": 32, "document_length": 300}
    with pytest.raises(ValueError, match="has no splits; leave out the split 'dev'"):
        named.load(f"nanobeir:{name}", "dev")


def test_every_set_of_nanobeir_has_the_lengths_of_beirs() -> None:
    sets = "NanoArguAna NanoClimateFEVER NanoDBPedia NanoFEVER NanoFiQA2018 NanoHotpotQA NanoMSMARCO NanoNFCorpus "
    sets += "NanoNQ NanoQuoraRetrieval NanoSCIDOCS NanoSciFact NanoTouche2020"
    lengths = [named.lengths(f"nanobeir:{name}")["query_length"] for name in sets.split()]
    assert lengths == [64, 64, 32, 32, 32, 32, 32, 32, 32, 32, 48, 48, 32]
    assert named.lengths("nanobeir:webis-touche2020") == named.lengths("nanobeir:touche2020")
    with pytest.raises(
        ValueError, match="there is no nanobeir:trec-covid; there are nanobeir:arguana, nanobeir:climate"
    ):
        named.load("nanobeir:trec-covid", None)


def test_a_directory_like_nanobeirs(nanobeir: Path) -> None:
    assert named.load(str(nanobeir), "NanoNQ").documents == ["two", "not two"]
    with pytest.raises(FileNotFoundError, match="give a split; the splits are: NanoMSMARCO, NanoNQ"):
        named.load(str(nanobeir), None)
    with pytest.raises(FileNotFoundError, match="there is no split 'nq'; the splits are: NanoMSMARCO, NanoNQ"):
        named.load(str(nanobeir), "nq")
    for folder in nanobeir.iterdir():
        (folder / "NanoNQ-00000-of-00001.parquet").unlink()
    assert named.load(str(nanobeir), None).name == "NanoMSMARCO"
    qrels = nanobeir / "qrels" / "NanoMSMARCO-00000-of-00001.parquet"
    (nanobeir / "queries" / qrels.name).write_bytes(qrels.read_bytes())
    with pytest.raises(ValueError, match="has no column '_id', its columns are query-id, corpus-id"):
        named.load(str(nanobeir), None)


# -- LongEmbed ---------------------------------------------------------------------------------------------------


def write_rows(path: Path, rows: Sequence[dict[str, object]]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def longembed(tmp_path: Path) -> Path:
    """The layout of dwzhu/LongEmbed; the ids of passkey are the same for both of its lengths."""
    for name, lengths in {"qmsum": [{}], "passkey": [{"context_length": 256}, {"context_length": 1024}]}.items():
        folder = tmp_path / name
        write_rows(
            folder / "corpus.jsonl", [{"doc_id": f"d{i}", "text": f"key {i}"} | x for x in lengths for i in (1, 2)]
        )
        write_rows(
            folder / "queries.jsonl", [{"qid": f"q{i}", "text": f"where {x}"} | x for x in lengths for i in (1, 2)]
        )
        write_rows(folder / "qrels.jsonl", [{"qid": f"q{i}", "doc_id": f"d{i}"} | x for x in lengths for i in (1, 2)])
    return tmp_path


def test_a_set_of_longembed(longembed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(named, "_downloaded", lambda *wanted: asked.append(wanted) or longembed)
    found = named.load("longembed:qmsum", None)
    assert asked == [("dwzhu/LongEmbed", "qmsum/*.jsonl")]
    assert (found.name, found.query_ids, found.document_ids) == ("qmsum", ["q1", "q2"], ["d1", "d2"])
    assert found.relevant == [{"d1": 1.0}, {"d2": 1.0}]
    assert named.lengths("longembed:qmsum") == {"document_length": 32768}
    with pytest.raises(FileNotFoundError, match="its splits are: none, it is one collection"):
        named.load("longembed:qmsum", "4096")
    with pytest.raises(ValueError, match="there is no longembed:hotpotqa; there are longembed:narrativeqa"):
        named.load("longembed:hotpotqa", None)


def test_context_lengths_are_collections_of_their_own(longembed: Path) -> None:
    short, long = named.load_parts(str(longembed / "passkey"), None)
    assert (short.name, long.name) == ("passkey-256", "passkey-1024")
    assert (short.query_ids, long.query_ids) == (["256/q1", "256/q2"], ["1024/q1", "1024/q2"])
    assert short.document_ids == long.document_ids == ["d1", "d2"]
    assert long.queries == ["where {'context_length': 1024}"] * 2
    only = named.load(str(longembed / "passkey"), "1024")
    assert (only.name, only.query_ids, only.queries) == ("passkey-1024", ["q1", "q2"], long.queries)
    with pytest.raises(ValueError, match="is 2 collections: passkey-256, passkey-1024; give one of its splits"):
        named.load(str(longembed / "passkey"), None)
    with pytest.raises(FileNotFoundError, match="passkey has no split '512'; its splits are: 256, 1024"):
        named.load(str(longembed / "passkey"), "512")


def test_rows_of_longembed_that_cannot_be(longembed: Path) -> None:
    write_rows(longembed / "qmsum" / "queries.jsonl", [{"qid": "q1"}])
    with pytest.raises(ValueError, match=r"queries.jsonl, line 1: `text` must be a string, found None"):
        named.load(str(longembed / "qmsum"), None)
    (longembed / "qmsum" / "corpus.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match=r"qmsum has no corpus\.jsonl"):
        named.load(str(longembed / "qmsum"), None)


# -- MS MARCO ----------------------------------------------------------------------------------------------------


@pytest.fixture
def msmarco(tmp_path: Path) -> Path:
    """The files of MS MARCO passage ranking, some of them compressed, with a judgement of no relevance."""
    folder = tmp_path / "msmarco"
    folder.mkdir()
    (folder / "collection.tsv.gz").write_bytes(gzip.compress(b"0\tzero\n1\tone, \xc2\xabone\xc2\xbb\n2\ttwo\n"))
    (folder / "queries.dev.small.tsv").write_text("10\twhat is one\n11\twhat is two\n")
    (folder / "qrels.dev.small.tsv").write_text("10\t0\t1\t1\n11\t0\t2\t1\n")
    (folder / "msmarco-test2019-queries.tsv.gz").write_bytes(gzip.compress(b"20\twhat\n21\tnot judged\n"))
    (folder / "2019qrels-pass.txt").write_text("20 Q0 0 0\n20 Q0 1 3\n20 Q0 2 1\n")
    return folder


def test_ms_marcos_files(msmarco: Path) -> None:
    dev = named.load(str(msmarco), None)
    assert (dev.name, dev.query_ids, dev.queries) == (
        "msmarco, dev.small",
        ["10", "11"],
        ["what is one", "what is two"],
    )
    assert (dev.document_ids, dev.documents) == (["0", "1", "2"], ["zero", "one, «one»", "two"])
    assert dev.relevant == [{"1": 1.0}, {"2": 1.0}]
    track = named.load(str(msmarco), "dl19")
    assert (track.query_ids, track.queries, track.gains) == (["20"], ["what"], [{"0": 0.0, "1": 3.0, "2": 1.0}])
    assert track.relevant == [{"1": 3.0, "2": 1.0}]
    with pytest.raises(FileNotFoundError, match=r"no msmarco-test2020-queries.tsv, which the split 'dl20' needs"):
        named.load(str(msmarco), "dl20")
    with pytest.raises(FileNotFoundError, match=r"no queries.test.tsv, .* the splits of MS MARCO are: dev.small, dev"):
        named.load(str(msmarco), "test")


def test_judgements_of_what_is_not_there(msmarco: Path, caplog: pytest.LogCaptureFixture) -> None:
    """ArguAna has a few; all of them missing means files that do not belong together."""
    qrels = msmarco / "qrels.dev.small.tsv"
    qrels.write_text("10\t0\t7\t1\n10\t0\t1\t1\n10\t0\t8\t0\n11\t0\t9\t1\n12\t0\t2\t1\n13\t0\t0\t0\n")
    (msmarco / "queries.dev.small.tsv").write_text("10\twhat is one\n11\twhat is two\n13\twhat is not\n")
    found = named.load(str(msmarco), None)
    assert [message.split(" that ")[0] for message in caplog.messages] == [
        "1 of the 4 judged queries",
        "2 of the 4 relevant documents",
    ]
    assert found.query_ids == ["10", "11", "13"] and found.relevant == [{"1": 1.0}, {}, {}]
    assert found.gains == [{"7": 1.0, "1": 1.0, "8": 0.0}, {"9": 1.0}, {"0": 0.0}]
    assert (found.answerable().query_ids, found.answerable().queries) == (["10"], ["what is one"])
    for line, message in (
        ("10\t0\t7\t1", r"none of the relevant documents that .*qrels.dev.small.tsv names is there, such as '7'"),
        ("99\t0\t1\t1", r"none of the judged queries that .*qrels.dev.small.tsv names is there, such as '99'"),
    ):
        qrels.write_text(line)
        with pytest.raises(ValueError, match=message):
            named.load(str(msmarco), None)


def test_collections_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no directory nowhere; give one, or a name such as beir:"):
        named.load("nowhere", None)
    with pytest.raises(FileNotFoundError, match=r"has no corpus.jsonl or corpus.jsonl.gz; is it a directory in BEIR's"):
        named.load(str(tmp_path), None)
    for source in ("nanobeir:nq", "longembed:needle"):
        with pytest.raises(FileNotFoundError, match="is not in the local cache"):
            named.load(source, None)
    with pytest.raises(ValueError, match="there is no beir:nonsense; there are beir:quora"):
        named.load("beir:nonsense", None)
    with pytest.raises(FileNotFoundError, match="BeIR/scifact is not in the local cache"):
        named.load("beir:scifact", None)
