"""Test collections in every layout, from directories and by name."""

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from colbertz.evaluation import from_pairs, named


def downloads_of(folder: Path) -> tuple[list[tuple[str, ...]], Callable[..., Path]]:
    """A `download` function that returns a folder, and the list of the arguments of its calls."""
    calls: list[tuple[str, ...]] = []

    def download(*arguments: str) -> Path:
        calls.append(arguments)
        return folder

    return calls, download


def test_a_collection_of_the_hub(tmp_path: Path) -> None:
    """Two repositories, as BEIR has them: texts, and judgements without a folder."""
    texts, qrels = tmp_path / "scifact", tmp_path / "scifact-qrels"
    texts.mkdir()
    qrels.mkdir()
    (texts / "corpus.jsonl").write_text('{"_id": "d1", "title": "T", "text": "one"}\n')
    (texts / "queries.jsonl").write_text('{"_id": "q1", "text": "two"}\n{"_id": "q2", "text": "no judgement"}\n')
    (qrels / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t2\n")

    def download(repository: str, *_: str) -> Path:
        return tmp_path / repository.removeprefix("BeIR/")

    collection = named.load("beir:scifact", None, download)
    assert (collection.name, collection.queries, collection.relevant) == ("scifact", ["two"], [{"d1": 2.0}])
    with pytest.raises(FileNotFoundError, match="the splits of scifact are: test"):
        named.load("beir:scifact", "dev", download)


def test_pairs_with_equal_texts_are_one_query_or_one_document() -> None:
    collection = from_pairs(
        "held out",
        ["What is  red?", "blue", "what is red?", "green", "blue"],
        ["A colour", "sky", "Wine", "a\n colour ", "SKY"],
    )
    assert (collection.query_ids, collection.queries) == (["q0", "q1", "q2"], ["What is  red?", "blue", "green"])
    assert (collection.document_ids, collection.documents) == (["d0", "d1", "d2"], ["A colour", "sky", "Wine"])
    assert collection.gains == [{"d0": 1.0, "d2": 1.0}, {"d1": 1.0}, {"d0": 1.0}]
    assert collection.some_queries(2).queries == ["What is  red?", "green"]
    assert collection.some_queries(3) is collection


def test_judgements_may_be_compressed(tmp_path: Path) -> None:
    (tmp_path / "qrels").mkdir()
    for name, text in {
        "corpus.jsonl.gz": '{"_id": "d1", "text": "one"}\n',
        "queries.jsonl.gz": '{"_id": "q1", "text": "two"}\n',
        "qrels/test.tsv.gz": "q1\td1\t1\n",
    }.items():
        (tmp_path / name).write_bytes(gzip.compress(text.encode()))
    assert named.load(str(tmp_path), None).relevant == [{"d1": 1.0}]


def test_two_documents_with_one_id_are_refused(tmp_path: Path) -> None:
    (tmp_path / "qrels").mkdir()
    (tmp_path / "corpus.jsonl").write_text('{"_id": "d1", "text": "one", "metadata": null}\n' * 2)
    (tmp_path / "queries.jsonl").write_text('{"_id": "q1", "text": "two"}\n')
    (tmp_path / "qrels" / "test.tsv").write_text("q1\td1\t1\n")
    with pytest.raises(
        ValueError, match=r"corpus.jsonl, line 2: the document id 'd1' .* it is in .*corpus.jsonl, line 1"
    ):
        named.load(str(tmp_path), None)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_corpus_and_queries_may_be_in_other_formats(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("q1\td1\t1\n")
    for name, id, text in (("corpus", "d1", "one"), ("queries", "q1", "two")):
        path = tmp_path / f"{name}{suffix}"
        if suffix == ".parquet":
            arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
            parquet.write_table(arrow.table({"_id": [id], "text": [text]}), path)
        else:
            path.write_text(f"_id,text\n{id},{text}\n".replace(",", "," if suffix == ".csv" else "\t"))
    collection = named.load(str(tmp_path), None)
    assert (collection.documents, collection.queries, collection.relevant) == (["one"], ["two"], [{"d1": 1.0}])


@pytest.mark.parametrize("name", ["beir", "nanobeir", "longembed", "beir:scifact", "beir:mine"])
def test_a_folder_with_the_name_of_a_benchmark_is_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What exists wins over a name of the hub."""
    folder = tmp_path / name
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text('{"_id": 1, "text": "x"}\n')
    (folder / "queries.jsonl").write_text('{"_id": 2, "text": "y"}\n')
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n2\t1\t1\n")
    monkeypatch.chdir(tmp_path)
    assert named.load(name, None).relevant == [{"1": 1.0}]
    assert named.lengths(name) == {}
    folder.rename(tmp_path / "elsewhere")
    if ":" not in name:
        with pytest.raises(FileNotFoundError, match=f"there is no directory {name}"):
            named.load(name, None)


def test_a_missing_split_is_named_with_those_that_there_are(tmp_path: Path) -> None:
    (tmp_path / "qrels").mkdir()
    for name in ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv.gz"):
        (tmp_path / name).touch()
    with pytest.raises(FileNotFoundError, match=r"the splits of .* are: test"):
        named.load(str(tmp_path), "dev")


# -- NanoBEIR ---------------------------------------------------------------------------------------------------------


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
def test_a_set_of_nanobeir(name: str, nanobeir: Path) -> None:
    downloads, download = downloads_of(nanobeir)
    collection = named.load(f"nanobeir:{name}", None, download)
    patterns = [f"{folder}/NanoMSMARCO-*.parquet" for folder in ("corpus", "queries", "qrels")]
    assert downloads == [("sentence-transformers/NanoBEIR-en", *patterns)]
    assert (collection.name, collection.query_ids, collection.queries) == ("NanoMSMARCO", ["q1"], ["one?"])
    assert (collection.document_ids, collection.documents) == (["d1", "d2"], ["one", "not one"])
    assert collection.relevant == [{"d1": 1.0}]
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


# -- LongEmbed --------------------------------------------------------------------------------------------------------


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


def test_a_set_of_longembed(longembed: Path) -> None:
    downloads, download = downloads_of(longembed)
    collection = named.load("longembed:qmsum", None, download)
    assert downloads == [("dwzhu/LongEmbed", "qmsum/*.jsonl")]
    assert (collection.name, collection.query_ids, collection.document_ids) == ("qmsum", ["q1", "q2"], ["d1", "d2"])
    assert collection.relevant == [{"d1": 1.0}, {"d2": 1.0}]
    assert named.lengths("longembed:qmsum") == {"document_length": 32768}
    with pytest.raises(FileNotFoundError, match="its splits are: none, it is one collection"):
        named.load("longembed:qmsum", "4096", download)
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


def test_bad_rows_and_missing_files_of_longembed_are_named(longembed: Path) -> None:
    write_rows(longembed / "qmsum" / "queries.jsonl", [{"qid": "q1"}])
    with pytest.raises(ValueError, match=r"queries.jsonl, line 1: `text` must be a string, found None"):
        named.load(str(longembed / "qmsum"), None)
    twice, message = {"text": "a"}, "{}.jsonl, line 2: the {} id 'q1' comes twice; it is in .* line 1 too"
    write_rows(longembed / "qmsum" / "queries.jsonl", [twice | {"qid": "q1"}] * 2)
    with pytest.raises(ValueError, match=message.format("queries", "query")):
        named.load(str(longembed / "qmsum"), None)
    write_rows(longembed / "qmsum" / "queries.jsonl", [twice | {"qid": "q1"}])
    write_rows(longembed / "qmsum" / "corpus.jsonl", [twice | {"doc_id": "q1"}] * 2)
    with pytest.raises(ValueError, match=message.format("corpus", "document")):
        named.load(str(longembed / "qmsum"), None)
    (longembed / "qmsum" / "corpus.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match=r"qmsum has no corpus\.jsonl"):
        named.load(str(longembed / "qmsum"), None)


# -- MS MARCO ---------------------------------------------------------------------------------------------------------


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
    (msmarco / "collection.tsv.gz").write_bytes(gzip.compress(b"0\tzero\n1\tone\n1\ttwo\n2\ttwo\n"))
    with pytest.raises(ValueError, match=r"collection.tsv.gz, line 3: the document id '1' .* line 2 too"):
        named.load(str(msmarco), None)
    with pytest.raises(FileNotFoundError, match=r"no msmarco-test2020-queries.tsv, which the split 'dl20' needs"):
        named.load(str(msmarco), "dl20")
    with pytest.raises(FileNotFoundError, match=r"no queries.test.tsv, .* the splits of MS MARCO are: dev.small, dev"):
        named.load(str(msmarco), "test")


def test_some_missing_texts_are_logged_and_all_missing_is_an_error(
    msmarco: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """ArguAna has a few missing documents. If all are missing, the files do not belong together."""
    qrels = msmarco / "qrels.dev.small.tsv"
    qrels.write_text("10\t0\t7\t1\n10\t0\t1\t1\n10\t0\t8\t0\n11\t0\t9\t1\n12\t0\t2\t1\n13\t0\t0\t0\n")
    (msmarco / "queries.dev.small.tsv").write_text("10\twhat is one\n11\twhat is two\n13\twhat is not\n")
    collection = named.load(str(msmarco), None)
    assert [message.split(" that ")[0] for message in caplog.messages] == [
        "1 of the 4 judged queries",
        "2 of the 4 relevant documents",
    ]
    assert collection.query_ids == ["10", "11", "13"] and collection.relevant == [{"1": 1.0}, {}, {}]
    assert collection.gains == [{"7": 1.0, "1": 1.0, "8": 0.0}, {"9": 1.0}, {"0": 0.0}]
    assert (collection.answerable().query_ids, collection.answerable().queries) == (["10"], ["what is one"])
    for line, message in (
        ("10\t0\t7\t1", r"none of the relevant documents that .*qrels.dev.small.tsv names is there, such as '7'"),
        ("99\t0\t1\t1", r"none of the judged queries that .*qrels.dev.small.tsv names is there, such as '99'"),
    ):
        qrels.write_text(line)
        with pytest.raises(ValueError, match=message):
            named.load(str(msmarco), None)


def test_missing_collections_are_named(tmp_path: Path) -> None:
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
