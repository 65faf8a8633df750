"""`colbertz mine` and `colbertz score` from files to files, against what a person would compute by hand."""

import gzip
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import modernbert_config, modernbert_tokenizer, write_encoder
from texts import ORDINARY
from toy_training import pairs

from colbertz import ColBERT
from colbertz.cli import main
from colbertz.distillation.teachers import fuse
from colbertz.text.normalize import normalized
from colbertz.text.words import split_identifiers

JSON = dict[str, Any]


def run(*argv: str | Path | float) -> None:
    assert main([str(argument) for argument in argv]) == 0


def error_of(capsys: pytest.CaptureFixture[str], *argv: str | Path | float) -> str:
    """The one line on stderr of a command that has to fail with status 2."""
    capsys.readouterr()
    assert main([str(argument) for argument in argv]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1)
    return captured.err.removeprefix("error: ").strip()


def write_rows(path: Path, rows: list[JSON]) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def read_rows(path: Path) -> list[JSON]:
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def pair_file(tmp_path: Path) -> Path:
    rows = [{"query": query, "document": document} for query, document in pairs()[:40]]
    return write_rows(tmp_path / "pairs.jsonl.gz", rows)


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    """Every text is a document; query i is about document i, and query 0 about document 1 too."""
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    corpus = [{"_id": f"d{i}", "title": f"Title {i}", "text": text} for i, text in enumerate(ORDINARY[:12])]
    # The same text as the positive of query 2 under another id, in other case.
    corpus.append({"_id": "copy", "title": "TITLE 2", "text": ORDINARY[2].upper()})
    write_rows(folder / "corpus.jsonl.gz", corpus)
    write_rows(folder / "queries.jsonl", [{"_id": f"q{i}", "text": f"about {ORDINARY[i][:20]}"} for i in range(6)])
    lines = ["query-id\tcorpus-id\tscore", *(f"q{i}\td{i}\t1" for i in range(4)), "q0\td1\t2", "q0\td5\t0"]
    (folder / "qrels/train.tsv").write_text("\n".join(lines) + "\n")
    return folder


def similarity(checkpoint: Path, query: str, documents: list[str]) -> list[float]:
    model = ColBERT.from_pretrained(checkpoint)
    scores: list[float] = model.similarity(model.encode_query([query]), model.encode_document(documents))[0].tolist()
    return scores


# -- mine --------------------------------------------------------------------------------------------------------


