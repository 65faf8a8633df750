"""Training on a file: opening it, examples by index, and pairs for evaluation."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from toy_training import pairs

from colbertz.corpus import jsonl
from colbertz.corpus.rows import BadRow
from colbertz.training.config import SourceConfig
from colbertz.training.data import open_sources, read_pairs


def write(path: Path, lines: list[str]) -> Path:
    data = "\n".join(lines).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def test_a_large_file_opens_without_being_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "big.jsonl", ['{"query": "a", "document": "b"}'] * 100_000)
    parsed = []
    monkeypatch.setattr(jsonl.json, "loads", lambda line, **_: parsed.append(line) or {"query": "a", "document": "b"})
    (source,) = open_sources(SourceConfig(str(path)))
    assert len(source) == 100_000
    assert len(parsed) <= 100
    assert source.name == "big"


def test_reads_plain_and_compressed_files_alike(tmp_path: Path) -> None:
    lines = [json.dumps({"q": query, "d": document, "more": 1}) for query, document in pairs()]
    plain = read_pairs(write(tmp_path / "a.jsonl", lines), "q", "d")
    assert plain == read_pairs(write(tmp_path / "a.jsonl.gz", lines), "q", "d")
    assert [plain[i] for i in range(len(plain))] == pairs()


BAD_LINES = [
    ('{"query": "a"}', r"b.jsonl, line 3: has no key 'document', only \['query'\]"),
    ('{"query": "a", "document": " "}', "b.jsonl, line 3: has ' ' under 'document'"),
    ('{"query": 3, "document": "b"}', "b.jsonl, line 3: has 3 under 'query'"),
    ('{"query": ', "b.jsonl, line 3: not JSON"),
    ("[]", r"b.jsonl, line 3: each line must be a JSON object, found \[\]"),
]


@pytest.mark.parametrize(("line", "named"), BAD_LINES)
def test_a_bad_line_is_named(tmp_path: Path, line: str, named: str) -> None:
    path = write(tmp_path / "b.jsonl", ['{"query": "a", "document": "b"}', "", line])
    with pytest.raises(ValueError, match=named):
        read_pairs(path)
    (source,) = open_sources(SourceConfig(str(path)))
    assert source[0].documents == ("b",)
    with pytest.raises(BadRow, match=named):
        source[1]


def test_a_line_that_is_not_unicode_is_named(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_bytes('{"query": "é", "document": "b"}'.encode("latin-1"))
    with pytest.raises(ValueError, match=r"b.jsonl, line 1: not UTF-8"):
        read_pairs(tmp_path / "b.jsonl")


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_missing_and_empty_files_are_named(tmp_path: Path, content: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no file .*none\.jsonl"):
        read_pairs(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text(content)
    with pytest.raises(ValueError, match=r"empty.jsonl holds no rows"):
        read_pairs(tmp_path / "empty.jsonl")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"query": "question"}, r"has no column 'question', only query, document; choose with data\.train\[2\]\.query"),
        ({"negatives": ["document", "n"]}, r"no column 'n', .* data\.train\[2\]\.negatives"),
        ({"scores": "s"}, r"no column 's', .* data\.train\[2\]\.scores"),
        ({"streaming": True}, r"data\.train\[2\]\.streaming, subset and split are for data sets on the hub"),
        ({"split": "train"}, r"data\.train\[2\]\.streaming, subset and split are for data sets on the hub"),
    ],
)
def test_a_wrong_setting_is_named_at_opening(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    path = write(tmp_path / "a.jsonl", ["[]", '{"query": "a", "document": "b"}'])
    with pytest.raises(ValueError, match=named):
        open_sources(SourceConfig(str(path), **changes), "data.train[2]")


def test_a_file_of_something_else_is_refused_at_opening(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", ["query,document", "a,b"])
    with pytest.raises(ValueError, match=r"a.jsonl, line 1: not JSON"):
        open_sources(SourceConfig(str(path)))
    with pytest.raises(ValueError, match=r"a.txt is not one of .jsonl, .ndjson, .csv, .tsv, .parquet"):
        open_sources(SourceConfig(str(path.rename(tmp_path / "a.txt"))))
