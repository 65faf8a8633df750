"""One reader for every format: the same rows, places and messages, in order and by index."""

import csv
import gzip
import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from colbertz.corpus.formats import FORMATS, find_file, open_rows, read_rows, stem_of, suffix_of
from colbertz.corpus.rows import BadRow
from colbertz.training.config import SourceConfig
from colbertz.training.data import open_sources

ROWS = [
    {"query": "what is ß?", "document": 'a ß,\n"quoted"\ttext'},
    {"query": "NA", "document": "null"},
    {"query": "None", "document": "007"},
    {"query": "empty", "document": ""},
]
LINE_FORMATS = [".jsonl", ".ndjson", ".csv", ".tsv"]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows with another library than the one under test."""
    if suffix_of(path) == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    text = io.StringIO(newline="")
    if suffix_of(path) in (".csv", ".tsv"):
        writer = csv.DictWriter(text, list(rows[0]), delimiter="," if suffix_of(path) == ".csv" else "\t")
        writer.writeheader()
        writer.writerows(rows)
    else:
        text.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    data = text.getvalue().encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("suffix", [*FORMATS, *(f"{suffix}.gz" for suffix in LINE_FORMATS)])
def test_every_format_has_the_same_rows(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"pairs{suffix}", ROWS)
    rows = list(read_rows(str(path)))
    assert [row.values for row in rows] == ROWS
    assert len({row.where for row in rows}) == len(ROWS)
    assert (suffix_of(path), stem_of(path)) == (suffix.removesuffix(".gz"), "pairs")


@pytest.mark.parametrize("suffix", [*FORMATS, ".csv.gz"])
def test_training_has_the_rows_and_places_that_reading_in_order_has(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"pairs{suffix}", ROWS)
    (source,) = open_sources(SourceConfig(str(path)))
    rows = pickle.loads(pickle.dumps(source.rows))  # noqa: S301  as loader processes get them
    places = [(rows[index], rows.where(index)) for index in range(len(source))]
    assert places == list(map(tuple, read_rows(str(path))))
    assert source.name == "pairs"


CELL = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8) | st.sampled_from(
    ["", " ", '"', '""', "\n", "\r\n", "a\nb", ",", "\t", '"\n']
)


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None)
@given(
    cells=st.lists(st.tuples(CELL, CELL), min_size=1),
    blank_lines=st.booleans(),
    end=st.sampled_from(["\n", "\r\n"]),
    mark=st.booleans(),
)
def test_csv_that_python_wrote_is_read_as_it_was(
    tmp_path: Path, suffix: str, cells: list[tuple[str, str]], blank_lines: bool, end: str, mark: bool
) -> None:
    """Cells may have delimiters, quotes and line ends; files may have blank lines and a byte order mark."""
    texts = []
    for record in [("a", "b"), *cells]:
        text = io.StringIO(newline="")
        # Python's writer does not quote \r if lines end with \n, so that the cell cannot be read back.
        quoting = csv.QUOTE_ALL if "\r" in "".join(record) else csv.QUOTE_MINIMAL
        delimiter = "," if suffix == ".csv" else "\t"
        csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=quoting).writerow(record)
        texts.append(text.getvalue() + (end if blank_lines else ""))
    path = tmp_path / f"a{suffix}"
    path.write_bytes(("\ufeff" * mark + "".join(texts)).encode())
    expected = [{"a": first, "b": second} for first, second in cells]
    places = [f"{path}, line {1 + ''.join(texts[: index + 1]).count(chr(10))}" for index in range(len(cells))]
    assert list(map(tuple, read_rows(str(path)))) == list(zip(expected, places))
    rows = open_rows(path)
    assert [rows[index] for index in range(rows.num_rows)] == expected
    assert [rows.where(index) for index in range(rows.num_rows)] == places
    assert rows.columns == ["a", "b"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"1,2,3", "line 4: expected 2 cells, as in the header, found 3"),
        (b"1", "line 4: expected 2 cells, as in the header, found 1"),
        (b"1,\xff", "line 4: not UTF-8"),
    ],
)
def test_a_bad_row_of_csv_is_named_and_others_can_be_read_by_index(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'a,b\n"x\ny",z\n' + line + b"\n5,6\n")
    with pytest.raises(BadRow, match=f"a.csv, {message}"):
        list(read_rows(str(path)))
    rows = open_rows(path)
    assert rows.num_rows == 3
    with pytest.raises(BadRow, match=f"a.csv, {message}"):
        rows[1]
    assert (rows[0], rows[2]) == ({"a": "x\ny", "b": "z"}, {"a": "5", "b": "6"})


def read_all(path: Path) -> None:
    list(read_rows(str(path)))


def open_all(path: Path) -> None:
    rows = open_rows(path)
    rows.take(range(rows.num_rows))


@pytest.mark.parametrize("read", [read_all, open_all])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'a,b\n1,2\n3,"4\n5,6\n', "line 3: the row that begins here is quoted wrongly"),
        (b'a,b\n1,"2"3\n', "line 2: the row that begins here is quoted wrongly"),
        (b"a,b,a\n1,2,3\n", "a.csv: the first row must name the columns, and it names 'a' twice"),
    ],
)
def test_csv_that_cannot_be_split_into_rows_is_refused(
    tmp_path: Path, content: bytes, message: str, read: Callable[[Path], None]
) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read(path)


@pytest.mark.parametrize("read", [read_all, open_all])
def test_a_cell_may_be_longer_than_the_limit_of_pythons_csv_module(
    tmp_path: Path, read: Callable[[Path], None]
) -> None:
    """A book is longer than 131,072 characters, the module's limit."""
    path = tmp_path / "a.csv"
    path.write_text(f"a,b\n1,{'x' * 200_000}\n")
    read(path)


