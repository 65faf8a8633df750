"""What `export_vectors` writes, read back by the engines themselves."""

import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import error_of, run_command
from embeddings import unit_texts
from hypothesis import given
from hypothesis import strategies as st

from colbertz import Index, maxsim
from colbertz.errors import UserError
from colbertz.integrations.export import FixedDimensional, export_vectors, sign_bits

pytest.importorskip("pyarrow")
from pyarrow import feather, parquet

# More documents than one batch has; the second of them is deleted, and the third has no text.
LENGTHS = [3 + i % 7 for i in range(300)]
DIM = 16


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    count = len(LENGTHS)
    index = Index.build(
        tmp_path_factory.mktemp("export") / "index",
        unit_texts(LENGTHS, DIM),
        ids=[f"dé/{i}" for i in range(count)],
        texts=[None if i == 2 else f"text {i}\n\x0b„x“" for i in range(count)],
        metadata=[{"number": i, "tags": ["a", None]} for i in range(count)],
    )
    index.delete(["dé/1"])
    return index


@pytest.fixture(scope="module")
def embeddings(index: Index) -> list[np.ndarray]:
    snapshot = index.snapshot
    return [text.numpy() for text in snapshot.decode(snapshot.doc_idx_in(snapshot.live))]


@pytest.fixture(scope="module")
def encodings(index: Index) -> np.ndarray:
    snapshot = index.snapshot
    return FixedDimensional(DIM).documents(snapshot.decode(snapshot.doc_idx_in(snapshot.live))).numpy()


def check_rows(rows: list[dict[str, Any]], index: Index) -> None:
    assert [(row["id"], row["text"], json.loads(row["metadata"])) for row in rows] == [
        (document.id, document.text, document.metadata) for document in index
    ]


def query(index: Index) -> tuple[np.ndarray, dict[str, float]]:
    """A query, and the MaxSim of each document with it."""
    queries = unit_texts([4], DIM, seed=9)
    snapshot = index.snapshot
    scores = maxsim(queries, snapshot.decode(snapshot.doc_idx_in(snapshot.live)))[0]
    return queries.values.numpy(), dict(zip(index.ids(), scores.tolist()))


@pytest.mark.parametrize(("name", "read"), [("v.parquet", parquet.read_table), ("v.arrow", feather.read_table)])
def test_arrow(
    name: str, read: Any, index: Index, embeddings: list[np.ndarray], encodings: np.ndarray, tmp_path: Path
) -> None:
    run_command("export-vectors", index.path, "--to", "arrow", "--out", tmp_path / name, "--fde")
    table = read(tmp_path / name)
    assert table.column_names == ["id", "text", "metadata", "vectors", "fde"]
    rows = table.to_pylist()
    check_rows(rows, index)
    for row, expected in zip(rows, embeddings):
        assert np.array_equal(np.array(row["vectors"], np.float32), expected)
    np.testing.assert_allclose(np.array([row["fde"] for row in rows]), encodings, atol=1e-6)


def test_arrow_of_bits(index: Index, embeddings: list[np.ndarray], tmp_path: Path) -> None:
    assert export_vectors(index, "arrow", tmp_path / "v.parquet", bits=True) == len(index)
    rows = parquet.read_table(tmp_path / "v.parquet").to_pylist()
    check_rows(rows, index)
    for row, expected in zip(rows, embeddings):
        assert np.array_equal(np.unpackbits(np.array(row["bits"], np.uint8), axis=1), expected > 0)


def test_lancedb(index: Index, embeddings: list[np.ndarray], encodings: np.ndarray, tmp_path: Path) -> None:
    lancedb = pytest.importorskip("lancedb")
    run_command("export-vectors", index.path, "--to", "lancedb", "--out", tmp_path / "db", "--fde", "--name", "notes")
    table = lancedb.connect(str(tmp_path / "db")).open_table("notes")
    rows = table.to_arrow().to_pylist()
    check_rows(rows, index)
    for row, expected, encoding in zip(rows, embeddings, encodings):
        assert np.array_equal(np.array(row["vectors"], np.float32), expected)
        np.testing.assert_allclose(row["fde"], encoding, atol=1e-6)
    vectors, scores = query(index)
    found = table.search(vectors, vector_column_name="vectors").distance_type("cosine").limit(5).to_list()
    assert [row["id"] for row in found] == sorted(scores, key=lambda doc_id: -scores[doc_id])[:5]


