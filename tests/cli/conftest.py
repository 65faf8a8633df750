"""Data that several tests of the command line read."""

from pathlib import Path

import pytest
from commands import run_command
from json_lines import write_rows
from texts import ORDINARY
from toy_training import pairs


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A line for each ordinary text, with ids d0, d1 …"""
    rows = [{"_id": f"d{i}", "text": text, "path": "notes.txt", "line": i + 1} for i, text in enumerate(ORDINARY)]
    return write_rows(tmp_path / "corpus.jsonl", rows)


@pytest.fixture
def index(corpus: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """An index of the corpus."""
    path = tmp_path / "index"
    run_command("index", "--model", checkpoint, "--corpus", corpus, "--out", path)
    capsys.readouterr()
    return path


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
