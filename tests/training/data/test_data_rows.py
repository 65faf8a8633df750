"""JSON lines by number, and pairs read from them."""

import gzip
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy_training import pairs

from colbertz.training.config import SourceConfig
from colbertz.training.data import BadRow, open_sources, read_pairs, rows
from colbertz.training.data.rows import JsonLines

ANY_LINE = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=20), st.sampled_from(["", " ", "\t", "\r", " \t\r"])
)


def write(path: Path, lines: list[str]) -> Path:
    data = "\n".join(lines).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("block", [1, 2, 7, 1 << 24])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(lines=st.lists(ANY_LINE, min_size=1), newline=st.booleans())
def test_rows_are_the_lines_that_are_not_blank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, lines: list[str], newline: bool
) -> None:
    """Whatever the size of the blocks in which the file is scanned: a line may lie across two of them."""
    monkeypatch.setattr(rows, "_BLOCK", block)
    content = [json.dumps({"t": t}, ensure_ascii=False) if t.strip(" \t\r") else t for t in lines]
    expected = [(number, line) for number, line in enumerate(content, 1) if line.strip(" \t\r")]
    path = write(tmp_path / "a.jsonl", [*content, ""] if newline else content)
    if not expected:
        with pytest.raises(ValueError, match="holds no rows"):
            JsonLines(path)
        return
    read = JsonLines(path)
    assert read.num_rows == len(expected)
    for index, (number, line) in enumerate(expected):
        assert read[index] == json.loads(line)
        assert read.where(index) == f"{path}:{number}"


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_a_pickled_copy_opens_the_file_itself(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a{suffix}", [json.dumps({"n": number, "text": "é" * 1000}) for number in range(100)])
    pickled = pickle.dumps(JsonLines(path))
    assert len(pickled) < 10_000
    copy = pickle.loads(pickled)  # noqa: S301  our own bytes
    assert [row["n"] for row in copy.take(range(100))] == list(range(100))


def test_a_large_file_opens_without_being_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "big.jsonl", ['{"query": "a", "document": "b"}'] * 100_000)
    parsed = []
    monkeypatch.setattr(rows.json, "loads", lambda line: parsed.append(line) or {"query": "a", "document": "b"})
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
    ('{"query": "a"}', r"b.jsonl:3 has no key 'document', only \['query'\]"),
    ('{"query": "a", "document": " "}', "b.jsonl:3 has ' ' under 'document'"),
    ('{"query": 3, "document": "b"}', "b.jsonl:3 has 3 under 'query'"),
    ('{"query": ', "b.jsonl:3 is not JSON"),
    ("[]", r"b.jsonl:3 must be a JSON object, got \[\]"),
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
    with pytest.raises(ValueError, match=r"b.jsonl:1 is not JSON"):
        read_pairs(tmp_path / "b.jsonl")


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_missing_and_empty_files_are_named(tmp_path: Path, content: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no data file .*none\.jsonl"):
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
    with pytest.raises(ValueError, match=r"a.jsonl:1 is not JSON"):
        open_sources(SourceConfig(str(path)))
    with pytest.raises(ValueError, match=r"a.tsv is neither .jsonl, .jsonl.gz, .csv nor .parquet"):
        open_sources(SourceConfig(str(path.rename(tmp_path / "a.tsv"))))
