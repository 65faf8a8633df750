"""`colbertz score` from files to files, against what a person would compute by hand."""

import math
import sys
from pathlib import Path

import pytest
import torch
from checkpoints import modernbert_config, modernbert_tokenizer, write_encoder
from commands import error_of, run_command
from json_lines import read_rows, write_rows
from texts import ORDINARY

from colbertz import ColBERT
from colbertz.cli import main
from colbertz.text.words import split_identifiers


def similarity(checkpoint: Path, query: str, documents: list[str]) -> list[float]:
    model = ColBERT.from_pretrained(checkpoint)
    scores: list[float] = model.similarity(model.encode_query([query]), model.encode_document(documents))[0].tolist()
    return scores


@pytest.fixture
def mined(checkpoint: Path, beir: Path, tmp_path: Path) -> Path:
    """Lists of different lengths."""
    out = tmp_path / "mined.jsonl"
    run_command("mine", "--model", checkpoint, "--data", beir, "--out", out, "--num-negatives", 5)
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
    run_command("score", "--mined", mined, "--teacher", checkpoint, "--out", out, "--dtype", "float32")
    lists, rows = scored(out), read_rows(mined)
    assert [(q, d) for q, d, _ in lists] == [(row["query"], [row["document"], *row["negatives"]]) for row in rows]
    assert [row["document_ids"] for row in read_rows(out / "train.jsonl")] == [row["document_ids"] for row in rows]
    for query, documents, scores in lists:
        assert scores == pytest.approx(similarity(checkpoint, query, documents), abs=1e-4)
    # Two rows are of the same query, with one positive each.
    assert [row["query_id"] for row in read_rows(out / "train.jsonl")] == ["q0", "q0", "q1", "q2", "q3"]
    assert "5 lists, 24 scores" in capsys.readouterr().out


def test_documents_without_ids_are_numbered(checkpoint: Path, tmp_path: Path) -> None:
    rows = [{"query": "x", "document": "a", "negatives": ["b"]}, {"query": "y", "document": "b", "negatives": ["c"]}]
    run_command(
        "score", "--mined", write_rows(tmp_path / "m.jsonl", rows), "--teacher", checkpoint, "--out", tmp_path / "out"
    )
    assert [row["document_ids"] for row in read_rows(tmp_path / "out/train.jsonl")] == [["d0", "d1"], ["d1", "d2"]]


def test_a_run_over_a_beir_folder(checkpoint: Path, beir: Path, tmp_path: Path) -> None:
    rows = [("q3", "d7", 1, 3.0), ("q0", "d4", 1, 1.0), ("q0", "d1", 2, 2.5), ("q0", "d6", 3, 2.0)]
    (tmp_path / "run.trec").write_text("".join(f"{q} Q0 {d} {rank} {score} x\n" for q, d, rank, score in rows))
    command = ["score", "--data", beir, "--run", tmp_path / "run.trec", "--teacher", checkpoint]
    run_command(*command, "--out", tmp_path / "scores")
    lists = {row["query_id"]: row["document_ids"] for row in read_rows(tmp_path / "scores/train.jsonl")}
    assert lists == {"q3": ["d3", "d7"], "q0": ["d0", "d1", "d6", "d4"]}
    assert scored(tmp_path / "scores")[0][1][0] == f"Title 3 {ORDINARY[3]}"


def test_fusing_with_bm25_is_the_formula(checkpoint: Path, mined: Path, tmp_path: Path) -> None:
    bm25s = pytest.importorskip("bm25s")
    command = ["score", "--mined", mined, "--teacher", checkpoint, "--out"]
    run_command(*command, tmp_path / "teacher")
    run_command(*command, tmp_path / "fused", "--bm25-weight", 0.3)

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


def test_a_query_of_stop_words_has_no_bm25_scores(checkpoint: Path, tmp_path: Path) -> None:
    rows = [{"query": "the of", "document": "a dog barks", "negatives": ["rivers flow", "cities grow"]}]
    source = write_rows(tmp_path / "m.jsonl", rows)
    run_command("score", "--mined", source, "--teacher", checkpoint, "--out", tmp_path / "out", "--bm25-weight", 0.5)
    assert max(scored(tmp_path / "out")[0][2]) == 0.5


# -- teachers that sentence-transformers runs ---------------------------------------------------------------------


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
    run_command(
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
    run_command(*command, "--teacher", path)
    for query, documents, scores in scored(tmp_path / "s"):
        probabilities = model.predict([(query, text) for text in documents], activation_fn=torch.nn.Sigmoid())
        assert [1 / (1 + math.exp(-score)) for score in scores] == pytest.approx(probabilities.tolist(), abs=1e-4)
    # transformers shows the loading of weights on stderr, so the error is only the last line.
    assert main([str(part) for part in [*command, "--overwrite", "--teacher", cross_encoder(tmp_path, 3)]]) == 2
    assert capsys.readouterr().err.endswith("cross3 gives a pair 3 scores; a teacher has to give one\n")


def test_what_sentence_transformers_refuses_is_an_error_of_the_user(
    mined: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sentence_transformers")
    (tmp_path / "empty").mkdir()
    command = ["score", "--mined", mined, "--kind", "cross-encoder", "--teacher", tmp_path / "empty"]
    assert "sentence-transformers cannot load" in error_of(capsys, *command, "--out", tmp_path / "scores")


def test_extras_that_are_not_installed(
    checkpoint: Path, mined: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("sentence_transformers", "bm25s"):
        monkeypatch.setitem(sys.modules, module, None)
    command = ["score", "--mined", mined, "--teacher", checkpoint, "--out", tmp_path / "scores"]
    assert 'pip install "colbertz[teachers]"' in error_of(capsys, *command, "--kind", "bi-encoder")
    assert 'pip install "colbertz[eval]"' in error_of(capsys, *command, "--bm25-weight", 0.5)


def test_an_output_is_replaced_only_on_request(
    checkpoint: Path, mined: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scores"
    command = ["score", "--mined", mined, "--teacher", checkpoint, "--out", out]
    run_command(*command)
    first = scored(out)
    assert f"{out} is there already; name another folder" in error_of(capsys, *command)
    write_rows(mined, read_rows(mined)[:2])
    run_command(*command, "--overwrite")
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
