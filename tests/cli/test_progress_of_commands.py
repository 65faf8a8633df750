"""What whole commands show of how far they are: in a pipe, with a line whenever there is news, and on a terminal."""

import json
import re
import sys
from pathlib import Path

import pytest
from commands import run_command
from terminal import on_terminal

NUM_DOCUMENTS = 40


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLBERTZ_PROGRESS_SECONDS", "0")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    rows = [{"_id": f"d{i}", "text": f"the document number {i} of a few"} for i in range(NUM_DOCUMENTS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def lines_of(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> list[str]:
    """The lines of progress that a command writes to stderr, each once, without times."""
    capsys.readouterr()
    run_command(*argv)
    lines = [line for line in capsys.readouterr().err.splitlines() if re.search(r" in \d\d:\d\d", line)]
    return list(dict.fromkeys(re.sub(r" in \d\d:\d\d.*", "", line) for line in lines))


def test_an_index_of_a_file_has_one_bar_with_a_total(
    corpus: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = lines_of(capsys, "index", "--corpus", corpus, "--out", tmp_path / "index", "--model", checkpoint)
    assert lines.pop(0) == "indexing (0 % of all)"
    assert all(line.startswith("indexing, ") for line in lines)
    steps = [re.sub(r", (.+?): .*", r" \1", line) for line in lines]
    assert list(dict.fromkeys(steps)) == ["indexing storing", "indexing finding centroids", "indexing coding"]
    assert lines[0] == f"indexing, storing: 0 of {NUM_DOCUMENTS} documents (0 % of all)"
    percentages = [int(re.findall(r"\((\d+) % of all", line)[0]) for line in lines]
    assert percentages == sorted(percentages) and percentages[-1] == 100


@pytest.mark.parametrize("program", ["colbertz", "fast-plaid", "next-plaid"])
def test_a_conversion_has_a_bar(
    program: str, corpus: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_command("index", "--corpus", corpus, "--out", tmp_path / "index", "--model", checkpoint)
    lines = lines_of(capsys, "convert", tmp_path / "index", tmp_path / "other", "--to", program)
    [tokens] = {re.findall(r"of (\S+) tokens", line)[0] for line in lines}
    assert lines[0] == f"converting: 0 of {tokens} tokens (0 %)"
    assert lines[-1] == f"converting: {tokens} of {tokens} tokens (100 %)"


def test_an_export_of_vectors_has_a_bar(
    corpus: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_command("index", "--corpus", corpus, "--out", tmp_path / "index", "--model", checkpoint)
    lines = lines_of(capsys, "export-vectors", tmp_path / "index", "--to", "vespa", "--out", tmp_path / "feed.jsonl")
    assert lines[0] == f"exporting: 0 of {NUM_DOCUMENTS} documents (0 %)"
    assert lines[-1] == f"exporting: {NUM_DOCUMENTS} of {NUM_DOCUMENTS} documents (100 %)"


def test_mining_and_scoring_have_one_bar_each(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = [{"query": f"number {i}", "document": f"the document number {i} of a few"} for i in range(NUM_DOCUMENTS)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    mined = tmp_path / "mined.jsonl"
    lines = lines_of(capsys, "mine", "--pairs", tmp_path / "pairs.jsonl", "--out", mined, "--model", checkpoint)
    assert all(line.startswith("mining") for line in lines)
    percentages = [int(re.findall(r"\((\d+) % of all", line)[0]) for line in lines]
    assert percentages == sorted(percentages)
    assert "mining, indexing: 100 of 100 % (50 % of all)" in lines
    assert lines[-1] == f"mining, searching: {NUM_DOCUMENTS} of {NUM_DOCUMENTS} queries (100 % of all)"
    lines = lines_of(capsys, "score", "--mined", mined, "--teacher", checkpoint, "--out", tmp_path / "scores")
    assert {line.partition(":")[0] for line in lines} == {"scoring"}
    assert lines[-1].endswith("pairs (100 %)")


def test_an_index_has_one_bar_on_a_terminal(corpus: Path, checkpoint: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "colbertz", "index", "--corpus", corpus, "--model", checkpoint]
    text = on_terminal([*command, "--out", tmp_path / "index"], columns=120)
    drawn = [line for line in re.split("[\r\n]+", text) if line.strip()]
    assert all(line.startswith("indexing") for line in drawn)
    assert "100%" in drawn[-1]
    assert text.count("\n") == 1
