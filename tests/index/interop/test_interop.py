"""Other programs' indexes: a copy in their format can be copied back, their changes are read, damage is an error.

That fast-plaid itself reads what is written here, and we what it writes, is tested in tests/parity/test_fast_plaid.py.
"""

import argparse
import json
import mmap
import os
import resource
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from foreign_indexes import as_stanford, merge
from hypothesis import given
from hypothesis import strategies as st

from colbertz import Index, Ragged
from colbertz.cli import convert as cli
from colbertz.document import Document
from colbertz.errors import UserError
from colbertz.index.interop import convert as converting
from colbertz.index.interop import metadata_db, open_foreign
from colbertz.index.store.detect import detect, require_own
from colbertz.index.store.document_writer import write_documents
from colbertz.index.store.documents import Documents
from colbertz.index.store.manifest import Encoding
from colbertz.index.store.snapshot import Snapshot, open_snapshot

DIM = 16
LENGTHS = [3, 1, 12, 7, 30, 5, 2, 9, 4, 6, 11, 8]
METADATA: list[dict[str, Any]] = [
    {
        "year": 1999 + i,
        "share": i / 7,
        "tags": ["a", {"b": None}],
        "is": i % 2 == 0,
        "none": None,
        'a "b"': 1,
        "id": "x",
    }
    for i in range(len(LENGTHS))
]
THEIRS = pytest.mark.parametrize("program", ["fast-plaid", "next-plaid"])


def random_ragged(lengths: list[int], seed: int = 0) -> Ragged:
    values = torch.randn(sum(lengths), DIM, generator=torch.Generator().manual_seed(seed))
    return Ragged.from_lengths(torch.nn.functional.normalize(values, dim=1), lengths)


def convert(source: Path, target: Path, program: str) -> None:
    """In four chunks of uneven size for fast-plaid and three for next-plaid, and several blocks in a chunk."""
    chunk_documents = 5 if program == "next-plaid" else 3
    converting.convert(source, target, program, chunk_documents=chunk_documents, block_tokens=10)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return build(tmp_path / "source")


def build(root: Path, nbits: int = 4) -> Path:
    """Twelve documents in one segment."""
    ids = [f"d{number}" for number in range(len(LENGTHS))]
    texts = [None if number % 3 == 0 else f"Text – {number}\n" for number in range(len(LENGTHS))]
    Index.build(
        root,
        random_ragged(LENGTHS),
        ids=ids,
        texts=texts,
        metadata=METADATA,
        nbits=nbits,
        model="a/b",
        fingerprint=[0.1] * DIM,
        encoding=Encoding("torch", "bfloat16"),
    )
    return root


def contents(snapshot: Snapshot) -> dict[str, Any]:
    """All that an index holds, except for deleted documents, as objects that can be compared."""
    doc_idx = snapshot.doc_idx_in(snapshot.live)
    encoded = snapshot.encoded(doc_idx)
    codec, manifest = snapshot.codec, snapshot.manifest
    return {
        "codes": encoded.codes.tolist(),
        "residuals": encoded.residuals.tolist(),
        "doclens": snapshot.doclens(doc_idx).tolist(),
        "centroids": codec.centroids.tolist(),
        "cutoffs": codec.quantiser.cutoffs.tolist(),
        "weights": codec.quantiser.weights.tolist(),
        "average": codec.avg_residual.tolist(),
        "threshold": codec.cluster_threshold,
        "documents": list(snapshot.live_documents()),
        "manifest": (
            *(manifest.next_number, manifest.trained_on, manifest.model),
            *(manifest.fingerprint, manifest.encoding),
        ),
        "far": snapshot.estimated_num_far(),
    }


def arrays_of_tokens(snapshot: Snapshot) -> list[list[Any]]:
    encoded = snapshot.encoded(snapshot.doc_idx_in(snapshot.live))
    return [encoded.codes.tolist(), encoded.residuals.tolist()]


def inverse_norms(snapshot: Snapshot) -> np.ndarray:
    return snapshot.encoded(snapshot.doc_idx_in(snapshot.live)).inverse_norms


def arrays(root: Path) -> dict[str, Any]:
    """All files of a foreign index but the database."""
    found: dict[str, Any] = {path.name: np.load(path).tolist() for path in root.glob("*.npy")}
    return found | {path.name: json.loads(path.read_text()) for path in root.glob("*.json")}


# -- there and back ----------------------------------------------------------------------------------------------


