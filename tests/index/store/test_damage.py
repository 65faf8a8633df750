"""What an index says when its files are damaged or not its own."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from colbertz import Index, Ragged
from colbertz.errors import UserError
from colbertz.files import sha256
from colbertz.index.store.checksums import quick_checksum
from colbertz.index.store.manifest import sealed

DIM = 16


def random_ragged(lengths: list[int], seed: int = 0) -> Ragged:
    values = torch.randn(sum(lengths), DIM, generator=torch.Generator().manual_seed(seed))
    return Ragged.from_lengths(torch.nn.functional.normalize(values, dim=1), lengths)


def edit_manifest(root: Path, edit: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Change a manifest, and its own checksum with it, if it still has one."""
    path = root / "manifest.json"
    manifest = edit(json.loads(path.read_text()))
    path.write_text(sealed(json.dumps(manifest), manifest.get("sha256", "none")))


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return Index.build(tmp_path / "index", random_ragged([3, 1, 5, 2] * 2))


FILES = [
    *("codes.npy", "residuals.npy", "inverse_norms.npy", "doclens.npy", "ivf.npy", "ivf_lengths.npy"),
    *("documents.sqlite", "deleted-000002.npy", "centroids.npy", "bucket_weights.npy"),
]


@pytest.mark.parametrize("name", FILES)
def test_truncated_and_missing_and_changed_files(name: str, index: Index) -> None:
    index.delete(["1"])
    (file,) = index.path.rglob(name)
    content = file.read_bytes()
    for damaged in (content[:-1], content + b"\0", content[:-1] + bytes([content[-1] ^ 1]), b""):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"{name} is damaged: it is not what was written"):
            Index.open(index.path)
        with pytest.raises(ValueError, match=rf"{name} is damaged: its checksum"):
            index.check()
    file.unlink()
    with pytest.raises(ValueError, match=rf"damaged: .*{name} is missing"):
        Index.open(index.path)


def test_check_finds_a_bit_that_opening_does_not_look_at(tmp_path: Path) -> None:
    index = Index.build(tmp_path / "index", random_ragged([100] * 200))
    index.check()
    file = tmp_path / "index/segment-000001/residuals.npy"
    content = bytearray(file.read_bytes())
    content[6000] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"residuals\.npy is damaged: its checksum"):
        Index.open(tmp_path / "index").check()


def edited(**changes: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda manifest: manifest | changes


def edited_segment(**changes: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda manifest: manifest | {"segments": [manifest["segments"][0] | changes]}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (edited(format="fast-plaid"), "not the manifest of a colbertz index"),
        (edited(version=6), "has index format 6 and this colbertz reads 2 to 5: upgrade colbertz"),
        (edited(version=1), "has index format 1 and this colbertz reads 2 to 5: build the index again"),
        (edited(version="2"), "`version` is '2'"),
        (edited(version=2), "unknown fields sha256"),
        (edited(generation=None), "generation is None and must be an integer of at least 1"),
        (edited(generation=True), "generation is True"),
        (edited(trained_on=10**400), "trained_on is 1000"),
        (edited(next_number=-1), "next_number is -1 and must be an integer of at least 0"),
        (edited(model=7), "model is 7"),
        (edited(fingerprint=[float("nan")] * DIM), f"fingerprint is .* must be {DIM} numbers"),
        (edited(fingerprint=[0.5]), f"fingerprint is .0.5. and must be {DIM} numbers"),
        (edited(encoding={"backend": "torch"}), "missing 1 required positional argument: 'dtype'"),
        (edited(encoding={"backend": "torch", "dtype": 16}), "must hold two strings"),
        (edited(nbits=3), "nbits is 3 and must be one of 1, 2, 4, 8"),
        (edited(embedding_dim=8), "codec is not what its manifest says"),
        (edited(nbits=2), "codec is not what its manifest says"),
        (edited(codec="../elsewhere"), r"codec '\.\./elsewhere'"),
        (edited(codec=7), "codec 7"),
        (edited(surprise=1), "unknown fields surprise"),
        (edited(codec="codec-٠٠٠٠٠١"), "codec"),
        (edited(files={"a": 1}), "is damaged"),
        (edited(files={}), r"no checksum of codec-000001/avg_residual\.npy"),
        (edited(segments=[7]), "is damaged"),
        (edited_segment(num_documents=7), "is damaged"),
        (edited_segment(num_documents=0), "num_documents is 0 and must be an integer of at least 1"),
        (edited_segment(num_far=100), "the counts of .* contradict each other"),
        (edited_segment(num_deleted=2), "deleted is None where 2 documents are deleted"),
        (edited_segment(num_deleted=2, deleted="../deleted-000001.npy"), "deleted is '../deleted-000001.npy'"),
        (lambda manifest: manifest | {"segments": manifest["segments"] * 2}, "two segments have the same name"),
        (edited_segment(num_tokens=21), r"codes\.npy is damaged: it has the shape \(22,\), not \(21\)"),
        (edited_segment(name="../elsewhere"), r"segment '\.\./elsewhere'"),
        (edited_segment(surprise=1), "surprise"),
    ],
)
def test_a_manifest_that_is_wrong(edit: Callable[[dict[str, Any]], dict[str, Any]], message: str, index: Index) -> None:
    edit_manifest(index.path, edit)
    with pytest.raises(ValueError, match=message):
        Index.open(index.path)
    with pytest.raises(ValueError, match=message):
        index.add(random_ragged([2]))
    rebuilt = Index.build(index.path, random_ragged([4]), ids=["new"], overwrite=True)
    assert [hit.id for hit in rebuilt.search(random_ragged([2]))[0]] == ["new"]
    assert len(list(index.path.iterdir())) == 3, "the damaged index is gone"


