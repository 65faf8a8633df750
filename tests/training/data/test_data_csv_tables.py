"""Directories of CSV and TSV files: found by `datasets`, and read as one file is."""

import csv
import gzip
import io
import os
from pathlib import Path

import pytest

from colbertz.corpus.rows import BadRow
from colbertz.training.config import SourceConfig
from colbertz.training.data import Source, open_sources

# What pandas reads as missing values, numbers and dates.
CELLS = ["NA", "null", "None", "nan", "", "007", "1.50", "2020-01-02", "True", 'a "quote"', "line\nend", "a\tb", "ß"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` keeps its copies in the folder of the test."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def write(path: Path, rows: list[list[str]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter="\t" if ".tsv" in path.name else ",").writerows(rows)
    path.parent.mkdir(exist_ok=True)
    data = text.getvalue().encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def open_one(folder: Path, **options: object) -> Source:
    (source,) = open_sources(SourceConfig(str(folder), **options))  # type: ignore[arg-type]
    return source


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".csv.gz"])
@pytest.mark.parametrize("streaming", [False, True])
def test_cells_stay_strings(tmp_path: Path, suffix: str, streaming: bool) -> None:
    folder = tmp_path / "pairs"
    write(folder / f"train{suffix}", [["query", "document"], *([f"{index}", cell] for index, cell in enumerate(CELLS))])
    source = open_one(folder, streaming=streaming)
    rows = [source.rows[index] for index in range(len(CELLS))]
    assert sorted(rows, key=lambda row: int(row["query"])) == [
        {"query": f"{index}", "document": cell} for index, cell in enumerate(CELLS)
    ]


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
@pytest.mark.parametrize("bad", [["q", "d", "more"], ["q"]])
@pytest.mark.parametrize("line", [2, 3])
def test_a_row_with_a_cell_too_many_or_too_few_is_named(tmp_path: Path, suffix: str, bad: list[str], line: int) -> None:
    """With a cell too many in the first row pandas took the first column for an index, and shifted all others."""
    folder = tmp_path / "pairs"
    rows = [["query", "document"], ["q", "d"], ["q", "d"]]
    rows[line - 1] = bad
    write(folder / f"train{suffix}", rows)
    with pytest.raises(
        BadRow, match=rf"train{suffix}, line {line}: expected 2 cells, as in the header, found {len(bad)}"
    ):
        open_one(folder)
    with pytest.raises(BadRow, match=rf"train{suffix}, line {line}: expected 2 cells"):
        (source,) = open_sources(SourceConfig(str(folder / f"train{suffix}")))
        list(map(source.__getitem__, range(len(source))))


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    folder = tmp_path / "pairs"
    for document in ("one", "two"):
        write(folder / "train.csv", [["query", "document"], ["q", document]])
        os.utime(folder / "train.csv", ns=(0, len(document) + ord(document[0])))
        assert open_one(folder)[0].documents == (document,)


def test_files_with_different_columns_and_empty_ones_are_named(tmp_path: Path) -> None:
    write(tmp_path / "pairs" / "train-1.csv", [["query", "document"], ["q", "d"]])
    write(tmp_path / "pairs" / "train-2.csv", [["query", "answer"], ["q", "d"]])
    with pytest.raises(BadRow, match=r"train-2.csv, line 2: has the columns query, answer, and the first file query"):
        open_one(tmp_path / "pairs")
    write(tmp_path / "empty" / "train.csv", [["query", "document"]])
    with pytest.raises(ValueError, match=r"train.csv holds no rows"):
        open_one(tmp_path / "empty")


def test_splits_of_csv_files(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write(tmp_path / "pairs" / f"{split}.csv", [["query", "document"], ["q", split]])
    assert open_one(tmp_path / "pairs")[0].documents == ("train",)
    assert open_one(tmp_path / "pairs", split="test")[0].documents == ("test",)
