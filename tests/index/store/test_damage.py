"""What an index says when its files are damaged or not its own."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from colbertz import Index, Ragged

DIM = 16


def random_ragged(lengths: list[int], seed: int = 0) -> Ragged:
    values = torch.randn(sum(lengths), DIM, generator=torch.Generator().manual_seed(seed))
    return Ragged.from_lengths(torch.nn.functional.normalize(values, dim=1), lengths)


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
        (edited(version=3), "has index format 3 and this colbertz reads 2: upgrade colbertz"),
        (edited(version=1), "has index format 1 and this colbertz reads 2: build the index again"),
        (edited(version="2"), "`version` is '2'"),
        (edited(generation=None), "must be positive integers"),
        (edited(embedding_dim=8), "codec is not what its manifest says"),
        (edited(nbits=2), "codec is not what its manifest says"),
        (edited(codec="../elsewhere"), r"codec '\.\./elsewhere'"),
        (edited(codec=7), "codec 7"),
        (edited(surprise=1), "unknown fields surprise"),
        (edited(files={"a": 1}), "is damaged"),
        (edited(segments=[7]), "is damaged"),
        (edited_segment(num_documents=7), "is damaged"),
        (edited_segment(num_documents=0), "must be positive integers"),
        (edited_segment(num_tokens=21), "does not hold what its manifest says"),
        (edited_segment(name="../elsewhere"), r"segment '\.\./elsewhere'"),
        (edited_segment(surprise=1), "surprise"),
    ],
)
def test_a_manifest_that_is_wrong(edit: Callable[[dict[str, Any]], dict[str, Any]], message: str, index: Index) -> None:
    path = index.path / "manifest.json"
    path.write_text(json.dumps(edit(json.loads(path.read_text()))))
    with pytest.raises(ValueError, match=message):
        Index.open(index.path)
    with pytest.raises(ValueError, match=message):
        index.add(random_ragged([2]))
    rebuilt = Index.build(index.path, random_ragged([4]), ids=["new"], overwrite=True)
    assert [hit.id for hit in rebuilt.search(random_ragged([2]))[0]] == ["new"]
    assert len(list(index.path.iterdir())) == 3, "the damaged index is gone"


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