def test_qdrant(index: Index, embeddings: list[np.ndarray], encodings: np.ndarray, tmp_path: Path) -> None:
    qdrant = pytest.importorskip("qdrant_client")
    run_command("export-vectors", index.path, "--to", "qdrant", "--out", tmp_path / "db", "--fde")
    client = qdrant.QdrantClient(path=str(tmp_path / "db"))
    try:
        points, _ = client.scroll("documents", limit=1000, with_vectors=True)
        by_id = {point.payload["id"]: point for point in points}
        for document, expected, encoding in zip(index, embeddings, encodings, strict=True):
            point = by_id.pop(document.id)
            assert (point.payload["text"], point.payload["metadata"]) == (document.text, document.metadata)
            np.testing.assert_allclose(point.vector["colbert"], expected, atol=1e-6)
            np.testing.assert_allclose(point.vector["fde"], encoding, atol=1e-6)
        assert by_id == {}
        vectors, scores = query(index)
        found = client.query_points("documents", query=vectors.tolist(), using="colbert", limit=5).points
    finally:
        client.close()
    best = sorted(scores, key=lambda doc_id: -scores[doc_id])[:5]
    assert [point.payload["id"] for point in found] == best
    np.testing.assert_allclose([point.score for point in found], [scores[doc_id] for doc_id in best], rtol=1e-5)


def test_a_qdrant_collection_is_new_or_not_there(index: Index) -> None:
    """`write_collection` serves folders and servers; here it writes to a client in memory."""
    qdrant = pytest.importorskip("qdrant_client")
    from colbertz.integrations.export.batches import Source
    from colbertz.integrations.export.qdrant import write_collection

    client = qdrant.QdrantClient(":memory:")
    source = Source(index.snapshot, None, True, False)
    write_collection(source, client, "notes")
    assert client.count("notes").count == len(index)
    with pytest.raises(UserError, match="a Qdrant collection 'notes' already"):
        write_collection(source, client, "notes")
    other_dim = FixedDimensional(DIM + 1)  # it fails when the first batch is read
    with pytest.raises(UserError, match="must be"):
        write_collection(Source(index.snapshot, other_dim, False, False), client, "broken")
    assert [collection.name for collection in client.get_collections().collections] == ["notes"]


def test_a_qdrant_server_that_does_not_answer(index: Index, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("qdrant_client")
    with socket.socket() as unused:  # bound and not listening: connections are refused
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        message = error_of(capsys, "export-vectors", index.path, "--to", "qdrant", "--out", url)
    assert message.startswith(f"the Qdrant server {url} cannot be written to: ")


@pytest.mark.parametrize("bits", [False, True])
def test_vespa(bits: bool, index: Index, embeddings: list[np.ndarray], encodings: np.ndarray, tmp_path: Path) -> None:
    out = tmp_path / "feed.jsonl"
    export_vectors(index, "vespa", out, name="note", fde=FixedDimensional(DIM), bits=bits)
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").split("\n")[:-1]]
    for line, document, expected, encoding in zip(lines, index, embeddings, encodings, strict=True):
        fields = line["fields"]
        assert line["put"] == f"id:note:note::{document.id}" and fields["id"] == document.id
        # Vespa refuses control characters, and has no null.
        assert fields.get("text") == (document.text and document.text.replace("\x0b", " "))
        assert json.loads(fields["metadata"]) == document.metadata
        blocks = fields["colbert"]["blocks"]
        assert list(blocks) == [str(i) for i in range(len(expected))]
        if bits:
            found = np.array([list(bytes.fromhex(block)) for block in blocks.values()], np.uint8)
            assert np.array_equal(np.unpackbits(found, axis=1), expected > 0)
        else:
            assert np.array_equal(np.array([*blocks.values()], np.float32), expected)
        np.testing.assert_allclose(fields["fde"]["values"], encoding, atol=1e-6)


@given(st.integers(0, 5), st.integers(1, 20), st.integers(0, 100))
def test_bits_begin_with_the_most_significant(num_tokens: int, dim: int, seed: int) -> None:
    values = torch.randn(num_tokens, dim, generator=torch.Generator().manual_seed(seed))
    packed = sign_bits(values)
    assert packed.dtype == np.uint8 and packed.shape == (num_tokens, (dim + 7) // 8)
    for row, bytes_of_row in zip(values.tolist(), packed):
        digits = "".join(f"{byte:08b}" for byte in bytes_of_row)
        assert digits == "".join("1" if value > 0 else "0" for value in row).ljust(len(digits), "0")


def test_nothing_half_written_stays(index: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    strange = Index.build(tmp_path / "index", unit_texts([2, 2], DIM), ids=["fine", "not\x00fine"])
    (tmp_path / "feed.jsonl").write_text("old")
    message = error_of(capsys, "export-vectors", strange.path, "--to", "vespa", "--out", tmp_path / "feed.jsonl")
    assert "'not\\x00fine' has a control character" in message
    assert (tmp_path / "feed.jsonl").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["feed.jsonl", "full", "index"]
    for target, package in (("lancedb", "lancedb"), ("qdrant", "qdrant_client")):
        pytest.importorskip(package)
        message = error_of(capsys, "export-vectors", index.path, "--to", target, "--out", tmp_path / "full")
        assert "is not an empty folder" in message


def test_an_index_without_documents_is_refused(tmp_path: Path) -> None:
    index = Index.build(tmp_path / "index", unit_texts([2], DIM), ids=["a"])
    index.delete(["a"])
    with pytest.raises(UserError, match="no documents to export"):
        export_vectors(index, "vespa", tmp_path / "feed.jsonl")