@THEIRS
@pytest.mark.parametrize("nbits", [1, 2, 4, 8])
def test_there_and_back_loses_nothing(program: str, nbits: int, tmp_path: Path) -> None:
    original = open_snapshot(build(tmp_path / "source", nbits))
    convert(tmp_path / "source", tmp_path / "theirs", program)
    convert(tmp_path / "theirs", tmp_path / "back", "colbertz")
    assert detect(tmp_path / "theirs") == program
    for snapshot in (open_foreign(tmp_path / "theirs"), open_snapshot(tmp_path / "back")):
        assert contents(snapshot) == contents(original)
        np.testing.assert_allclose(inverse_norms(snapshot), inverse_norms(original), rtol=1e-6)
    convert(tmp_path / "back", tmp_path / "again", program)
    assert arrays(tmp_path / "again") == arrays(tmp_path / "theirs")
    Index.open(tmp_path / "back").check()


@pytest.mark.parametrize("program", ["colbertz", "fast-plaid", "next-plaid"])
def test_deleted_documents_stay_behind_and_segments_become_one(program: str, source: Path, tmp_path: Path) -> None:
    index = Index.open(source)
    index.add(random_ragged([4, 2, 9, 1], seed=1), ids=["e0", "e1", "e2", "e3"], metadata=[{"Year": 3, "new": 0.5}] * 4)
    index.delete(["d0", "d4", "d5", "e1", "e3"])
    convert(source, tmp_path / "target", program)
    snapshot = open_snapshot(tmp_path / "target") if program == "colbertz" else open_foreign(tmp_path / "target")
    assert len(snapshot.segments) == 1
    assert [document.id for document in snapshot.segments[0].documents] == "d1 d2 d3 d6 d7 d8 d9 d10 d11 e0 e2".split()
    assert contents(snapshot) == contents(open_snapshot(source))
    queries = random_ragged([4, 1, 8], seed=2)
    for hits, expected in zip(Index(tmp_path, snapshot).search(queries, 20), index.search(queries, 20), strict=True):
        assert [(hit.id, hit.text, hit.metadata) for hit in hits] == [
            (hit.id, hit.text, hit.metadata) for hit in expected
        ]
        assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in expected], rel=1e-6)


@pytest.mark.parametrize("program", ["colbertz", "fast-plaid", "next-plaid"])
def test_an_index_of_one_document(program: str, tmp_path: Path) -> None:
    Index.build(tmp_path / "source", random_ragged([1]))
    convert(tmp_path / "source", tmp_path / "theirs", program)
    convert(tmp_path / "theirs", tmp_path / "back", "colbertz")
    assert contents(open_snapshot(tmp_path / "back")) == contents(open_snapshot(tmp_path / "source"))


def test_centroids_that_are_no_float16_numbers_come_back(source: Path, tmp_path: Path) -> None:
    """fast-plaid writes such centroids when it adds some."""
    convert(source, tmp_path / "theirs", "fast-plaid")
    centroids = np.load(tmp_path / "theirs/centroids.npy").astype(np.float32) + np.float32(1e-5)
    np.save(tmp_path / "theirs/centroids.npy", centroids)
    np.save(tmp_path / "theirs/cluster_threshold.npy", np.float64(0.5))
    convert(tmp_path / "theirs", tmp_path / "back", "colbertz")
    codec = open_snapshot(tmp_path / "back").codec
    assert codec.centroids.tolist() == centroids.tolist() and codec.cluster_threshold == 0.5


def test_a_model_beside_the_index_is_found_from_elsewhere(tmp_path: Path) -> None:
    Index.build(tmp_path / "source", random_ragged([3]), model="../model")
    convert(tmp_path / "source", tmp_path / "deep/er", "fast-plaid")
    assert open_foreign(tmp_path / "deep/er").manifest.model == str(tmp_path / "model")