def test_every_flipped_bit_of_a_manifest_is_found(index: Index) -> None:
    """Its own checksum was once missing: another number was believed."""
    path = index.path / "manifest.json"
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        with pytest.raises(UserError):
            Index.open(index.path)


def test_a_manifest_that_is_nested_too_deeply(index: Index) -> None:
    (index.path / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="damaged: maximum recursion"):
        Index.open(index.path)


def test_version_2_is_read_and_the_next_change_writes_version_3(index: Index) -> None:
    stray = index.path / "segment-000001" / ".DS_Store"
    stray.write_text("of another program")
    size, crc = quick_checksum(stray)

    def as_version_2(manifest: dict[str, Any]) -> dict[str, Any]:
        named = {"segment-000001/.DS_Store": {"size": size, "quick": crc, "sha256": sha256(stray)}}
        old = manifest | {"version": 2, "files": manifest["files"] | named}
        return {name: value for name, value in old.items() if name not in ("sha256", "encoding")}

    query = random_ragged([4], seed=5)
    before = index.search(query)
    edit_manifest(index.path, as_version_2)
    old = Index.open(index.path)
    assert old.search(query) == before and old.manifest.encoding is None
    old.delete(["1"])
    old.check()
    assert json.loads((index.path / "manifest.json").read_text())["version"] == 3


def test_directories_that_are_not_an_index(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such directory"):
        Index.open(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"not a colbertz index: it has no manifest\.json"):
        Index.open(tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": "colb')
    with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
        Index.open(tmp_path)


@pytest.mark.parametrize("name", ["notes.txt", "build/main.o", "segment-mine/codes.npy", "codec-000001.txt"])
def test_other_directories_and_files_are_left_alone(name: str, tmp_path: Path) -> None:
    """Directories called `build` and `segment-…` of other programs were once removed."""
    file = tmp_path / "mine" / name
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    with pytest.raises(FileExistsError, match="holds other files and no index"):
        Index.build(tmp_path / "mine", random_ragged([3]), overwrite=True)
    with pytest.raises(ValueError, match="it is a file; name a directory"):
        Index.build(file, random_ragged([3]), overwrite=True)
    assert files(tmp_path) == {f"mine/{name}": b"mine"}


def test_other_files_beside_an_index_stay(index: Index) -> None:
    (index.path / "segment-notes.txt").write_text("mine")
    index.add(random_ragged([3], seed=1))
    index.compact()
    Index.build(index.path, random_ragged([3]), overwrite=True)
    assert (index.path / "segment-notes.txt").read_text() == "mine"
