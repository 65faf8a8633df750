"""Segments that are written without an index around them, and streams of documents."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from colbertz import Index, Ragged
from colbertz.document import Document
from colbertz.index.store.codec import Codec
from colbertz.index.store.manifest import Manifest
from colbertz.index.store.segment import open_segment
from colbertz.index.write.commit import commit, only_writer
from colbertz.index.write.segment_writer import SegmentWriter
from colbertz.index.write.stream import DocumentStream, chunked, in_step, whole_documents

DIM = 16
LENGTHS = [3, 1, 12, 7, 30, 5, 2, 9]
DOCUMENTS = [Document(f"d{i}", f"text {i}", {"n": i}) for i in range(len(LENGTHS))]


def random_ragged(lengths: list[int], seed: int = 0) -> Ragged:
    values = torch.randn(sum(lengths), DIM, generator=torch.Generator().manual_seed(seed))
    return Ragged.from_lengths(torch.nn.functional.normalize(values, dim=1), lengths)


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture
def index(tmp_path: Path) -> Index:
    columns = {
        "ids": [document.id for document in DOCUMENTS],
        "texts": [document.text for document in DOCUMENTS],
        "metadata": [document.metadata for document in DOCUMENTS],
    }
    return Index.build(tmp_path / "index", random_ragged(LENGTHS), **columns)


# -- segments ------------------------------------------------------------------------------------------------------


def test_a_segment_written_in_parts_is_the_one_that_a_build_makes(index: Index, tmp_path: Path) -> None:
    codec, embeddings = Codec.load(index.path / "codec-000001", index.manifest.residual_coding), random_ragged(LENGTHS)
    with SegmentWriter(tmp_path / "segment-000001", codec) as writer:
        for first in range(0, len(DOCUMENTS), 3):
            writer.add(iter(DOCUMENTS[first : first + 3]), embeddings[first : first + 3])
    assert writer.info == index.manifest.segments[0]
    assert files(tmp_path / "segment-000001") == files(index.path / "segment-000001")


def test_coded_tokens_are_written_as_they_are(index: Index, tmp_path: Path) -> None:
    snapshot = index.snapshot
    with SegmentWriter(tmp_path / "segment-000001", snapshot.codec) as writer:
        for block in snapshot.blocks(np.arange(len(DOCUMENTS)), 20):
            writer.add_coded(snapshot.documents(block), snapshot.encoded(block), snapshot.doclens(block))
    assert replace(writer.info, num_far=index.manifest.segments[0].num_far) == index.manifest.segments[0]
    assert files(tmp_path / "segment-000001") == files(index.path / "segment-000001")


def test_segments_of_several_writers_become_an_index_by_one_commit(index: Index, tmp_path: Path) -> None:
    """As on a cluster: each worker has the codec and a folder, and only the one that commits has the index."""
    root, embeddings = tmp_path / "joined", random_ragged(LENGTHS)
    root.mkdir()
    infos = []
    for number, part in enumerate((slice(0, 5), slice(5, 8)), 1):
        with SegmentWriter(root / f"segment-{number:06d}", index.snapshot.codec) as writer:
            writer.add(DOCUMENTS[part], embeddings[part])
        infos.append(writer.info)
    index.snapshot.codec.save(root / "codec-000001")
    old = index.manifest
    manifest = Manifest(1, "codec-000001", tuple(infos), {}, old.embedding_dim, old.nbits, 8, old.num_tokens)
    with only_writer(root):
        commit(root, manifest, [root / "codec-000001", *(root / info.name for info in infos)])
    joined = Index.open(root)
    joined.check()
    assert list(joined) == DOCUMENTS
    queries = random_ragged([4, 2], seed=1)
    assert joined.search(queries, exact=True) == index.search(queries, exact=True)


def test_a_writer_refuses_what_does_not_fit(index: Index, tmp_path: Path) -> None:
    codec = index.snapshot.codec
    broken = random_ragged([2])
    broken.values[1, 1] = float("inf")
    for documents, embeddings, message in (
        (DOCUMENTS[:2], random_ragged([3]), "embeddings of 1 documents for 2 documents"),
        (DOCUMENTS[:1], random_ragged([3, 4]), "embeddings of 2 documents for 1 documents"),
        (DOCUMENTS[:1], broken, "document 0 has embeddings that are NaN, infinite"),
        (DOCUMENTS[:1], Ragged.from_lengths(torch.zeros(2, 8), [2]), "document 0 has dimension 8 .* 16"),
    ):
        with (
            pytest.raises(ValueError, match=message),
            SegmentWriter(tmp_path / "segment", codec) as writer,
        ):
            writer.add(documents, embeddings)
        assert not (tmp_path / "segment/ivf.npy").exists(), "an incomplete segment has no lists"
    with SegmentWriter(tmp_path / "segment", codec) as writer:  # what was left is replaced
        writer.add(DOCUMENTS, random_ragged(LENGTHS))
    assert {path.name: path.read_bytes() for path in (tmp_path / "segment").iterdir()} == {
        path.name: path.read_bytes() for path in (index.path / "segment-000001").iterdir()
    }


def test_an_unfinished_segment_is_continued(index: Index, tmp_path: Path) -> None:
    """What a killed build has coded after its last record of progress is removed, and coded once more."""
    codec, embeddings = index.snapshot.codec, random_ragged(LENGTHS)
    folder = tmp_path / "segment-000001"
    with SegmentWriter(folder, codec) as writer:
        writer.add(DOCUMENTS, embeddings)
    with SegmentWriter(folder, codec, doclens=LENGTHS[:3]) as writer:
        writer.add_tokens(embeddings[3:])
    assert writer.info.num_tokens == sum(LENGTHS)
    assert files(folder) == files(index.path / "segment-000001")
    assert len(open_segment(tmp_path, writer.info, codec)) == len(LENGTHS)


# -- builds from whole documents -----------------------------------------------------------------------------------


def test_a_build_from_whole_documents_makes_the_same_files(index: Index, tmp_path: Path) -> None:
    embeddings = dict(zip([document.id for document in DOCUMENTS], random_ragged(LENGTHS)))

    def embed(batch: list[Document]) -> Ragged:
        assert len(batch) <= 3
        return Ragged.from_list([embeddings[document.id] for document in batch])

    Index.build_from(tmp_path / "from", iter(DOCUMENTS), embed, documents_at_once=3, chunk_tokens=20)
    assert files(tmp_path / "from") == files(index.path)


def test_a_killed_build_from_whole_documents_embeds_only_the_rest(index: Index, tmp_path: Path) -> None:
    embeddings = dict(zip([document.id for document in DOCUMENTS], random_ragged(LENGTHS)))
    embedded: list[str] = []

    def embed(batch: list[Document]) -> Ragged:
        embedded.extend(document.id for document in batch)
        if batch[0].id == "d6" and len(embedded) == 7:
            raise KeyboardInterrupt
        return Ragged.from_list([embeddings[document.id] for document in batch])

    def build(documents: list[Document]) -> None:
        Index.build_from(tmp_path / "from", iter(documents), embed, documents_at_once=1, chunk_tokens=20)

    with pytest.raises(KeyboardInterrupt):
        build(DOCUMENTS)
    embedded.clear()
    build(DOCUMENTS)
    assert embedded[-1] == "d7" and 0 < len(embedded) < 5
    assert files(tmp_path / "from") == files(index.path)


@pytest.mark.parametrize(
    ("documents", "error", "message"),
    [
        (DOCUMENTS[:2], ValueError, "there are embeddings of 1 documents for 2 documents"),
        ([DOCUMENTS[0], DOCUMENTS[0]], ValueError, "documents 0 and 1 have the same id 'd0'"),
        (["a text"], TypeError, r"documents must be objects of colbertz\.Document, got str"),
        ([], ValueError, "an index needs at least one document"),
    ],
)
def test_a_wrong_build_from_documents_leaves_nothing(
    documents: list[Document], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        Index.build_from(tmp_path / "index", documents, lambda batch: random_ragged([3]))
    assert not (tmp_path / "index").exists()


# -- streams -------------------------------------------------------------------------------------------------------


def test_a_stream_gives_back_what_was_put_back() -> None:
    stream = DocumentStream.of(iter(DOCUMENTS))
    taken = stream.take(3)
    stream.put_back(taken)
    assert stream.take(5) == DOCUMENTS[:5]
    assert stream.take(9, or_fewer=True) == DOCUMENTS[5:]
    stream.check_exhausted()
    with pytest.raises(ValueError, match="fewer documents than embeddings: the documents end after 8"):
        stream.take(1)


def test_more_documents_than_embeddings() -> None:
    for stream in (DocumentStream.of(DOCUMENTS[:3]), DocumentStream.from_columns(None, ["a"] * 3, None)):
        with pytest.raises(ValueError, match=r"more (documents|texts) than embeddings: there are only 2 documents"):
            list(in_step(stream, random_ragged([3, 4])))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"ids": ["a", "b"], "texts": ["a"] * 3}, "more texts than embeddings: there are only 2"),
        ({"ids": ["a"], "texts": ["a"] * 3}, "fewer ids than embeddings: the ids end after 1"),
        ({"ids": ["a", "b"], "texts": ["a"], "metadata": [{}, {}]}, "fewer texts than embeddings: .* after 1"),
    ],
)
def test_columns_of_different_lengths(columns: dict[str, list[str]], message: str) -> None:
    stream = DocumentStream.from_columns(**({"ids": None, "texts": None, "metadata": None} | columns))
    with pytest.raises(ValueError, match=message):
        list(in_step(stream, random_ragged([3, 4])))


def test_numbers_are_the_ids_of_documents_without_ids() -> None:
    stream = DocumentStream.from_columns(None, None, [{"a": 1}, {"a": 2}])
    stream.next_number = 7
    assert list(stream) == [Document("7", None, {"a": 1}), Document("8", None, {"a": 2})]
    assert list(whole_documents(DOCUMENTS)) == DOCUMENTS
    assert list(whole_documents(["a", "b"], ids=["x", "y"])) == [Document("x", "a"), Document("y", "b")]


def test_chunks_keep_documents_with_their_embeddings() -> None:
    embeddings = random_ragged(LENGTHS)

    def batches() -> Iterator[tuple[list[Document], Ragged]]:
        for first in range(0, len(DOCUMENTS), 3):
            yield DOCUMENTS[first : first + 3], embeddings[first : first + 3]

    chunks = list(chunked(batches(), 20))
    assert [document for documents, _ in chunks for document in documents] == DOCUMENTS
    assert torch.equal(torch.cat([values.values for _, values in chunks]), embeddings.values)
    for documents, values in chunks:
        assert [LENGTHS[int(document.id[1:])] for document in documents] == values.lengths.tolist()
        assert len(values.values) <= 20 or len(documents) == 1


# -- the lock ------------------------------------------------------------------------------------------------------


def test_where_there_are_no_file_locks_an_index_is_read_and_not_written(index: Index) -> None:
    """As on Windows, whose Python has no module fcntl."""
    code = f"""
import sys
sys.modules["fcntl"] = None
from colbertz import Index
index = Index.open({str(index.path)!r})
assert len(index) == {len(DOCUMENTS)}
try:
    index.delete(["d0"])
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.startswith("writing an index is supported on Linux and macOS only")