@pytest.mark.parametrize("read", [read_all, open_all])
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 9)[:-9], "a.jsonl.gz cannot be read"),
        ("a.csv.gz", b"a,b\n1,2\n", "a.csv.gz cannot be read"),
        ("a.json", b"{}", "a.json is not one of .jsonl, .ndjson, .csv, .tsv, .parquet"),
        ("a.parquet.gz", b"", "a.parquet.gz is not one of"),
    ],
)
def test_files_that_cannot_be_read_are_named(
    tmp_path: Path, name: str, content: bytes, message: str, read: Callable[[Path], None]
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / name)


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_missing_file_has_the_same_message_in_every_format(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"none{suffix}"
    with pytest.raises(FileNotFoundError, match=f"^there is no file {path}$"):
        list(read_rows(str(path)))
    with pytest.raises(FileNotFoundError, match=f"^there is no file {path}$"):
        open_sources(SourceConfig(str(path)))


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", ROWS)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"a.parquet cannot be read as Parquet"):
        list(read_rows(str(path)))
    with pytest.raises(ValueError, match=r"a.parquet cannot be read as Parquet"):
        open_sources(SourceConfig(str(path)))


def test_parquet_is_read_some_rows_at_a_time(tmp_path: Path) -> None:
    """The first row of a file of many row groups must not need the memory of the whole file."""
    path = tmp_path / "large.parquet"
    texts = [f"{number:06} " * 100 for number in range(40_000)]  # 28 MB
    pq.write_table(pa.table({"text": texts}), path, row_group_size=1000)
    before = pa.total_allocated_bytes()
    rows = read_rows(str(path))
    assert next(rows).values == {"text": texts[0]}
    assert pa.total_allocated_bytes() - before < 5_000_000
    assert [row.values["text"] for row in rows] == texts[1:]


def test_parquet_cannot_be_opened_by_index(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"rows of .parquet files cannot be read by index"):
        open_rows(write(tmp_path / "a.parquet", ROWS))


def test_a_file_of_any_format_is_found_by_its_stem(tmp_path: Path) -> None:
    assert find_file(tmp_path, "corpus") is None
    (tmp_path / "corpus.parquet.gz").touch()
    assert find_file(tmp_path, "corpus") is None
    for name in ("corpus.parquet", "corpus.csv.gz", "corpus.jsonl"):
        (tmp_path / name).touch()
        assert find_file(tmp_path, "corpus") == tmp_path / name