@THEIRS
def test_files_are_as_the_program_has_them(program: str, source: Path, tmp_path: Path) -> None:
    root = tmp_path / "theirs"
    convert(source, root, program)
    dtypes = {path.name: np.load(path).dtype for path in root.glob("*.npy")}
    assert {dtypes["0.codes.npy"], dtypes["ivf.npy"]} == {np.dtype("<i8")} and dtypes["ivf_lengths.npy"] == "<i4"
    floats = ["bucket_cutoffs.npy", "bucket_weights.npy", "avg_residual.npy", "cluster_threshold.npy"]
    assert {dtypes[name] for name in floats} == {np.dtype("<f4")}
    assert dtypes["centroids.npy"] == ("<f2" if program == "fast-plaid" else "<f4")
    assert (b"'<u1'" if program == "fast-plaid" else b"'|u1'") in (root / "0.residuals.npy").read_bytes()[:128]
    assert [json.loads((root / f"doclens.{i}.json").read_text()) for i in range(2)] == (
        [[3, 1, 12], [7, 30, 5]] if program == "fast-plaid" else [[3, 1, 12, 7, 30], [5, 2, 9, 4, 6]]
    )
    chunk = {"fast-plaid": (3, 42, 16), "next-plaid": (5, 26, 53)}[program]
    about = json.loads((root / "1.metadata.json").read_text())
    assert (about["num_documents"], about["num_embeddings"], about["embedding_offset"]) == chunk
    codes, lengths = arrays(root), np.load(root / "ivf_lengths.npy").tolist()
    tokens = [code for name in sorted(codes) if name.endswith("codes.npy") for code in codes[name]]
    documents = np.repeat(np.arange(len(LENGTHS)), LENGTHS).tolist()
    numbers = {"num_chunks", "nbits", "num_partitions", "num_embeddings", "avg_doclen", "num_documents"}
    own = {"compress_only"} if program == "fast-plaid" else {"embedding_dim", "next_plaid_compatible"}
    assert set(codes["metadata.json"]) == numbers | own | {"colbertz"}
    pairs = sorted(set(zip(tokens, documents)))
    assert codes["ivf.npy"] == [document for _, document in pairs]
    assert lengths == np.bincount([code for code, _ in pairs], minlength=len(lengths)).tolist()


# -- documents ---------------------------------------------------------------------------------------------------

characters = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | characters,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(characters, children, max_size=3),
    max_leaves=5,
)
keys = st.sampled_from(["_subset_", "_metadata_", "_content_id_", "text", "number", ""]) | st.text(
    st.characters(exclude_categories=["Cs", "Lu"], exclude_characters="\0"), max_size=4
)
documents = st.lists(
    st.builds(Document, characters, st.none() | characters, st.dictionaries(keys, values, max_size=3)),
    min_size=1,
    max_size=5,
    unique_by=lambda document: document.id,
)


@given(st.lists(documents, min_size=1, max_size=2))
def test_any_documents_come_back_from_metadata_db(tmp_path_factory: pytest.TempPathFactory, written: list[Any]) -> None:
    folder = tmp_path_factory.mktemp("db")
    segments = []
    for number, some in enumerate(written):
        with write_documents(folder / f"{number}.sqlite") as writer:
            writer.add(some)
        stored = Documents(folder / f"{number}.sqlite", len(some))
        live = np.arange(len(some)) % 2 == 0
        segments.append(SimpleNamespace(documents=stored, live=live if number else None))
    metadata_db.write(folder / "metadata.db", SimpleNamespace(segments=segments))  # type: ignore[arg-type]
    expected = [*written[0], *(document for some in written[1:] for document in some[::2])]
    assert list(metadata_db.read(folder / "metadata.db", len(expected))) == expected


def metadata_rows(root: Path, *statements: str) -> list[Any]:
    with sqlite3.connect(root / "metadata.db") as connection:
        rows = [connection.execute(statement).fetchall() for statement in statements]
    connection.close()
    return rows[-1]


def test_their_filters_see_the_fields(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "theirs", "fast-plaid")
    found = metadata_rows(tmp_path / "theirs", 'SELECT _subset_, id FROM METADATA WHERE year > 2008 AND "is" = 1')
    assert found == [(10, "d10")]
    types = {name: kind for _, name, kind, *_ in metadata_rows(tmp_path / "theirs", "PRAGMA table_info(METADATA)")}
    assert types["year"] == "INTEGER" and types["share"] == "REAL" and types["tags"] == "TEXT"


def test_rows_that_fast_plaid_deleted_and_added(source: Path, tmp_path: Path) -> None:
    root = tmp_path / "theirs"
    convert(source, root, "fast-plaid")
    metadata_rows(
        root,
        "DELETE FROM METADATA WHERE _subset_ = 3",
        "UPDATE METADATA SET _subset_ = _subset_ - 1 WHERE _subset_ > 3",
        "UPDATE METADATA SET id = '0' WHERE id = 'd0'",
        "INSERT INTO METADATA (_subset_, year, share) VALUES (11, 5, 0.5)",
    )
    found = list(open_foreign(root).segments[0].documents)
    assert [document.id for document in found] == "0 d1 d2 d4 d5 d6 d7 d8 d9 d10 d11 1".split()
    assert found[3].metadata == METADATA[4] and found[11].metadata == {"year": 5, "share": 0.5}