def test_mined_pairs(checkpoint: Path, pair_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "mined.jsonl.gz"
    run("mine", "--model", checkpoint, "--pairs", pair_file, "--out", out, "--num-negatives", 5, "--top-k", 10)
    rows = read_rows(out)
    assert [(row["query"], row["document"]) for row in rows] == pairs()[:40]
    for row in rows:
        texts = [row["document"], *row["negatives"]]
        assert len(set(texts)) == len(texts) == len(set(row["document_ids"])) == len(row["scores"]) == 6
        assert row["scores"] == pytest.approx(similarity(checkpoint, row["query"], texts), rel=0.02)  # 4 bits
        assert row["scores"][1:] == sorted(row["scores"][1:], reverse=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [out.name, pair_file.name], "no index is left"
    assert "40 rows of 40 queries, 5.0 negatives a row" in capsys.readouterr().out


def test_positives_far_down_get_their_score_too(checkpoint: Path, pair_file: Path, tmp_path: Path) -> None:
    command = ["mine", "--model", checkpoint, "--pairs", pair_file, "--num-negatives", 1]
    run(*command, "--out", tmp_path / "deep.jsonl", "--top-k", 40)
    run(*command, "--out", tmp_path / "shallow.jsonl", "--top-k", 2)
    deep, shallow = read_rows(tmp_path / "deep.jsonl"), read_rows(tmp_path / "shallow.jsonl")
    assert [row["negatives"] for row in deep] == [row["negatives"] for row in shallow]
    assert [s for row in shallow for s in row["scores"]] == pytest.approx([s for row in deep for s in row["scores"]])
    assert any(row["scores"][0] < row["scores"][1] for row in shallow), "some positives were not among the candidates"


def test_queries_with_the_same_text_share_positives(checkpoint: Path, tmp_path: Path) -> None:
    rows = [{"query": "Same  query", "document": ORDINARY[0]}, {"query": "same query", "document": ORDINARY[1]}]
    rows += [{"query": "same query", "document": ORDINARY[1]}, {"query": "other", "document": ORDINARY[2]}]
    source = write_rows(tmp_path / "pairs.jsonl", rows)
    run("mine", "--model", checkpoint, "--pairs", source, "--out", tmp_path / "mined.jsonl")
    mined = {(row["query"], row["document"]): row["negatives"] for row in read_rows(tmp_path / "mined.jsonl")}
    same = {("Same  query", ORDINARY[0]): [ORDINARY[2]], ("Same  query", ORDINARY[1]): [ORDINARY[2]]}
    assert {key: mined[key] for key in same} == same
    assert sorted(mined["other", ORDINARY[2]]) == sorted(ORDINARY[:2])


def test_mining_a_beir_folder_with_filters(
    checkpoint: Path, beir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mined.jsonl"
    command = ["mine", "--model", checkpoint, "--data", beir, "--out", out, "--num-negatives", 20]
    run(*command)
    rows = read_rows(out)
    positives = {"q0": ["d0", "d1"], "q1": ["d1"], "q2": ["d2"], "q3": ["d3"]}
    assert [row["document_ids"][0] for row in rows] == ["d0", "d1", "d1", "d2", "d3"]
    everything = {f"d{i}" for i in range(12)} | {"copy"}
    for row, right in zip(rows, [positives[q] for q in ("q0", "q0", "q1", "q2", "q3")]):
        duplicates = {"copy"} if "d2" in right else {"d2"} if "copy" in row["document_ids"] else {"copy"}
        assert set(row["document_ids"][1:]) == everything - set(right) - duplicates
        assert row["document"].startswith("Title ")
    assert len({normalized(text) for text in rows[0]["negatives"]}) == 10
    output = capsys.readouterr().out
    assert "of 52 candidates\n  6 are a positive, a text like one, or the query itself\n  3 have the text" in output

    run(*command, "--max-percentage", 0.9, "--margin", 0.5, "--min-rank", 2)
    for row in read_rows(out):
        # Of q0's two positives the lower one counts.
        lowest = min(other["scores"][0] for other in rows if other["query"] == row["query"])
        assert all(score <= min(0.9 * lowest, lowest - 0.5) for score in row["scores"][1:])
    output = capsys.readouterr().out
    assert "  4 rank before --min-rank\n" in output
    assert "score too high for --margin" in output


def test_dropped_queries_are_counted_and_none_left_is_an_error(
    checkpoint: Path, beir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mined.jsonl"
    command = ["mine", "--model", checkpoint, "--data", beir, "--out", out]
    run(*command)
    scores = {row["query"]: max(row["scores"][0] - row["scores"][-1], 0) for row in read_rows(out)}
    before = out.read_bytes()
    assert "no query was left with a negative" in error_of(capsys, *command, "--margin", 1000)
    assert out.read_bytes() == before, "a failed run leaves the old file"
    run(*command, "--margin", sorted(scores.values())[-1] - 0.001)
    queries = {row["query"] for row in read_rows(out)}
    assert 0 < len(queries) < 4
    assert f"{4 - len(queries)} queries were dropped" in capsys.readouterr().out


def test_an_index_is_built_once_and_must_be_of_the_same_documents(
    checkpoint: Path, beir: Path, pair_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index, out = tmp_path / "index", tmp_path / "mined.jsonl"
    command = ["mine", "--model", checkpoint, "--out", out, "--sampling", "random", "--num-negatives", 2]
    run(*command, "--data", beir, "--index", index)
    manifest, rows = (index / "manifest.json").stat(), read_rows(out)
    run(*command, "--data", beir, "--index", index)
    assert (index / "manifest.json").stat() == manifest
    assert read_rows(out) == rows
    run(*command, "--data", beir)
    assert read_rows(out) == rows
    # What `colbertz index` writes serves as well.
    run("index", "--model", checkpoint, "--corpus", beir / "corpus.jsonl.gz", "--out", index, "--overwrite")
    run(*command, "--data", beir, "--index", index)
    assert read_rows(out) == rows
    assert "holds 13 documents and the data 40" in error_of(capsys, *command, "--pairs", pair_file, "--index", index)
    corpus = read_rows(beir / "corpus.jsonl.gz")
    write_rows(beir / "corpus.jsonl.gz", [row | {"text": "changed"} for row in corpus])
    assert "is not in the data or has another text there" in error_of(
        capsys, *command, "--data", beir, "--index", index
    )


def test_mining_with_bad_input(
    checkpoint: Path, beir: Path, pair_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, nowhere = tmp_path / "mined.jsonl", tmp_path / "nowhere"
    command = ["mine", "--model", checkpoint, "--out", out]
    assert f"there is no file {nowhere}" in error_of(capsys, *command, "--pairs", nowhere)
    assert f"{nowhere} has no corpus.jsonl" in error_of(capsys, *command, "--data", nowhere)
    assert "dev.tsv; the splits of beir are: train" in error_of(capsys, *command, "--data", beir, "--split", "dev")
    assert "--split is for --data" in error_of(capsys, *command, "--pairs", pair_file, "--split", "dev")
    assert "--min-rank 200 is beyond" in error_of(capsys, *command, "--pairs", pair_file, "--min-rank", 200)
    assert "a share above 0" in error_of(capsys, *command, "--pairs", pair_file, "--max-percentage", 95)
    assert "must end in .jsonl" in error_of(capsys, *command[:3], "--pairs", pair_file, "--out", tmp_path / "m.csv")
    assert "there is no directory" in error_of(capsys, *command[:3], "--pairs", pair_file, "--out", nowhere / "m.jsonl")
    for rows, message in (
        ([], "holds no pairs"),
        ([{"query": "x"}], "line 1: `document` must be a string with something in it, got None"),
        ([{"query": " ", "document": "x"}], "line 1: `query` must be a string with something in it, got ' '"),
    ):
        source = write_rows(tmp_path / "bad.jsonl", rows)
        assert message in error_of(capsys, *command, "--pairs", source)
    for line, message in (
        ("q0\td0", "train.tsv, line 2: expected query id, document id and score, found 'q0\\td0'"),
        ("q0\td99\t1", "train.tsv names is there, such as 'd99'"),
        ("q0\td0\t0", "train.tsv has no relevant document"),
    ):
        (beir / "qrels/train.tsv").write_text(f"query-id\tcorpus-id\tscore\n{line}\n")
        assert message in error_of(capsys, *command, "--data", beir)
    assert not out.exists()


# -- score -------------------------------------------------------------------------------------------------------


@pytest.fixture
def mined(checkpoint: Path, beir: Path, tmp_path: Path) -> Path:
    """Lists of different lengths."""
    out = tmp_path / "mined.jsonl"
    run("mine", "--model", checkpoint, "--data", beir, "--out", out, "--num-negatives", 5)
    rows = read_rows(out)
    for row in rows[:2]:
        row["negatives"], row["document_ids"] = row["negatives"][:2], row["document_ids"][:3]
    return write_rows(out, rows)


def scored(folder: Path) -> list[tuple[str, list[str], list[float]]]:
    """Query, documents and scores of each list, with ids replaced by texts."""
    assert sorted(path.name for path in folder.iterdir()) == ["documents.jsonl", "queries.jsonl", "train.jsonl"]
    queries = {row["query_id"]: row["text"] for row in read_rows(folder / "queries.jsonl")}
    documents = {row["document_id"]: row["text"] for row in read_rows(folder / "documents.jsonl")}
    lists = read_rows(folder / "train.jsonl")
    assert {row["query_id"] for row in lists} == queries.keys()
    assert {id for row in lists for id in row["document_ids"]} == documents.keys()
    return [(queries[r["query_id"]], [documents[id] for id in r["document_ids"]], r["scores"]) for r in lists]


def test_a_colbert_teacher(checkpoint: Path, mined: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "scores"
    run("score", "--mined", mined, "--teacher", checkpoint, "--out", out)
    lists, rows = scored(out), read_rows(mined)
    assert [(q, d) for q, d, _ in lists] == [(row["query"], [row["document"], *row["negatives"]]) for row in rows]
    assert [row["document_ids"] for row in read_rows(out / "train.jsonl")] == [row["document_ids"] for row in rows]
    for query, documents, scores in lists:
        assert scores == pytest.approx(similarity(checkpoint, query, documents), abs=1e-4)
    # Two rows are of the same query, with one positive each.
    assert [row["query_id"] for row in read_rows(out / "train.jsonl")] == ["q0", "q0", "q1", "q2", "q3"]
    assert "5 lists, 24 scores" in capsys.readouterr().out


def test_a_batch_at_a_time_gives_the_same(
    checkpoint: Path, mined: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("score", "--mined", mined, "--teacher", checkpoint, "--out", tmp_path / "at once")
    monkeypatch.setattr("colbertz.distillation.teachers._PAIRS_AT_ONCE", 7)
    run("score", "--mined", mined, "--teacher", checkpoint, "--out", tmp_path / "batches")
    for (*texts, scores), (*same_texts, same_scores) in zip(scored(tmp_path / "at once"), scored(tmp_path / "batches")):
        assert texts == same_texts
        assert scores == pytest.approx(same_scores, abs=1e-4)


def test_documents_without_ids_are_numbered(checkpoint: Path, tmp_path: Path) -> None:
    rows = [{"query": "x", "document": "a", "negatives": ["b"]}, {"query": "y", "document": "b", "negatives": ["c"]}]
    run("score", "--mined", write_rows(tmp_path / "m.jsonl", rows), "--teacher", checkpoint, "--out", tmp_path / "out")
    assert [row["document_ids"] for row in read_rows(tmp_path / "out/train.jsonl")] == [["d0", "d1"], ["d1", "d2"]]


def test_a_run_over_a_beir_folder(checkpoint: Path, beir: Path, tmp_path: Path) -> None:
    found = [("q3", "d7", 1, 3.0), ("q0", "d4", 1, 1.0), ("q0", "d1", 2, 2.5), ("q0", "d6", 3, 2.0)]
    (tmp_path / "run.trec").write_text("".join(f"{q} Q0 {d} {rank} {score} x\n" for q, d, rank, score in found))
    command = ["score", "--data", beir, "--run", tmp_path / "run.trec", "--teacher", checkpoint]
    run(*command, "--out", tmp_path / "scores")
    lists = {row["query_id"]: row["document_ids"] for row in read_rows(tmp_path / "scores/train.jsonl")}
    assert lists == {"q3": ["d3", "d7"], "q0": ["d0", "d1", "d6", "d4"]}
    assert scored(tmp_path / "scores")[0][1][0] == f"Title 3 {ORDINARY[3]}"


def test_fusing_with_bm25_is_the_formula(checkpoint: Path, mined: Path, tmp_path: Path) -> None:
    bm25s = pytest.importorskip("bm25s")
    command = ["score", "--mined", mined, "--teacher", checkpoint, "--out"]
    run(*command, tmp_path / "teacher")
    run(*command, tmp_path / "fused", "--bm25-weight", 0.3)

    corpus = [row["text"] for row in read_rows(tmp_path / "fused/documents.jsonl")]
    model = bm25s.BM25(k1=1.2, b=0.75)
    model.index([split_identifiers(text) for text in corpus], show_progress=False)
    for (query, documents, alone), (_, same, together) in zip(scored(tmp_path / "teacher"), scored(tmp_path / "fused")):
        assert documents == same
        by_words = model.get_scores(split_identifiers(query))
        by_words = [by_words[corpus.index(text)] for text in documents]
        assert max(by_words) > min(by_words)
        for a, b, score in zip(alone, by_words, together):
            stretched = [(x - min(all)) / (max(all) - min(all)) for x, all in ((a, alone), (b, by_words))]
            assert score == pytest.approx(0.7 * stretched[0] + 0.3 * stretched[1], abs=1e-4)


def test_scores_that_say_nothing_fuse_to_nothing() -> None:
    assert fuse([1.0, 3.0, 2.0], [5.0, 5.0, 5.0], 0.25) == [0.0, 0.75, 0.375]
    assert fuse([4.0], [2.0], 0.5) == [0.0]


def test_a_query_of_stop_words_has_no_bm25_scores(checkpoint: Path, tmp_path: Path) -> None:
    rows = [{"query": "the of", "document": "a dog barks", "negatives": ["rivers flow", "cities grow"]}]
    source = write_rows(tmp_path / "m.jsonl", rows)
    run("score", "--mined", source, "--teacher", checkpoint, "--out", tmp_path / "out", "--bm25-weight", 0.5)
    assert max(scored(tmp_path / "out")[0][2]) == 0.5


def bi_encoder(folder: Path) -> Path:
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    write_encoder(folder / "encoder", modernbert_config(), modernbert_tokenizer())
    body = Transformer(str(folder / "encoder"))
    prompts = {"query": "query: ", "document": "passage: "}
    model = SentenceTransformer(modules=[body, Pooling(body.get_embedding_dimension())], prompts=prompts, device="cpu")
    model.save_pretrained(str(folder / "bi"))
    return folder / "bi"


def cross_encoder(folder: Path, num_labels: int) -> Path:
    pytest.importorskip("sentence_transformers")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(3)
    path = folder / f"cross{num_labels}"
    config = transformers.ModernBertConfig(**modernbert_config(), num_labels=num_labels)
    transformers.ModernBertForSequenceClassification(config).save_pretrained(path)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=modernbert_tokenizer(), pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    )
    tokenizer.save_pretrained(path)
    return path


def test_a_bi_encoder_teacher(mined: Path, tmp_path: Path) -> None:
    path = bi_encoder(tmp_path)
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(path), device="cpu")
    run(
        "score", "--mined", mined, "--teacher", path, "--kind", "bi-encoder", "--device", "cpu", "--out", tmp_path / "s"
    )
    for query, documents, scores in scored(tmp_path / "s"):
        expected = model.similarity(model.encode_query(query), model.encode_document(documents))[0]
        assert scores == pytest.approx(expected.tolist(), abs=1e-4)


def test_a_cross_encoder_teacher(mined: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = cross_encoder(tmp_path, 1)
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(path), device="cpu")
    command = ["score", "--mined", mined, "--kind", "cross-encoder", "--device", "cpu", "--out", tmp_path / "s"]
    run(*command, "--teacher", path)
    for query, documents, scores in scored(tmp_path / "s"):
        probabilities = model.predict([(query, text) for text in documents], activation_fn=torch.nn.Sigmoid())
        assert [1 / (1 + math.exp(-score)) for score in scores] == pytest.approx(probabilities.tolist(), abs=1e-4)
    # transformers shows the loading of weights on stderr, so the error is only the last line.
    assert main([str(part) for part in [*command, "--overwrite", "--teacher", cross_encoder(tmp_path, 3)]]) == 2
    assert capsys.readouterr().err.endswith("cross3 gives a pair 3 scores; a teacher has to give one\n")


def test_extras_that_are_not_installed(
    checkpoint: Path, mined: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("sentence_transformers", "bm25s"):
        monkeypatch.setitem(sys.modules, module, None)
    command = ["score", "--mined", mined, "--teacher", checkpoint, "--out", tmp_path / "scores"]
    assert 'pip install "colbertz[teachers]"' in error_of(capsys, *command, "--kind", "bi-encoder")
    assert 'pip install "colbertz[eval]"' in error_of(capsys, *command, "--bm25-weight", 0.5)


@pytest.mark.parametrize("wrong", [math.nan, -math.inf])
def test_a_score_that_is_no_number_stops_the_run_and_nothing_is_written(
    wrong: float,
    checkpoint: Path,
    mined: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    row = read_rows(mined)[3]

    def teacher(queries: list[str], documents: list[list[str]]) -> list[list[float]]:
        return [
            [wrong if (query, text) == (row["query"], row["negatives"][1]) else 1.0 for text in texts]
            for query, texts in zip(queries, documents)
        ]

    monkeypatch.setattr("colbertz.distillation.teachers.colbert_teacher", lambda model: teacher)
    before = sorted(path.name for path in tmp_path.iterdir())
    message = error_of(capsys, "score", "--mined", mined, "--teacher", checkpoint, "--out", tmp_path / "scores")
    assert f"gives document {row['document_ids'][2]!r} for query 'q2' the score {wrong};" in message
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_that_texts_are_cut_is_said_once(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rows = [{"query": f"{number} word " * 40, "document": f"{number} text"} for number in range(4)]
    monkeypatch.setattr("colbertz.cli.mine._QUERIES_AT_ONCE", 1)
    monkeypatch.setattr("colbertz.distillation.teachers._PAIRS_AT_ONCE", 1)
    source, out = write_rows(tmp_path / "pairs.jsonl", rows), tmp_path / "mined.jsonl"
    run("mine", "--model", checkpoint, "--pairs", source, "--out", out)
    assert [record.getMessage() for record in caplog.records] == ["4 texts were cut to 32 tokens (query_length)"]
    caplog.clear()
    run("score", "--mined", out, "--teacher", checkpoint, "--out", tmp_path / "scores")
    assert [record.getMessage() for record in caplog.records] == ["4 texts were cut to 32 tokens (query_length)"]


def test_an_output_is_replaced_only_on_request(
    checkpoint: Path, mined: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scores"
    command = ["score", "--mined", mined, "--teacher", checkpoint, "--out", out]
    run(*command)
    first = scored(out)
    assert f"{out} is there already; pass --overwrite" in error_of(capsys, *command)
    write_rows(mined, read_rows(mined)[:2])
    run(*command, "--overwrite")
    assert scored(out) == first[:2]


def test_scoring_with_bad_input(
    checkpoint: Path, beir: Path, mined: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere, trec = tmp_path / "nowhere", tmp_path / "run.trec"
    command = ["score", "--teacher", checkpoint, "--out", tmp_path / "scores"]
    assert f"there is no file {nowhere}" in error_of(capsys, *command, "--mined", nowhere)
    assert "--data needs --run" in error_of(capsys, *command, "--data", beir)
    assert "--run and --split are for --data" in error_of(capsys, *command, "--mined", mined, "--run", trec)
    assert "below 1, got 1" in error_of(capsys, *command, "--mined", mined, "--bm25-weight", 1)
    assert f"there is no file {trec}" in error_of(capsys, *command, "--data", beir, "--run", trec)
    row = {"query": "x", "document": "a", "negatives": ["b"], "document_ids": ["1", "2"]}
    for rows, message in (
        ([], "holds no rows"),
        ([row | {"query": None}], "line 1: `query` and `document` must be strings, found None and 'a'"),
        ([row | {"negatives": "b"}], "line 1: `negatives` must be a list of strings, found 'b'"),
        ([row | {"document_ids": ["1"]}], "line 1: `document_ids` must have 2 entries"),
        ([row, row | {"document": "c"}], "line 2: document '1' has another text than before"),
    ):
        assert message in error_of(capsys, *command, "--mined", write_rows(tmp_path / "bad.jsonl", rows))
    for line, message in (
        ("", "holds no candidates"),
        ("q0 d0 1\n", "line 1: must be `query Q0 document rank score name`, got 'q0 d0 1'"),
        ("q0 Q0 d99 1 2.0 x\n", "run.trec: there is no document 'd99'"),
        ("q5 Q0 d1 1 2.0 x\n", "query 'q5' of the run"),
    ):
        trec.write_text(line)
        assert message in error_of(capsys, *command, "--data", beir, "--run", trec)
    trec.write_text("q0 Q0 d1 1 2.0 x\n")
    arguments = ["--data", beir, "--run", trec, "--split", "dev"]
    assert "dev.tsv; the splits of beir are: train" in error_of(capsys, *command, *arguments)
    assert not (tmp_path / "scores").exists()
