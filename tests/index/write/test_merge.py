"""Merging after changes: how many segments there are, that nothing else changes by it, and what happens if it fails."""

import functools
import json
import logging
import math
import os
import resource
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from colbertz import Index, Ragged
from colbertz.errors import UserError
from colbertz.index.store.layout import SegmentFiles
from colbertz.index.store.manifest import SegmentInfo
from colbertz.index.write.merge import due_merge

DIM = 16


def embeddings(lengths: Sequence[int], seed: int) -> Ragged:
    values = torch.randn(sum(lengths), DIM, generator=torch.Generator().manual_seed(seed))
    return Ragged.from_lengths(torch.nn.functional.normalize(values, dim=1), list(lengths))


def live_tokens(info: SegmentInfo) -> int:
    return info.num_tokens * (info.num_documents - info.num_deleted) // info.num_documents


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return Index.build(tmp_path / "index", embeddings([3] * 20, 0), texts=[f"old text {i}" for i in range(20)])


def add_many(index: Index, count: int) -> None:
    """One document at a time, with ids that begin with "new"."""
    for number in range(count):
        row: dict[str, Any] = {"ids": [f"new{number}"], "texts": [f"new text {number}"], "metadata": [{"n": number}]}
        index.add(embeddings([2 + number % 3], 1 + number), **row)