def test_a_database_of_their_own(source: Path, tmp_path: Path) -> None:
    """Rows may be missing; NULL is a field that is not there; the fields `id` and `text` are the user's."""
    root = tmp_path / "theirs"
    convert(source, root, "fast-plaid")
    metadata_rows(
        root,
        "DROP TABLE METADATA",
        "CREATE TABLE METADATA (_subset_ INTEGER PRIMARY KEY, id INTEGER, text TEXT, raw BLOB)",
        "INSERT INTO METADATA VALUES (1, 7, 'a', NULL), (3, NULL, NULL, x'00ff')",
    )
    found = list(open_foreign(root).segments[0].documents)
    assert found[:5] == [
        Document("0"),
        Document("1", None, {"id": 7, "text": "a"}),
        Document("2"),
        Document("3", None, {"raw": "AP8="}),
        Document("4"),
    ]
    (root / "metadata.db").unlink()
    assert list(open_foreign(root).segments[0].documents) == [Document(str(number)) for number in range(12)]


def test_the_two_tables_of_a_newer_next_plaid(source: Path, tmp_path: Path) -> None:
    root = tmp_path / "theirs"
    convert(source, root, "next-plaid")
    metadata_rows(
        root,
        "DROP TABLE METADATA",
        "CREATE TABLE METADATA (_subset_ INTEGER NOT NULL, _content_id_ INTEGER NOT NULL, name TEXT)",
        "CREATE TABLE METADATA_CONTENT (_content_id_ INTEGER PRIMARY KEY, code TEXT)",
        "INSERT INTO METADATA VALUES (1, 5, 'b'), (0, 9, 'a')",
        "INSERT INTO METADATA_CONTENT VALUES (5, 'bb'), (9, 'aa')",
    )
    found = open_foreign(root).segments[0].documents
    assert [found[0].metadata, found[1].metadata] == [{"name": "a", "code": "aa"}, {"name": "b", "code": "bb"}]


# -- layouts -----------------------------------------------------------------------------------------------------


def drop_chunks(root: Path, *numbers: int) -> None:
    for number in numbers:
        for name in ("codes", "residuals"):
            (root / f"{number}.{name}.npy").unlink()


def single_copy(root: Path) -> None:
    merge(root, mtimes=False)
    drop_chunks(root, 0, 1, 2, 3)


def single_copy_and_a_newer_chunk(root: Path) -> None:
    """fast-plaid 1.7 after an update of the last chunk, before the next search."""
    last = {name: np.load(root / f"3.{name}.npy") for name in ("codes", "residuals")}
    for name, array in last.items():
        np.save(root / f"3.{name}.npy", array[:5])
    single_copy(root)
    for name, array in last.items():
        np.save(root / f"3.{name}.npy", array)


def frozen_by_an_older_version(root: Path) -> None:
    single_copy(root)
    for manifest in root.glob("*.manifest.json"):
        manifest.unlink()


def stale_cache(root: Path) -> None:
    """The chunks were written again, with the same sizes, after the merge."""
    merge(root, mtimes=True)
    for path in root.glob("merged_*.npy"):
        np.save(path, np.zeros_like(np.load(path)))
    for chunk in root.glob("?.*.npy"):
        os.utime(chunk, (1, 1))


def chunk_emptied_by_deletions(root: Path) -> None:
    """It has no rows, no documents, and no entry in the manifest."""
    for name in ("codes", "residuals"):
        np.save(root / f"4.{name}.npy", np.load(root / f"3.{name}.npy"))
        np.save(root / f"3.{name}.npy", np.load(root / f"3.{name}.npy")[:0])
    (root / "doclens.4.json").write_text((root / "doclens.3.json").read_text())
    (root / "doclens.3.json").write_text("[]")
    about = json.loads((root / "metadata.json").read_text())
    (root / "metadata.json").write_text(json.dumps(about | {"num_chunks": 5}))


@pytest.mark.parametrize(
    "arrange",
    [
        lambda root: merge(root, mtimes=True),
        lambda root: merge(root, mtimes=True, nested=True),
        single_copy,
        single_copy_and_a_newer_chunk,
        frozen_by_an_older_version,
        stale_cache,
        chunk_emptied_by_deletions,
    ],
)
def test_all_layouts_hold_the_same(arrange: Callable[[Path], None], source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "theirs", "fast-plaid")
    arrange(tmp_path / "theirs")
    assert contents(open_foreign(tmp_path / "theirs")) == contents(open_snapshot(source))


