"""`colbertz mine` from files to files, against what a person would compute by hand."""

from pathlib import Path

import pytest
from commands import error_of, run_command
from json_lines import read_rows, write_rows
from texts import ORDINARY
from toy_training import pairs

from colbertz import ColBERT
from colbertz.text.normalize import normalized


def similarity(checkpoint: Path, query: str, documents: list[str]) -> list[float]:
    model = ColBERT.from_pretrained(checkpoint)
    scores: list[float] = model.similarity(model.encode_query([query]), model.encode_document(documents))[0].tolist()
    return scores


def test_mined_pairs(checkpoint: Path, pair_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "mined.jsonl.gz"
    run_command("mine", "--model", checkpoint, "--pairs", pair_file, "--out", out, "--num-negatives", 5, "--top-k", 10)
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
    run_command(*command, "--out", tmp_path / "deep.jsonl", "--top-k", 40)
    run_command(*command, "--out", tmp_path / "shallow.jsonl", "--top-k", 2)
    deep, shallow = read_rows(tmp_path / "deep.jsonl"), read_rows(tmp_path / "shallow.jsonl")
    assert [row["negatives"] for row in deep] == [row["negatives"] for row in shallow]
    assert [s for row in shallow for s in row["scores"]] == pytest.approx([s for row in deep for s in row["scores"]])
    assert any(row["scores"][0] < row["scores"][1] for row in shallow), "some positives were not among the candidates"


def test_queries_with_the_same_text_share_positives(checkpoint: Path, tmp_path: Path) -> None:
    rows = [{"query": "Same  query", "document": ORDINARY[0]}, {"query": "same query", "document": ORDINARY[1]}]
    rows += [{"query": "same query", "document": ORDINARY[1]}, {"query": "other", "document": ORDINARY[2]}]
    source = write_rows(tmp_path / "pairs.jsonl", rows)
    run_command("mine", "--model", checkpoint, "--pairs", source, "--out", tmp_path / "mined.jsonl")
    mined = {(row["query"], row["document"]): row["negatives"] for row in read_rows(tmp_path / "mined.jsonl")}
    same = {("Same  query", ORDINARY[0]): [ORDINARY[2]], ("Same  query", ORDINARY[1]): [ORDINARY[2]]}
    assert {key: mined[key] for key in same} == same
    assert sorted(mined["other", ORDINARY[2]]) == sorted(ORDINARY[:2])


def test_mining_a_beir_folder_with_filters(
    checkpoint: Path, beir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mined.jsonl"
    command = ["mine", "--model", checkpoint, "--data", beir, "--out", out, "--num-negatives", 20]
    run_command(*command)
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

    run_command(*command, "--max-percentage", 0.9, "--margin", 0.5, "--min-rank", 2)
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
    run_command(*command)
    scores = {row["query"]: max(row["scores"][0] - row["scores"][-1], 0) for row in read_rows(out)}
    before = out.read_bytes()
    assert "no query was left with a negative" in error_of(capsys, *command, "--margin", 1000)
    assert out.read_bytes() == before, "a failed run leaves the old file"
    run_command(*command, "--margin", sorted(scores.values())[-1] - 0.001)
    queries = {row["query"] for row in read_rows(out)}
    assert 0 < len(queries) < 4
    assert f"{4 - len(queries)} queries were dropped" in capsys.readouterr().out


def test_an_index_is_built_once_and_must_be_of_the_same_documents(
    checkpoint: Path, beir: Path, pair_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index, out = tmp_path / "index", tmp_path / "mined.jsonl"
    command = ["mine", "--model", checkpoint, "--out", out, "--sampling", "random", "--num-negatives", 2]
    run_command(*command, "--data", beir, "--index", index)
    manifest, rows = (index / "manifest.json").stat(), read_rows(out)
    run_command(*command, "--data", beir, "--index", index)
    assert (index / "manifest.json").stat() == manifest
    assert read_rows(out) == rows
    run_command(*command, "--data", beir)
    assert read_rows(out) == rows
    # What `colbertz index` writes serves as well.
    run_command("index", "--model", checkpoint, "--corpus", beir / "corpus.jsonl.gz", "--out", index, "--overwrite")
    run_command(*command, "--data", beir, "--index", index)
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
        ("q0\td0", "line 2: expected query id, document id and score, in the 3 columns of the header, found 'q0\\td0'"),
        ("q0\td99\t1", "train.tsv names is there, such as 'd99'"),
        ("q0\td0\t0", "train.tsv has no relevant document"),
    ):
        (beir / "qrels/train.tsv").write_text(f"query-id\tcorpus-id\tscore\n{line}\n")
        assert message in error_of(capsys, *command, "--data", beir)
    assert not out.exists()