changes = st.lists(
    st.one_of(
        st.lists(st.integers(1, 6), min_size=1, max_size=5),  # the lengths of documents to add
        st.integers(2, 5),  # delete each so-manieth document
    ),
    max_size=12,
)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(changes=changes)
def test_merges_change_nothing_but_the_number_of_segments(
    changes: list[Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """After any changes each document is found with the text, metadata and codes that it was added with, in order."""
    root = tmp_path_factory.mktemp("merges") / "index"
    index = Index.build(root, embeddings([3] * 5, 0), texts=[f"text {i}" for i in range(5)])
    expected = {document.id: (document, index.snapshot.decode(np.array([i]))) for i, document in enumerate(index)}
    generation = index.manifest.generation
    for number, change in enumerate(changes):
        if isinstance(change, list):
            ids = [f"{number}-{i}" for i in range(len(change))]
            texts, metadata = [f"text {doc_id}" for doc_id in ids], [{"number": number}] * len(ids)
            index.add(embeddings(change, 1 + number), ids=ids, texts=texts, metadata=metadata)
            for document in index.get(ids):
                tokens = index.snapshot.decode(index.snapshot.doc_idx_of([document.id]))
                expected[document.id] = (document, tokens)
        else:
            gone = list(expected)[::change]
            index.delete(gone)
            expected = {doc_id: entry for doc_id, entry in expected.items() if doc_id not in gone}
        assert index.ids() == list(expected)
        assert index.manifest.generation >= generation
        generation = index.manifest.generation
        sizes = [live_tokens(info) for info in index.manifest.segments]
        assert all(size > sum(sizes[i + 1 :]) for i, size in enumerate(sizes))
        assert all(2 * info.num_deleted <= info.num_documents for info in index.manifest.segments)
    index.check()
    for opened in (index, Index.open(root)):
        for document, tokens in expected.values():
            assert opened.get(document.id) == document
            decoded = opened.snapshot.decode(opened.snapshot.doc_idx_of([document.id]))
            assert torch.equal(decoded.values, tokens.values)
        texts = {hit.id for hit in opened.search_text(["text"], k=1000)[0]}
        assert texts == set(expected)
    new = index.manifest.segments
    folders = {path.name for path in root.iterdir() if path.name.startswith("segment-")}
    assert folders == {info.name for info in new}


def test_the_number_of_segments_and_of_copies_is_logarithmic() -> None:
    """Every bound that docs/operate.md states, for 3,000 additions of very different sizes, without an index."""
    sizes = np.exp(np.random.default_rng(0).uniform(0, 9, 3000)).astype(int).tolist()
    segments: list[SegmentInfo] = []
    copied = 0
    for number, size in enumerate(sizes):
        segments.append(SegmentInfo(f"segment-{number:06d}", 1, size, 0))
        while (due := due_merge(segments)) is not None:
            merged = sum(info.num_tokens for info in segments[due])
            copied += merged
            segments[due] = [SegmentInfo(f"segment-{number:06d}", 1, merged, 0)]
        num_tokens = sum(info.num_tokens for info in segments)
        assert len(segments) <= math.log2(num_tokens) + 1
    assert copied <= math.log2(sum(sizes)) * sum(sizes)
    assert sum(info.num_tokens for info in segments) == sum(sizes)


def test_the_codec_is_neither_trained_nor_written_again(index: Index) -> None:
    before = {name: checksum for name, checksum in index.manifest.files.items() if name.startswith("codec")}
    for number in range(8):
        index.add(index.snapshot.decode(np.array([number])), ids=[f"again{number}"])
    assert {name: checksum for name, checksum in index.manifest.files.items() if name.startswith("codec")} == before
    assert len(index.manifest.segments) < 5


def test_a_reader_keeps_its_snapshot_through_merges(index: Index) -> None:
    add_many(index, 3)
    reader = Index.open(index.path)
    queries = embeddings([4, 2], 99)
    hits, texts = reader.search(queries, k=100), reader.search_text(["text"], k=100)
    names = {info.name for info in reader.manifest.segments[1:]}
    for number in range(40):
        index.add(embeddings([3], 200 + number), ids=[f"later{number}"])
    assert not names & {path.name for path in index.path.iterdir()}, "the reader's files were merged and removed"
    assert reader.search(queries, k=100) == hits
    assert reader.search_text(["text"], k=100) == texts
    assert reader.ids(where="n = 2") == ["new2"]


def test_a_change_opens_only_what_is_new(index: Index) -> None:
    """Codec and old segments once were read again at each change, twice."""
    before = index.snapshot
    index.add(embeddings([2], 1), ids=["a"])
    assert index.snapshot.codec is before.codec
    assert index.snapshot.segments[0] is before.segments[0]
    index.delete(["3"])
    assert index.snapshot.segments[0].documents is before.segments[0].documents
    assert index.snapshot.segments[0].live is not None
    assert before.segments[0].live is None
    index.add(embeddings([2] * 40, 2))  # larger than all before
    assert len(index.manifest.segments) == 1
    assert index.ids() == Index.open(index.path).ids()


def test_damage_is_not_merged_into_files_with_good_checksums(index: Index, caplog: pytest.LogCaptureFixture) -> None:
    """One flipped bit where opening does not look. The addition itself is complete, and `check` still says what is."""
    index.add(embeddings([6000] * 2, 1), texts=["long", "longer"])
    residuals = SegmentFiles(index.path / index.manifest.segments[-1].name).residuals
    content = bytearray(residuals.read_bytes())
    content[5000] ^= 1
    residuals.write_bytes(content)
    opened = Index.open(index.path)
    with pytest.raises(UserError, match=r"residuals\.npy is damaged"):
        opened.compact()
    with caplog.at_level(logging.WARNING):
        opened.add(embeddings([7000] * 2, 2), ids=["x", "y"])
    assert "the documents were changed, but segments could not be merged" in caplog.text
    assert len(Index.open(index.path)) == 24
    with pytest.raises(UserError, match=r"residuals\.npy is damaged"):
        Index.open(index.path).check()
    assert {path.name for path in index.path.iterdir()} == {
        "manifest.json",
        index.manifest.codec,
        *(info.name for info in Index.open(index.path).manifest.segments),
    }


def in_a_child(function: Callable[[], object]) -> Any:
    """What a function returns in a forked process, whose limits it may lower; JSON values only."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)  # a forked child has none of its parent's threads
            os.write(write, json.dumps(function()).encode())
        except BaseException as error:  # noqa: BLE001
            os.write(write, json.dumps(f"{type(error).__name__}: {error}").encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        content = pipe.read()
    os.waitpid(child, 0)
    return json.loads(content)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors as Linux lists them")
def test_few_descriptors_are_enough_for_many_additions(index: Index) -> None:
    """Each segment once held five descriptors, and at the limit an index could not even be compacted."""

    def change() -> list[Any]:
        used = open_files()
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 24, used + 24))
        mine = Index.open(index.path)
        others = [Index.open(index.path) for _ in range(3)]
        for number in range(40):
            mine.add(embeddings([2], number), ids=[f"new{number}"])
        after = [len(mine.manifest.segments), open_files() - used]
        mine.delete([f"new{number}" for number in range(0, 40, 2)])
        mine.search(embeddings([2, 3], 3))
        mine.compact()
        mine.check()
        return [*after, len(mine), mine.ids()[-1], [len(other) for other in others]]

    segments, descriptors, count, last, others = in_a_child(change)
    assert (count, last, others) == (40, "new39", [20] * 3)
    assert segments <= 7  # log2 of the tokens
    assert descriptors <= segments + len(others)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors as Linux lists them")
def test_too_few_descriptors_are_no_damage(index: Index) -> None:
    """SQLite says "unable to open database file", which was taken for damage."""

    def open_with(spare: int) -> str:
        resource.setrlimit(resource.RLIMIT_NOFILE, (open_files() - 1 + spare, 4096))
        try:
            return str(len(Index.open(index.path)))
        except OSError as error:
            return f"{error.strerror}"

    found = [in_a_child(functools.partial(open_with, spare)) for spare in range(5)]
    assert set(found) == {"Too many open files", "20"}
    assert found == sorted(found, reverse=True)