def test_residuals_are_mapped_if_one_file_holds_them(tmp_path: Path) -> None:
    tokens = torch.randn(20_000, 128, generator=torch.Generator().manual_seed(0))  # with less than 1 MB they are read
    documents = Ragged.from_lengths(torch.nn.functional.normalize(tokens, dim=1), [100] * 200)
    Index.build(tmp_path / "ours", documents, nbits=4)
    converting.convert(tmp_path / "ours", tmp_path / "theirs", "fast-plaid")
    merge(tmp_path / "theirs", mtimes=False)
    drop_chunks(tmp_path / "theirs", 0)
    residuals = open_foreign(tmp_path / "theirs").segments[0].arrays.residuals
    while isinstance(residuals, np.ndarray):
        residuals = residuals.base
    assert isinstance(residuals, memoryview) and isinstance(residuals.obj, mmap.mmap)


def test_lists_are_made_where_there_are_none_and_may_be_longer_than_the_centroids(source: Path, tmp_path: Path) -> None:
    root = tmp_path / "theirs"
    convert(source, root, "fast-plaid")
    expected = open_foreign(root).segments[0]
    lengths = np.load(root / "ivf_lengths.npy")
    np.save(root / "ivf_lengths.npy", np.concatenate([lengths, [0, 0, 0]]))
    longer = open_foreign(root).segments[0]
    (root / "ivf.npy").unlink()
    for segment in (longer, open_foreign(root).segments[0]):
        assert segment.arrays.ivf.tolist() == expected.arrays.ivf.tolist() and segment.arrays.ivf.dtype == np.int32
        assert segment.arrays.ivf_offsets.tolist() == expected.arrays.ivf_offsets.tolist()


def test_pylates_folder_and_what_is_none_of_theirs(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "pylate/fast_plaid_index", "fast-plaid")
    assert detect(tmp_path / "pylate") == "fast-plaid"
    assert contents(open_foreign(tmp_path / "pylate")) == contents(open_snapshot(source))
    with pytest.raises(ValueError, match="which colbertz only searches; convert it first"):
        require_own(tmp_path / "pylate")
    assert detect(source) is None and detect(tmp_path) is None and detect(tmp_path / "nothing") is None
    require_own(source)


# -- Stanford ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nbits", [1, 2, 4])
def test_stanfords_index_is_read(nbits: int, tmp_path: Path) -> None:
    index = Index.open(build(tmp_path / "source", nbits))
    root = as_stanford(tmp_path / "source", tmp_path / "theirs")
    assert detect(root) == "stanford"
    snapshot, original = open_foreign(root), contents(open_snapshot(tmp_path / "source"))
    same = ("codes", "residuals", "doclens", "centroids", "cutoffs", "weights")
    assert {name: contents(snapshot)[name] for name in same} == {name: original[name] for name in same}
    queries = random_ragged([4, 1, 8], seed=2)
    for hits, expected in zip(Index(root, snapshot).search(queries, 5), index.search(queries, 5)):
        assert [f"d{hit.id}" for hit in hits] == [hit.id for hit in expected]
        assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in expected], rel=1e-6)
    convert(root, tmp_path / "ours", "colbertz")
    assert contents(open_snapshot(tmp_path / "ours")) == contents(snapshot)


def test_stanfords_threshold_is_estimated_from_what_is_stored(source: Path, tmp_path: Path) -> None:
    snapshot = open_foreign(as_stanford(source, tmp_path / "theirs"))
    segment, codec = snapshot.segments[0], snapshot.codec
    vectors = codec.decode(segment.arrays.codes, segment.arrays.residuals, np.ones_like(segment.arrays.inverse_norms))
    norms = (vectors - codec.centroids[torch.from_numpy(segment.arrays.codes.astype(np.int64))]).norm(dim=1)
    assert codec.cluster_threshold == pytest.approx(float(norms.quantile(0.75)), rel=1e-5)
    # Norms that are equal but for rounding may fall on either side of the threshold.
    certainly, perhaps = ((norms > codec.cluster_threshold * factor).sum() for factor in (1 + 1e-5, 1 - 1e-5))
    assert certainly <= snapshot.manifest.segments[0].num_far <= perhaps


