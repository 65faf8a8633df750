"""Documents, queries and texts, made of the rows of any format."""

import datetime
import sys
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from colbertz.corpus.documents import Query, read_documents, read_queries, read_texts
from colbertz.corpus.rows import BadRow
from colbertz.document import Document

JSONL = """{"_id": "a", "title": "Rivers", "text": "The Danube flows.", "lang": "en"}
{"_id": "b", "title": "", "text": "No title.", "lang": ""}
"""
CSV = "_id,title,text,lang\na,Rivers,The Danube flows.,en\nb,,No title.,\n"
DOCUMENTS = [
    Document("a", "Rivers The Danube flows.", {"title": "Rivers", "lang": "en"}),
    Document("b", "No title.", {"title": "", "lang": ""}),
]


def written(folder: Path, suffix: str) -> str:
    path = folder / f"corpus{suffix}"
    if suffix == ".parquet":
        columns = {"_id": ["a", "b"], "title": ["Rivers", ""], "text": ["The Danube flows.", "No title."]}
        pq.write_table(pa.table(columns | {"lang": ["en", ""]}), path)
    else:
        path.write_text({".jsonl": JSONL, ".csv": CSV, ".tsv": CSV.replace(",", "\t")}[suffix])
    return str(path)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_every_format_has_the_same_documents(tmp_path: Path, suffix: str) -> None:
    source = written(tmp_path, suffix)
    assert list(read_documents(source)) == DOCUMENTS
    assert list(read_texts(source)) == [document.text for document in DOCUMENTS]
    if suffix != ".tsv":
        assert list(read_queries(source)) == [Query(document.id, str(document.text)) for document in DOCUMENTS]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_whole_numbers_as_ids_are_their_decimal_digits(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"corpus{suffix}"
    numbers = [7, 0, -3, 2**62]
    if suffix == ".parquet":
        pq.write_table(pa.table({"_id": numbers, "text": ["x"] * 4}), path)
    else:
        path.write_text("".join(f'{{"_id": {number}, "text": "x"}}\n' for number in numbers))
    expected = ["7", "0", "-3", "4611686018427387904"]
    assert [document.id for document in read_documents(str(path))] == expected
    assert [query.id for query in read_queries(str(path))] == expected


def test_the_id_may_be_in_the_column_id(tmp_path: Path) -> None:
    """With both, `_id` is the id and `id` is metadata, as in a corpus that was exported from a database."""
    path = tmp_path / "a.csv"
    path.write_text("id,text\nx,one\n")
    assert list(read_documents(str(path))) == [Document("x", "one", {})]
    assert list(read_queries(str(path))) == [Query("x", "one")]
    path.write_text("_id,id,text\nx,7,one\n")
    assert list(read_documents(str(path))) == [Document("x", "one", {"id": 7})]


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_columns_of_numbers_are_numbers_in_the_metadata(tmp_path: Path, delimiter: str) -> None:
    """With text in the column `year`, the filter `year > 2020` would hold for every document."""
    lines = ["_id,text,title,year,price,zip,note,mixed", "1,10,1984,1999,1.5,02139,,1", "2,20,7,,-2e3,10001,,NA"]
    path = tmp_path / ("a.csv" if delimiter == "," else "a.tsv")
    path.write_text("\n".join(lines).replace(",", delimiter))
    first = {"title": "1984", "year": 1999, "price": 1.5, "zip": "02139", "note": "", "mixed": "1"}
    second = {"title": "7", "year": None, "price": -2000.0, "zip": "10001", "note": "", "mixed": "NA"}
    documents = list(read_documents(str(path)))
    assert documents == [Document("1", "1984 10", first), Document("2", "7 20", second)]
    assert isinstance(documents[0].metadata["year"], int)


def test_typed_columns_of_parquet_become_metadata(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    row: dict[str, Any] = {"_id": "x", "text": "one", "year": 1999, "tags": ["a", "b"], "metadata": {"url": "u"}}
    row |= {"day": datetime.date(2020, 1, 2), "time": datetime.datetime(2020, 1, 2, 3, 4), "nothing": None}
    pq.write_table(pa.Table.from_pylist([row]), path)
    metadata = {"url": "u", "year": 1999, "tags": ["a", "b"], "day": "2020-01-02", "time": "2020-01-02T03:04:00"}
    assert list(read_documents(str(path))) == [Document("x", "one", metadata | {"nothing": None})]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"_id": [7.5], "text": ["x"]}, "row 0: `_id` must be a string or a whole number, found 7.5"),
        ({"text": ["x"]}, "row 0: `_id` must be a string or a whole number, there is none"),
        ({"id": [None], "text": ["x"]}, "row 0: `id` must be a string or a whole number, there is none"),
        ({"_id": ["a"], "text": [None]}, "row 0: `text` must be a string, there is none"),
        ({"_id": ["a"], "text": ["x"], "metadata": ["y"]}, "row 0: `metadata` must be an object, found 'y'"),
    ],
)
def test_a_row_that_is_not_a_document_is_named(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(BadRow, match=f"a.parquet, {message}"):
        list(read_documents(str(tmp_path / "a.parquet")))


def test_metadata_that_json_cannot_hold_is_named(tmp_path: Path) -> None:
    """JSON lines may have NaN, which Python's parser reads, and Parquet bytes."""
    (tmp_path / "a.jsonl").write_text('{"_id": "a", "text": "x", "n": NaN}\n')
    with pytest.raises(BadRow, match=r"a.jsonl, line 1: metadata must be JSON values: Out of range float"):
        list(read_documents(str(tmp_path / "a.jsonl")))
    pq.write_table(pa.table({"_id": ["a"], "text": ["x"], "image": [b"\0"]}), tmp_path / "a.parquet")
    with pytest.raises(BadRow, match=r"a.parquet, row 0: metadata must be JSON values: .*bytes"):
        list(read_documents(str(tmp_path / "a.parquet")))


def test_queries_of_tsv_are_lines_of_id_and_text_without_quoting(tmp_path: Path) -> None:
    path = tmp_path / "queries.tsv"
    path.write_text('1\t"to be\n2\tor\tnot\n')
    assert list(read_queries(str(path))) == [Query("1", '"to be'), Query("2", "or\tnot")]
    path.write_text("no tab\n")
    with pytest.raises(BadRow, match=r"queries.tsv, line 1: a query must be an id, a tab and its text, found 'no tab'"):
        list(read_queries(str(path)))


def test_texts_of_other_files_are_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("one, two\r\nthrée\n".encode())
    assert list(read_texts(str(path))) == ["one, two", "thrée"]


def test_stdin_stays_open_after_it_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader wraps stdin, and freeing the wrapper must not close it."""
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(b"one\ntwo\n")))
    assert list(read_texts("-")) == ["one", "two"]
    assert not sys.stdin.buffer.closed
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(JSONL.encode())))
    assert list(read_documents("-")) == DOCUMENTS
    assert not sys.stdin.buffer.closed
