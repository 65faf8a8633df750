"""The documents' file: what was stored comes back, whatever it holds, from any thread, even with the file deleted."""

import gc
import json
import os
import resource
import sqlite3
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from colbertz.document import Document
from colbertz.errors import UserError
from colbertz.index.store.document_writer import write_documents
from colbertz.index.store.documents import Documents
from colbertz.index.store.words import UNICODE61, find_words


def written(path: Path, documents: Iterable[Document], **options: int) -> Documents:
    with write_documents(path, **options) as writer:
        writer.add(documents)
    return Documents(path, writer.count)


EVERY_TYPE = {
    "int": 3,
    "float": -0.5,
    "string": "é \0 🙂",
    "true": True,
    "null": None,
    "list": [1, "a", None, [2.5]],
    "dict": {"a": {"b": []}},
    "huge": 2**70,
    "infinite": -(10**400),
    "empty": "",
}
DOCUMENTS = [
    Document("0", "one two", EVERY_TYPE),
    Document("日本", None, {"year": 2020, "Lang": "en"}),
    Document("", "", {"lang": "de"}),
    Document("a\0b", "nul \0 in it", {}),
    Document("a", "tail", {'"; DROP TABLE fields; --': 1, "": 2, "two words": 3, "[x]`'": 4, "select": 5}),
    Document("A", None, {"id": "mine", "TEXT": "own", "rowid": 7, "number": 8, "metadata": {}}),
]

# What JSON gives back as it was: no NaN, no lone surrogates, no tuples; and keys that can be columns.
characters = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | characters,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(characters, children, max_size=3),
    max_leaves=5,
)
keys = st.text(st.characters(exclude_categories=["Cs", "Lu"], exclude_characters="\0"), max_size=4)


def test_what_was_stored_comes_back(tmp_path: Path) -> None:
    documents = written(tmp_path / "d.sqlite", iter(DOCUMENTS))
    assert list(documents) == DOCUMENTS
    assert documents.get([4, 0, 4]) == [DOCUMENTS[4], DOCUMENTS[0], DOCUMENTS[4]]
    assert documents.get(np.array([1, 2])) == DOCUMENTS[1:3]  # type: ignore[arg-type]
    assert documents[3] == DOCUMENTS[3]
    assert documents.get([]) == []
    assert documents.ids([5, 0]) == ["A", "0"]
    assert documents.local_idx_of(["A", "a", "nobody", "0", "", "a\0b"]) == [5, 4, None, 0, 2, 3]
    assert type(documents[0].metadata["true"]) is bool
    assert len(documents) == 6