@pytest.mark.parametrize("average", [0.25, [0.25]])
def test_an_early_index_of_stanfords(average: Any, source: Path, tmp_path: Path) -> None:
    """One average residual for all dimensions, and lists of tokens in another file."""
    root = as_stanford(source, tmp_path / "theirs")
    lists = open_foreign(root).segments[0].arrays.ivf.tolist()
    torch.save(torch.tensor(average), root / "avg_residual.pt")
    (root / "ivf.pid.pt").unlink()
    snapshot = open_foreign(root)
    assert snapshot.codec.avg_residual.tolist() == [0.25] * DIM and snapshot.segments[0].arrays.ivf.tolist() == lists


# -- damage ------------------------------------------------------------------------------------------------------


def cut_off(name: str) -> Callable[[Path], None]:
    return lambda root: os.truncate(root / name, (root / name).stat().st_size - 3)


def change(name: str, edit: Callable[[np.ndarray], Any]) -> Callable[[Path], None]:
    return lambda root: np.save(root / name, edit(np.load(root / name)))


def about(**changes: Any) -> Callable[[Path], None]:
    def edit(root: Path) -> None:
        content = json.loads((root / "metadata.json").read_text()) | changes
        (root / "metadata.json").write_text(json.dumps({key: x for key, x in content.items() if x is not None}))

    return edit


def pickled(root: Path) -> None:
    np.save(root / "centroids.npy", np.array([{}]), allow_pickle=True)  # type: ignore[arg-type]


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "metadata cut off": cut_off("metadata.json"),
    "metadata a list": lambda root: (root / "metadata.json").write_text("[]"),
    "no bits": about(nbits=None),
    "three bits": about(nbits=3),
    "other bits": about(nbits=2),
    "a chunk too few": about(num_chunks=3),
    "a chunk too many": about(num_chunks=5),
    "no chunks": about(num_chunks=0, num_documents=0, num_embeddings=0),
    "other documents": about(num_documents=11),
    "doclens missing": lambda root: (root / "doclens.1.json").unlink(),
    "doclens cut off": cut_off("doclens.1.json"),
    "doclens not numbers": lambda root: (root / "doclens.1.json").write_text('["a"]'),
    "a document without tokens": lambda root: (root / "doclens.0.json").write_text("[16, 0, 0]"),
    "codes cut off": cut_off("2.codes.npy"),
    "codes missing": lambda root: (root / "2.codes.npy").unlink(),
    "codes too few": change("2.codes.npy", lambda codes: codes[:-1]),
    "codes no integers": lambda root: [change(f"{i}.codes.npy", lambda x: x.astype(float))(root) for i in range(4)],
    "a code without centroid": change("2.codes.npy", lambda codes: codes + 4096),
    "a negative code": change("2.codes.npy", lambda codes: codes - 4096),
    "residuals cut off": cut_off("2.residuals.npy"),
    "residuals too narrow": change("2.residuals.npy", lambda residuals: residuals[:, 1:]),
    "residuals of another type": change("2.residuals.npy", lambda residuals: residuals.astype(np.int16)),
    "centroids missing": lambda root: (root / "centroids.npy").unlink(),
    "centroids flat": change("centroids.npy", lambda centroids: centroids[0]),
    "centroids too wide": change("centroids.npy", lambda centroids: np.concatenate([centroids, centroids], 1)),
    "pickled": pickled,
    "weights missing": lambda root: (root / "bucket_weights.npy").unlink(),
    "average of another dimension": change("avg_residual.npy", lambda average: average[:3]),
    "lists cut off": cut_off("ivf.npy"),
    "lists no integers": change("ivf.npy", lambda ivf: ivf.astype(float)),
    "lists too short": change("ivf.npy", lambda ivf: ivf[:-1]),
    "lists unsorted": change("ivf.npy", lambda ivf: np.zeros_like(ivf)),
    "lists of other documents": change("ivf.npy", lambda ivf: ivf + 12),
    "list lengths negative": change("ivf_lengths.npy", lambda lengths: np.concatenate([[-1, 1], lengths])),
    "merged codes too short": lambda root: (single_copy(root), change("merged_codes.npy", lambda x: x[:9])(root)),
    "merged and chunk of other size": lambda root: (
        single_copy(root),
        (root / "doclens.0.json").write_text("[3, 1, 11]"),
        about(num_embeddings=97)(root),
    ),
    "no database": lambda root: (root / "metadata.db").write_bytes(b"SQLite format 3\0" + bytes(84)),
    "another database": lambda root: metadata_rows(root, "ALTER TABLE METADATA RENAME TO OTHER"),
    "too many rows": lambda root: metadata_rows(root, "INSERT INTO METADATA (_subset_) VALUES (12)"),
    "metadata no JSON": lambda root: metadata_rows(root, "UPDATE METADATA SET _metadata_ = '{'"),
    "metadata a number": lambda root: metadata_rows(root, "UPDATE METADATA SET _metadata_ = '5'"),
    "metadata blobs": lambda root: metadata_rows(root, "UPDATE METADATA SET _metadata_ = 5"),
    "metadata too deep": lambda root: metadata_rows(
        root, f"UPDATE METADATA SET _metadata_ = '{'[' * 100_000}{']' * 100_000}'"
    ),
    "an id that is bytes": lambda root: metadata_rows(root, "UPDATE METADATA SET id = x'00'"),
    "a text that is a number": lambda root: metadata_rows(root, "UPDATE METADATA SET text = x'00'"),
    "an endless view": lambda root: metadata_rows(
        root,
        "DROP TABLE METADATA",
        "CREATE VIEW METADATA AS WITH RECURSIVE n(_subset_) AS"
        " (SELECT 0 UNION ALL SELECT _subset_ + 1 FROM n) SELECT * FROM n",
    ),
    "a view of huge values": lambda root: metadata_rows(
        root, "DROP TABLE METADATA", "CREATE VIEW METADATA AS SELECT 0 AS _subset_, zeroblob(1000000000) AS x"
    ),
    "a generated column": lambda root: metadata_rows(
        root, "ALTER TABLE METADATA ADD COLUMN x AS (replace(hex(zeroblob(100000000)), '0', '00'))"
    ),
    "a virtual table": lambda root: metadata_rows(
        root, "DROP TABLE METADATA", "CREATE VIRTUAL TABLE METADATA USING fts5(_subset_)"
    ),
    "contents that are an endless view": lambda root: metadata_rows(
        root,
        "ALTER TABLE METADATA ADD COLUMN _content_id_ INTEGER",
        "CREATE VIEW METADATA_CONTENT AS WITH RECURSIVE n(_content_id_) AS"
        " (SELECT 0 UNION ALL SELECT _content_id_ + 1 FROM n) SELECT * FROM n",
    ),
    "contents of an id without end": lambda root: metadata_rows(
        root,
        "ALTER TABLE METADATA ADD COLUMN _content_id_ INTEGER",
        "UPDATE METADATA SET _content_id_ = 1",
        "CREATE TABLE METADATA_CONTENT (_content_id_, name TEXT)",
        "WITH RECURSIVE n(x) AS (SELECT 0 UNION ALL SELECT x + 1 FROM n LIMIT 100000)"
        " INSERT INTO METADATA_CONTENT SELECT 1, x FROM n",
    ),
    "no file": lambda root: ((root / "metadata.db").unlink(), (root / "metadata.db").mkdir()),
    "the same id twice": lambda root: metadata_rows(root, "UPDATE METADATA SET id = 'd1'"),
}


