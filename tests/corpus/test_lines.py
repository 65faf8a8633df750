"""One reader of text: the same content with any line ends, byte order mark, blank lines and compression is the same."""

import gzip
import json
import os
import sys
from collections.abc import Callable
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colbertz.corpus.documents import Query, read_documents, read_queries, read_texts
from colbertz.corpus.formats import open_rows, read_rows
from colbertz.corpus.lines import read_lines, read_text_lines
from colbertz.corpus.rows import BadRow
from colbertz.errors import UserError
from colbertz.evaluation.runs import read_qrels, read_run

# Words without line ends, blanks at their ends, tabs and quotes, which the formats below treat differently.
WORD = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S"), exclude_characters='"'), min_size=1)
TEXT = st.lists(WORD, min_size=1, max_size=3).map(" ".join)
IDS = st.lists(WORD, min_size=1, max_size=4, unique=True)


def values_of(source: str) -> list[dict[str, Any]]:
    return [row.values for row in read_rows(source)]


def values_by_index(source: str) -> list[dict[str, Any]]:
    rows = open_rows(source)
    return rows.take(range(rows.num_rows))


# The name of a file, how it is read, and its lines, made of ids and texts.
READERS: list[tuple[str, Callable[[str], Any], Callable[[str, str], str], list[str]]] = [
    ("a.jsonl", values_of, lambda id, text: json.dumps({"_id": id, "text": text}), []),
    ("a.jsonl", values_by_index, lambda id, text: json.dumps({"_id": id, "text": text}), []),
    ("a.jsonl", lambda s: list(read_documents(s)), lambda id, text: json.dumps({"_id": id, "text": text}), []),
    ("a.csv", values_of, lambda id, text: f'"{id}","{text}"', ["_id,text"]),
    ("a.csv", values_by_index, lambda id, text: f'"{id}","{text}"', ["_id,text"]),
    ("a.tsv", values_of, lambda id, text: f"{id}\t{text}", ["_id\ttext"]),
    ("a.tsv", values_by_index, lambda id, text: f"{id}\t{text}", ["_id\ttext"]),
    ("a.tsv", lambda s: list(read_queries(s)), lambda id, text: f"{id}\t{text}", []),
    ("a.tsv", lambda s: list(read_queries(s)), lambda id, text: f"{id}\t{text}", ["qid\tquery"]),
    ("a.txt", lambda s: list(read_queries(s)), lambda id, text: f"{id}\t{text}", []),
    ("a.txt", lambda s: list(read_texts(s)), lambda id, text: text, []),
    ("a.trec", read_run, lambda id, text: f"{id} Q0 d 1 0.5 x", []),
    ("a.tsv", lambda s: read_qrels(Path(s)), lambda id, text: f"{id}\td\t1", []),
    ("a.tsv", lambda s: read_qrels(Path(s)), lambda id, text: f"1\t{id}\td", ["score\tquery-id\tcorpus-id"]),
    ("a.txt", lambda s: read_qrels(Path(s)), lambda id, text: f"{id} 0 d 1", []),
]


@pytest.mark.parametrize(("name", "read", "line", "header"), READERS)
@settings(max_examples=40, deadline=None)
@given(
    ids=IDS,
    texts=st.lists(TEXT, min_size=4, max_size=4),
    mark=st.booleans(),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    blank_lines=st.sampled_from([[], [""], ["", "  ", ""]]),
    last_end=st.booleans(),
    compressed=st.booleans(),
)
def test_the_same_content_reads_the_same(
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    read: Callable[[str], Any],
    line: Callable[[str, str], str],
    header: list[str],
    ids: list[str],
    texts: list[str],
    mark: bool,
    end: str,
    blank_lines: list[str],
    last_end: bool,
    compressed: bool,
) -> None:
    """A byte order mark in a run changed nDCG@10 from 0.587 to 0.333."""
    folder = tmp_path_factory.mktemp("lines")
    lines = [*header, *map(line, ids, texts)]
    (folder / name).write_bytes("".join(f"{line}\n" for line in lines).encode())
    content = (mark * "\ufeff" + end.join([*lines, *blank_lines]) + last_end * end).encode()
    other = folder / "other" / (f"{name}.gz" if compressed else name)
    other.parent.mkdir()
    other.write_bytes(gzip.compress(content) if compressed else content)
    assert read(str(other)) == read(str(folder / name))


def test_a_lone_carriage_return_ends_no_line_where_others_end_with_a_line_feed(tmp_path: Path) -> None:
    """It made a second query."""
    path = tmp_path / "queries.tsv"
    path.write_bytes(b"1\tone\rhalf\n2\ttwo\x0b\x85\n".replace(b"\x85", "\x85\u2028".encode()))
    assert list(read_queries(str(path))) == [Query("1", "one\rhalf"), Query("2", "two\x0b\x85\u2028")]
    path = tmp_path / "texts.txt"
    path.write_bytes(b"one\rhalf\ntwo")
    assert list(read_texts(str(path))) == ["one\rhalf", "two"]


def test_a_blank_line_between_texts_is_an_empty_text(tmp_path: Path) -> None:
    """Embedding i of `colbertz encode` is that of line i; only blank lines at the end are none."""
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\n\n  \ntwo\n \n\n")
    assert list(read_texts(str(path))) == ["one", "", "", "two"]


def test_joined_files_may_have_byte_order_marks_within(tmp_path: Path) -> None:
    path = tmp_path / "a.trec"
    path.write_text("\ufeffq Q0 d 1 0.5 x\n\ufeffr Q0 d 1 0.5 x\n", "utf-8")
    assert list(read_run(str(path))) == ["q", "r"]
    path = tmp_path / "a.csv"
    path.write_text('\ufeffa,b\n"x\n\ufeffy",\ufeffz\n\ufeff\n', "utf-8")
    assert values_of(str(path)) == values_by_index(str(path)) == [{"a": "x\n\ufeffy", "b": "\ufeffz"}]


