"""`colbertz index`, and the commands that describe, check and compact an index."""

import gzip
import json
from pathlib import Path

import pytest
from commands import error_of
from texts import ORDINARY

from colbertz import ColBERT, Index
from colbertz.cli import main


def test_a_gzipped_corpus_with_titles_and_metadata(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"_id": "a", "title": "Rivers", "text": "The Danube flows.", "metadata": {"url": "x"}, "year": 1999},
        {"_id": "b", "title": "", "text": "No title."},
    ]
    with gzip.open(tmp_path / "corpus.jsonl.gz", "wt") as file:
        file.write("\n".join(json.dumps(row) for row in rows))
    command = ["index", "--model", checkpoint, "--corpus", tmp_path / "corpus.jsonl.gz", "--out", tmp_path / "index"]
    assert main([str(part) for part in command]) == 0
    assert "indexed 2 documents" in capsys.readouterr().out
    model = ColBERT.from_pretrained(checkpoint)
    hits = {h.id: h for h in Index.open(tmp_path / "index").search(model.encode_query(["Danube"]))[0]}
    assert hits["a"].text == "Rivers The Danube flows."
    assert hits["a"].metadata == {"title": "Rivers", "url": "x", "year": 1999}
    assert hits["b"].text == "No title."


ROW = {"_id": "d0", "text": ORDINARY[0]}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"_id": "x", "text": ', "line 2: not JSON"),
        (b'["x", "text"]', "line 2: each line must be a JSON object, found ['x', 'text']"),
        (b'{"text": "no id"}', "line 2: `_id` must be a string or a whole number, there is none"),
        (b'{"_id": true, "text": "x"}', "line 2: `_id` must be a string or a whole number, found True"),
        (b'{"_id": "x"}', "line 2: `text` must be a string, there is none"),
        (b'{"_id": "x", "text": ["y"]}', "line 2: `text` must be a string, found ['y']"),
        (b'{"_id": "x", "text": "y", "title": 3}', "line 2: `title` must be a string, found 3"),
        (b'{"_id": "x", "text": "y", "metadata": 3}', "line 2: `metadata` must be an object, found 3"),
        (b'{"_id": "d0", "text": "again"}', "line 2) have the same id 'd0'"),
        (b'{"_id": "x", "text": "y", "_id": "z"}', "line 2: the key '_id' comes twice in one object"),
        (b'{"_id": "x", "text": "\xff"}', "line 2: not UTF-8"),
    ],
)
def test_bad_rows_are_named_and_nothing_is_written(
    line: bytes, message: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_bytes(json.dumps(ROW).encode() + b"\n" + line + b"\n")
    out = tmp_path / "index"
    assert message in error_of(capsys, "index", "--model", checkpoint, "--corpus", corpus, "--out", out)
    assert not out.exists()


def test_a_truncated_gzip_and_an_empty_corpus(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "corpus.jsonl.gz"
    corpus.write_bytes(gzip.compress(json.dumps(ROW).encode() * 50)[:-20])
    command = ["index", "--model", checkpoint, "--corpus", corpus, "--out", tmp_path / "index"]
    assert "corpus.jsonl.gz cannot be read after line" in error_of(capsys, *command)
    corpus.write_bytes(gzip.compress(b""))
    assert "an index needs at least one document" in error_of(capsys, *command)


def test_an_index_is_overwritten_only_on_request(
    index: Path, corpus: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["index", "--model", checkpoint, "--corpus", corpus, "--out", index]
    assert "already holds an index; name another directory" in error_of(capsys, *command)
    assert main([*map(str, command), "--overwrite"]) == 0


def test_paths_that_lead_nowhere(
    index: Path, corpus: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere, out = tmp_path / "nowhere", tmp_path / "out"
    assert "there is no index at" in error_of(capsys, "search", "--index", nowhere, "x")
    assert "is not a colbertz index" in error_of(capsys, "search", "--index", checkpoint, "x")
    assert "no file" in error_of(capsys, "index", "--model", checkpoint, "--corpus", nowhere, "--out", out)
    assert str(nowhere) in error_of(capsys, "index", "--model", nowhere, "--corpus", corpus, "--out", out)
    assert str(nowhere) in error_of(capsys, "info", nowhere)
    assert str(nowhere) in error_of(capsys, "search", "--index", index, "--model", nowhere, "x")


# -- info, check, compact -------------------------------------------------------------------------------------------


def test_info_about_an_index(index: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(index)]) == 0
    about = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert about["documents"] == str(len(ORDINARY))
    assert about["embeddings"].startswith("16 dimensions of 4 bits, ")
    assert about["fields"] == "path, line"
    assert about["model"] == str(checkpoint)
    assert about["advice"] == "none"


def test_check_finds_a_flipped_bit(index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(index)]) == 0
    assert "all as they were written" in capsys.readouterr().out
    file = next(index.glob("segment-*/residuals.npy"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert "residuals.npy is damaged" in error_of(capsys, "check", index)


def test_compact(index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Index.open(index).delete(["d3"])
    assert main(["compact", str(index)]) == 0
    assert f"{len(ORDINARY) - 1} documents" in capsys.readouterr().out
    assert main(["compact", str(index), "--retrain"]) == 0
    assert len(Index.open(index)) == len(ORDINARY) - 1


def test_info_about_a_checkpoint(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(checkpoint)]) == 0
    output = capsys.readouterr().out
    parameters = sum(p.numel() for p in ColBERT.from_pretrained(checkpoint).parameters())
    assert f"{parameters:,}" in output
    assert "'[Q] '" in output
    assert "ModernBert" in output


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_bad_rows_can_be_skipped(
    suffix: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Rows without a usable text are left out and counted, and the first is shown; the others keep their ids."""
    corpus = tmp_path / f"corpus.{suffix}"
    if suffix == "jsonl":
        rows = [b'{"_id": "a", "text": "one"}', b'{"_id": "b", "text": "caf\xe9"}', b'{"_id": "c", "text": null}']
        rows += [b'{"_id": "d", "text": "\\ud83d"}', b'{"_id": "e", "text": "two"}', b"{"]
        num_bad = 4
    else:
        rows = [b"_id,text,year", b"b,caf\xe9,x", b"c,one,1999,more", b"a,one,1999", b"e,two,2000"]
        num_bad = 2
    corpus.write_bytes(b"\n".join(rows))
    command = ["index", "--model", checkpoint, "--corpus", corpus, "--out", tmp_path / "index"]
    assert f"corpus.{suffix}, line 2: not UTF-8" in error_of(capsys, *command)
    assert main([str(part) for part in [*command, "--on-bad-text", "skip"]]) == 0
    index = Index.open(tmp_path / "index")
    assert index.ids() == ["a", "e"]
    if suffix == "csv":
        assert index.ids("year > 1999") == ["e"]
    (warning,) = caplog.messages
    assert warning.startswith(f"{num_bad} documents were skipped; the first: {corpus}, line 2: not UTF-8")


def test_two_documents_with_one_id_are_named_with_the_place(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"_id": id, "text": id}) + "\n\n" for id in "abca"))
    command = ["index", "--model", checkpoint, "--corpus", corpus, "--out", tmp_path / "index"]
    message = f"documents 0 ({corpus}, line 1) and 3 ({corpus}, line 7) have the same id 'a'"
    assert message in error_of(capsys, *command)