def test_a_page_that_is_in_many_rows_is_damage(tmp_path: Path) -> None:
    """Two pages of the table are the same: the rows of a small file would have no end."""
    path = tmp_path / "metadata.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA page_size = 512")
        connection.execute("CREATE TABLE METADATA (_subset_ INTEGER, name TEXT)")
        connection.executemany("INSERT INTO METADATA VALUES (?, ?)", [(i, f"name {i}") for i in range(2000)])
        connection.commit()
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master").fetchone()
    content = bytearray(path.read_bytes())
    page = content[(root - 1) * 512 : root * 512]
    cells = int.from_bytes(page[3:5], "big")
    places = [int.from_bytes(page[12 + 2 * i : 14 + 2 * i], "big") for i in range(cells)]
    for place in places:  # every child becomes the root page itself
        content[(root - 1) * 512 + place : (root - 1) * 512 + place + 4] = root.to_bytes(4, "big")
    path.write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        list(metadata_db.read(path, 2000))


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_a_clear_error(damage: str, source: Path, tmp_path: Path) -> None:
    root = tmp_path / "theirs"
    convert(source, root, "fast-plaid")
    DAMAGE[damage](root)
    with pytest.raises(ValueError, match=r"damaged|has no|bits a dimension|same id"):
        detect(root) and open_foreign(root)


@pytest.mark.parametrize("name", ["centroids", "buckets", "0.codes", "1.residuals", "ivf.pid", "avg_residual"])
def test_damage_to_stanfords_files(name: str, source: Path, tmp_path: Path) -> None:
    root = as_stanford(source, tmp_path / "theirs")
    cut_off(f"{name}.pt")(root)
    with pytest.raises(ValueError, match="damaged"):
        open_foreign(root)
    torch.save({"a": 1}, root / f"{name}.pt")
    with pytest.raises(ValueError, match="damaged"):
        open_foreign(root)


