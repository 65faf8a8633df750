"""Directories of JSON files: found by `datasets`, and read as one file is."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from colbertz.corpus.rows import BadRow
from colbertz.errors import UserError
from colbertz.training.config import SourceConfig
from colbertz.training.data import Source, open_sources

# What `datasets` reads as dates or as strings, or refuses, because a column has one type there.
VALUES: list[Any] = [
    "2020-01-02",
    "2020-01-02T03:04:05",
    "NA",
    "",
    7,
    7.5,
    True,
    None,
    ["a", 1],
    {"b": None},
    "ß\u2028",
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` keeps its copies in the folder of the test."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def lines(values: list[Any], **more: Any) -> str:
    return "\n".join(json.dumps({"query": f"{i}", "document": value} | more) for i, value in enumerate(values))


def open_one(folder: Path, **options: Any) -> Source:
    (source,) = open_sources(SourceConfig(str(folder), **options))
    return source


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".jsonl.gz"])
@pytest.mark.parametrize("streaming", [False, True])
def test_values_stay_what_they_are(tmp_path: Path, suffix: str, streaming: bool) -> None:
    """Dates and mixed columns were changed. A byte order mark and CR LF are no part of a row."""
    folder = tmp_path / "pairs"
    write(folder / f"train-1{suffix}", "\ufeff" + lines(VALUES).replace("\n", "\r\n") + "\r\n\r\n")
    write(folder / f"train-2{suffix}", lines(["last"], only_here=1))
    source = open_one(folder, streaming=streaming)
    rows = [source.rows[index] for index in range(len(VALUES) + 1)]
    found = [row["document"] for row in rows]
    assert all(value in found for value in [*VALUES, "last"])
    assert len(found) == len(VALUES) + 1
    if not streaming:
        assert found == [*VALUES, "last"]
        assert source.rows.where(len(VALUES)) == f"{folder}/train-2{suffix}, line 1"
        assert source.rows.where(1) == f"{folder}/train-1{suffix}, line 2"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"query": "q", "document": "d", "query": "r"}', "line 2: the key 'query' comes twice"),
        ('{"query": "q"', "line 2: not JSON"),
        ('{"query": "q", "document": 7}', "line 2: .*document"),
    ],
)
def test_bad_rows_are_named(line: str, message: str, tmp_path: Path) -> None:
    write(tmp_path / "pairs" / "train.jsonl", f'{{"query": "q", "document": "d"}}\n{line}')
    source = open_one(tmp_path / "pairs")
    assert source[0].query == "q"
    with pytest.raises(BadRow, match=f"train.jsonl, {message}"):
        source[1]


@pytest.mark.parametrize("text", ['[{"query": "q", "document": "d"}]', '{\n"query": "q",\n"document": "d"\n}'])
def test_files_that_are_no_json_lines_are_named(text: str, tmp_path: Path) -> None:
    write(tmp_path / "pairs" / "train.json", text)
    with pytest.raises(
        UserError, match=r"train.json is one JSON value over all its lines; write its rows as JSON lines"
    ):
        open_one(tmp_path / "pairs")


def test_splits_of_json_files_in_a_folder_with_the_name_of_a_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`datasets` took the name of the folder for one of its own readers."""
    monkeypatch.chdir(tmp_path)
    for split in ("train", "test"):
        write(Path("json") / f"{split}.jsonl", lines([split]))
    assert open_one(Path("json"))[0].documents == ("train",)
    assert open_one(Path("json"), split="test")[0].documents == ("test",)