@given(metadata=st.lists(st.dictionaries(keys, values, max_size=4), min_size=1, max_size=4), text=characters)
def test_any_metadata_and_text_come_back(
    metadata: list[dict[str, Any]], text: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    expected = [Document(f"{text}{i}", text, entry) for i, entry in enumerate(metadata)]
    documents = written(tmp_path_factory.mktemp("d") / "d.sqlite", expected)
    assert list(documents) == expected
    own = {"id", "text", "metadata", "rowid", "oid", "_rowid_"}
    assert documents.fields == tuple(dict.fromkeys(key for entry in metadata for key in entry if key not in own))


def test_metadata_keys_become_columns(tmp_path: Path) -> None:
    documents = written(tmp_path / "d.sqlite", DOCUMENTS)
    odd = tuple(DOCUMENTS[4].metadata)
    assert documents.fields == (*EVERY_TYPE, "year", "Lang", *odd, "number")
    with documents.reading() as connection:
        (row,) = connection.execute("SELECT * FROM fields WHERE rowid = 0").fetchall()
        langs = connection.execute('SELECT "LANG" FROM fields ORDER BY rowid').fetchall()
    assert row[1:8] == (3, -0.5, "é \0 🙂", 1, None, '[1, "a", null, [2.5]]', '{"a": {"b": []}}')
    assert row[8:11] == (2.0**70, float("-inf"), "")
    assert langs == [(None,), ("en",), ("de",), (None,), (None,), (None,)]


@pytest.mark.parametrize(
    ("documents", "error", "message"),
    [
        ([Document("a"), Document("b"), Document("a")], ValueError, "documents 0 and 2 have the same id 'a'"),
        (
            [Document("a", where="a.csv, line 2"), Document("b"), Document("a", where="a.csv, line 9")],
            ValueError,
            r"documents 0 \(a.csv, line 2\) and 2 \(a.csv, line 9\) have the same id 'a'",
        ),
        ([Document(0)], TypeError, r"document 0: ids must be strings, got 0 \(int\)"),  # type: ignore[arg-type]
        ([Document("a", b"b")], TypeError, r"document 0 \('a'\): texts must be strings"),  # type: ignore[arg-type]
        ([Document("\ud800")], ValueError, "document 0 .* not Unicode"),
        ([Document("a", None, {"k": "\ud800"})], ValueError, "document 0 .* not Unicode"),
        ([Document("a", None, {"\ud800": 1})], ValueError, "document 0 .* not Unicode"),
        ([Document("a", None, [])], TypeError, "metadata must be a dict, got list"),  # type: ignore[arg-type]
        ([Document("a", None, {"x": b""})], TypeError, r"document 0 \('a'\): metadata must be plain JSON values"),
        ([Document("a", None, {"Year": 1, "year": 2})], ValueError, r"\('a'\): two metadata keys .* case of 'year'"),
        ([Document("a", None, {"a\0": 1})], ValueError, r"\('a'\): metadata key 'a\\x00' holds a NUL"),
        ([Document(f"{i}", None, {f"k{i}": 1}) for i in range(1001)], ValueError, "'k1000' is one .* than the 1,000"),
    ],
)
def test_bad_documents(documents: list[Document], error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message), write_documents(tmp_path / "d.sqlite") as writer:
        writer.add(documents)


def test_a_thousand_fields(tmp_path: Path) -> None:
    expected = [Document(f"{i}", None, {f"k{j}": j for j in range(i, 1000, 7)}) for i in range(7)]
    documents = written(tmp_path / "d.sqlite", expected)
    assert len(documents.fields) == 1000
    assert list(documents) == expected


def test_words_and_lengths(tmp_path: Path) -> None:
    texts = ["Crème brûlée, CREME!", None, "", "日本 – creme", "x" * 40_000, "日" * 20_000, "run running"]
    # In Japanese each character begins a word: 日本 and 本.
    expected = [3, 0, 0, 3, 1, 20_000, 2]
    for batch, batches_with_creme in ((1, 2), (40, 1), (1 << 24, 1)):
        path = tmp_path / f"{batch}.sqlite"
        documents = written(path, [Document(f"{i}", text) for i, text in enumerate(texts)], batch_characters=batch)
        assert documents.lengths.tolist() == expected
        assert documents.occurrences(b"creme").tolist() == [0, 0, 3]
        with documents.reading() as connection:
            rows = connection.execute("SELECT first FROM postings WHERE word = ?", (b"creme",)).fetchall()
        assert len(rows) == batches_with_creme
        assert documents.occurrences(b"run").tolist() == [6]
        assert documents.occurrences(b"nothing").tolist() == []
        assert documents.occurrences("日日".encode()).tolist() == [5] * 19_999
        assert documents.occurrences("日".encode()).tolist() == [3] + [5] * 20_000
        ((long, _),) = find_words([(0, "x" * 40_000)])
        assert documents.occurrences(long).tolist() == [4]


def test_many_documents_without_text_and_a_long_one(tmp_path: Path) -> None:
    long = " ".join(f"w{i % 1000}" for i in range(100_000))
    expected = [*(Document(f"{i}") for i in range(2500)), Document("long", long)]
    documents = written(tmp_path / "d.sqlite", expected)
    assert list(documents) == expected
    assert documents.lengths.tolist() == [0] * 2500 + [100_000]
    assert documents.occurrences(b"w7").tolist() == [2500] * 100


@pytest.fixture
def frequent_switches() -> Iterator[None]:
    """Let threads take turns as often as possible, so that errors in what they share appear."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("frequent_switches")
def test_eight_threads_read_a_deleted_file(tmp_path: Path) -> None:
    path = tmp_path / "d.sqlite"
    documents = written(path, (Document(f"id{i}", f"text {i}", {"n": i}) for i in range(3000)))
    path.unlink()
    wrong: list[object] = []

    def read(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(60):
            numbers = random.integers(0, 3000, 10).tolist()
            got = documents.get(numbers)
            if got != [Document(f"id{i}", f"text {i}", {"n": i}) for i in numbers]:
                wrong.append((numbers, got))
            if documents.local_idx_of(documents.ids(numbers)) != numbers:
                wrong.append(numbers)
        if [d.metadata["n"] for d in documents] != list(range(3000)):
            wrong.append("all")

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_threads_wait_for_each_other(tmp_path: Path) -> None:
    documents = written(tmp_path / "d.sqlite", DOCUMENTS)
    reads = [lambda: documents[0], lambda: list(documents), lambda: documents.lengths]
    with documents.reading():
        threads = [threading.Thread(target=read) for read in reads]
        for thread in threads:
            thread.start()
            thread.join(0.05)
        assert all(thread.is_alive() for thread in threads)
    for thread in threads:
        thread.join()


def test_the_file_is_closed_with_the_object(tmp_path: Path) -> None:
    def open_files() -> list[str]:
        return [str(p.readlink()) for p in Path("/proc/self/fd").iterdir() if p.is_symlink()]

    path = tmp_path / "d.sqlite"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        documents = written(path, DOCUMENTS)
        assert str(path) in open_files()
        del documents
        gc.collect()
    assert str(path) not in open_files()


def test_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "d.sqlite"
    written(path, DOCUMENTS)
    with pytest.raises(
        ValueError,
        match=r"d\.sqlite is damaged: it begins at document 0 and ends at document 5 of 7; build the index again",
    ):
        Documents(path, 7)
    content = path.read_bytes()
    for damaged in (b"", b"not a database" * 100, content[:5000], b"\0" * len(content)):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"d\.sqlite is damaged: .*build the index again"):
            Documents(path, 6)
    path.unlink()
    with pytest.raises(ValueError, match="is damaged: unable to open"):
        Documents(path, 6)


def test_a_full_disk(tmp_path: Path) -> None:
    """In a child, because a limit on the size of files would stay with the tests that come after."""
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
        try:
            written(tmp_path / "d.sqlite", DOCUMENTS)
        except OSError as error:
            os._exit(7 if "cannot write" in str(error) else 8)
        os._exit(9)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7


def test_metadata_is_readable_json_in_the_file(tmp_path: Path) -> None:
    documents = written(tmp_path / "d.sqlite", DOCUMENTS[:1])
    with documents.reading() as connection:
        ((metadata,),) = connection.execute("SELECT metadata FROM documents").fetchall()
    assert "é" in metadata
    assert json.loads(metadata) == EVERY_TYPE


def test_words_of_an_old_and_of_a_later_version(tmp_path: Path) -> None:
    """A file that names no splitter has the words of unicode61; one of a splitter that is not known is refused."""
    path = tmp_path / "d.sqlite"
    old = written(path, [Document("a", "日本語 हिन्दी plain")], splitter=UNICODE61)
    assert old.splitter == UNICODE61
    assert old.lengths.tolist() == [5]
    assert old.occurrences("日本語".encode()).tolist() == [0]
    assert old.occurrences("日".encode()).tolist() == []
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (0,)
        connection.execute("PRAGMA user_version = 2")
        connection.commit()
    with pytest.raises(UserError, match="words of splitter 2 and this colbertz knows 1: upgrade it"):
        Documents(path, 1)