# -- convert -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, 8])
@pytest.mark.parametrize("program", ["colbertz", "fast-plaid", "next-plaid"])
def test_a_conversion_that_fails_leaves_nothing(program: str, limit: int, source: Path, tmp_path: Path) -> None:
    """In a child process where no file can grow beyond `limit` KB, which is an error of the same kind as a full disk.

    A full disk in the middle of metadata.db was once an error of SQLite, and not an OSError.
    """
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)  # a forked child has none of its parent's threads
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit * 1024, limit * 1024))
        try:
            convert(source, tmp_path / "target", program)
        except OSError:
            os._exit(7)
        finally:
            os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert list(tmp_path.iterdir()) == [source]


def test_what_a_killed_conversion_left_is_replaced(source: Path, tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target.unfinished/segment-000001").mkdir(parents=True)
    (tmp_path / "target.unfinished/0.codes.npy").touch()
    (tmp_path / "target.unfinished/.colbertz-conversion").touch()
    convert(source, tmp_path / "target", "fast-plaid")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "target"]
    assert contents(open_foreign(tmp_path / "target")) == contents(open_snapshot(source))


def test_what_convert_refuses(source: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").touch()
    with pytest.raises(FileExistsError, match="not empty"):
        convert(source, tmp_path / "full", "fast-plaid")
    with pytest.raises(FileExistsError, match="is a file; name a new or an empty directory"):
        convert(source, source / "manifest.json", "fast-plaid")
    with pytest.raises(ValueError, match="format must be one of colbertz, fast-plaid, next-plaid, got 'plaid'"):
        convert(source, tmp_path / "target", "plaid")
    with pytest.raises(FileNotFoundError, match="no such directory"):
        convert(tmp_path / "nothing", tmp_path / "target", "colbertz")
    with pytest.raises(ValueError, match="not a colbertz index"):
        convert(tmp_path / "full", tmp_path / "target", "colbertz")
    Index.open(source).delete([f"d{number}" for number in range(12)])
    with pytest.raises(ValueError, match="no documents left to convert"):
        convert(source, tmp_path / "target", "colbertz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "source"]


@THEIRS
def test_norms_that_the_format_cannot_hold_are_refused(program: str, tmp_path: Path) -> None:
    """They were dropped without a word: scores of the copy were others."""
    embeddings = random_ragged(LENGTHS)
    values = embeddings.values.clone()
    values[sum(LENGTHS[:3])] *= 1.01  # the first token of document 3
    Index.build(tmp_path / "source", Ragged(values, embeddings.offsets), nbits=4)
    with pytest.raises(UserError, match=f"not of unit length, such as one of document '3', and {program} holds"):
        convert(tmp_path / "source", tmp_path / "target", program)
    assert not (tmp_path / "target").exists()
    converting.convert(tmp_path / "source", tmp_path / "without", program, drop_norms=True)
    without, given = open_foreign(tmp_path / "without"), open_snapshot(tmp_path / "source")
    assert arrays_of_tokens(without) == arrays_of_tokens(given)
    dropped = inverse_norms(given) / inverse_norms(without)  # fast-plaid rounds centroids, which changes less
    assert np.flatnonzero(abs(dropped - 1) > 0.005).tolist() == [sum(LENGTHS[:3])]
    convert(tmp_path / "source", tmp_path / "copy", "colbertz")
    copy, source = (open_snapshot(tmp_path / name) for name in ("copy", "source"))
    assert inverse_norms(copy).tolist() == inverse_norms(source).tolist()
    Index.open(tmp_path / "source").delete(["3"])
    convert(tmp_path / "source", tmp_path / "target", program)  # what is left is of unit length


def test_the_command(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    theirs, back = str(tmp_path / "theirs"), str(tmp_path / "back")
    cli.run(parser.parse_args([str(source), theirs, "--to", "next-plaid"]))
    cli.run(parser.parse_args([theirs, back, "--to", "colbertz"]))
    out = capsys.readouterr().out.splitlines()
    assert out == [f"converted from colbertz to next-plaid: {theirs}", f"converted from next-plaid to colbertz: {back}"]
    shutil.rmtree(theirs)
    assert contents(open_snapshot(Path(back))) == contents(open_snapshot(source))