@pytest.mark.parametrize(
    ("name", "read", "content"),
    [
        ("a.jsonl", values_of, b'{"_id": "a", "text": "x"}\n{"_id": "b", "text": "caf\xe9"}\n'),
        ("a.jsonl", values_by_index, b'{"_id": "a", "text": "x"}\n{"_id": "b", "text": "caf\xe9"}\n'),
        ("a.csv", values_of, b"_id,text\nb,caf\xe9\n"),
        ("a.csv", values_by_index, b"_id,text\nb,caf\xe9\n"),
        ("a.tsv", lambda s: list(read_queries(s)), b"a\tx\nb\tcaf\xe9\n"),
        ("a.txt", lambda s: list(read_texts(s)), b"x\ncaf\xe9\n"),
        ("a.trec", read_run, b"a Q0 d 1 0.5 x\nb Q0 caf\xe9 1 0.5 x\n"),
        ("a.txt", lambda s: read_qrels(Path(s)), b"a 0 d 1\nb 0 caf\xe9 1\n"),
    ],
)
def test_latin_1_is_refused_by_file_and_line(
    tmp_path: Path, name: str, read: Callable[[str], Any], content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadRow, match=rf"{name}, line 2: not UTF-8: .*0xe9.*iconv -f CP1252"):
        read(str(tmp_path / name))


def test_utf_16_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("one\n".encode("utf-16"))
    with pytest.raises(BadRow, match=r"a.txt, line 1: not UTF-8: .*the file may be in UTF-16"):
        list(read_texts(str(path)))


def test_half_a_character_in_json_is_refused_by_its_line(tmp_path: Path) -> None:
    r"""`\ud83d` without its other half reached the tokenizer and SQLite, which count from their own beginnings."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"_id": "a", "text": "\\ud83d\\ude00"}\n{"_id": "b", "text": "\\uD83D"}\n')
    rows = open_rows(path)
    assert rows[0]["text"] == "😀"
    with pytest.raises(BadRow, match=r"a.jsonl, line 2: has '\\ud83d', half a character, under 'text'"):
        list(read_documents(str(path)))
    with pytest.raises(BadRow, match=r"a.jsonl, line 2: has"):
        rows[1]


@pytest.mark.parametrize("header", ["qid\tquery", "_id\ttext\tsource", "text\t_id", "Query_ID\tQuestion"])
def test_a_header_is_no_query(tmp_path: Path, header: str) -> None:
    """Names of columns that are not known are an error, not a query."""
    path = tmp_path / "queries.tsv"
    row = {"qid": "1", "_id": "1", "query": "one, two", "text": "one, two"}
    path.write_text(f"{header}\n" + "\t".join(row.get(name, "?") for name in header.split("\t")) + "\n")
    if header == "Query_ID\tQuestion":
        with pytest.raises(BadRow, match=r"queries.tsv, line 2: `_id` must be a string"):
            list(read_queries(str(path)))
    else:
        assert list(read_queries(str(path))) == [Query("1", "one, two")]


@pytest.mark.parametrize(
    ("name", "content", "places"),
    [
        ("q.tsv", "1\tone\n2\ttwo\n1\tthree\n", ("line 3", "line 1")),
        ("q.jsonl", '\n{"qid": "1", "query": "a"}\n{"_id": "1", "text": "b"}\n', ("line 3", "line 2")),
        ("q.csv", "text,_id\na,1\nb,1\n", ("line 3", "line 2")),
    ],
)
def test_a_query_id_that_comes_twice_is_refused(
    tmp_path: Path, name: str, content: str, places: tuple[str, str]
) -> None:
    (tmp_path / name).write_text(content)
    message = rf"{name}, {places[0]}: the query id '1' comes twice; it is in .*{name}, {places[1]} too"
    with pytest.raises(BadRow, match=message):
        list(read_queries(str(tmp_path / name)))


def test_stdin_is_read_as_files_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def given_stdin(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(content)))

    given_stdin(b"\xef\xbb\xbfone\rtwo\r\r")
    assert list(read_text_lines("-")) == ["one", "two"]
    given_stdin(b"\xef\xbb\xbfquery\tqid\r\none\t1\r\n")
    assert list(read_queries("-")) == [Query("1", "one")]
    given_stdin(b'\xef\xbb\xbf{"text": "one", "id": "1"}\r\n\r\n')
    assert [document.id for document in read_documents("-")] == ["1"]


def test_lines_of_old_macs_are_read_by_index_in_blocks(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"".join(b'{"a": %d}\r' % number for number in range(50)) + b"\r \r")
    assert values_by_index(str(path)) == [{"a": number} for number in range(50)]
    rows = open_rows(path)
    assert [rows.where(index) for index in np.arange(50)] == [f"{path}, line {line}" for line in range(1, 51)]


def test_a_compressed_file_that_ends_in_long_zeros_is_refused(tmp_path: Path) -> None:
    """The module gzip reads such zeros one by one: a gigabyte of them took minutes."""
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "a"}\n') + bytes(512))
    assert len(list(read_lines(str(path)))) == 1, "some zeros are padding"
    os.truncate(path, 1 << 40)
    with pytest.raises(UserError, match="ends in zeros"):
        list(read_lines(str(path)))
    with pytest.raises(UserError, match="ends in zeros"):
        open_rows(path)


def test_a_compressed_file_of_rows_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(bytes(80 << 20), 1))
    with pytest.raises(UserError, match="unpacks to more than 100 times"):
        open_rows(path)
