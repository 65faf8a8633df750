"""Changing metadata in place: a new file of documents for each segment that has some of them, and nothing else."""

import json
from pathlib import Path

import pytest
from embeddings import unit_texts

from colbertz import Index
from colbertz.errors import UnknownDocument, UserError
from colbertz.index.store.manifest import Applied
from colbertz.index.write.update import update_metadata


def test_metadata_changes_in_place(tmp_path: Path) -> None:
    path = tmp_path / "index"
    texts = [f"text number {number}" for number in range(6)]
    metadata = [{"number": number, "kept": "yes"} for number in range(6)]
    index = Index.build(path, unit_texts([3] * 6), texts=texts, metadata=metadata)
    index.add(unit_texts([2], seed=1), ids=["later"], texts=["a later text"])
    old = Index.open(path)
    hits = index.search(unit_texts([4], seed=2), k=7)

    assert update_metadata(path, ["1", "later"], {"number": 9.5, "tags": ["new"]}) == 2
    assert old.refresh() and index.refresh()
    for changed in (old, index, Index.open(path)):
        assert changed.ids("number = 9.5") == ["1", "later"] and changed.count("number < 9") == 5
        assert changed.get("1").metadata == {"number": 9.5, "kept": "yes", "tags": ["new"]}
        assert [hit.id for hit in changed.search_text(["later"], k=1)[0]] == ["later"]
        assert changed.ids() == [*map(str, range(6)), "later"]
        again = changed.search(unit_texts([4], seed=2), k=7)
        assert [(hit.id, hit.score) for hit in again[0]] == [(hit.id, hit.score) for hit in hits[0]]
    assert sorted(file.name for file in path.glob("segment-*/documents*")) == ["documents-000003.sqlite"] * 2
    assert json.loads((path / "manifest.json").read_text())["version"] == 4

    update_metadata(path, ["1"], {"number": 1})
    index.refresh()
    index.check()
    assert len([*path.glob("segment-*/documents*")]) == 2, "the replaced file is removed"
    index.compact()
    assert index.get("1").metadata["number"] == 1 and index.get("later").metadata["number"] == 9.5
    assert json.loads((path / "manifest.json").read_text())["version"] == 3, "older programs can read it again"


def test_a_change_that_is_refused_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "index"
    Index.build(path, unit_texts([3] * 2), metadata=[{"a": 1}, {"a": 2}])
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    for ids, updates, error in (
        (["nobody"], {"a": 3}, UnknownDocument),
        (["0"], {"A": 3}, UserError),
        (["0"], {"a": {1, 2}}, TypeError),
        (["0"], {f"key {number}": 1 for number in range(1001)}, UserError),
    ):
        with pytest.raises(error):
            update_metadata(path, ids, updates)
        assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before


def test_a_manifest_remembers_what_a_server_has_applied(tmp_path: Path) -> None:
    path = tmp_path / "index"
    index = Index.build(path, unit_texts([3] * 2))
    applied = Applied("0123", 7)
    assert update_metadata(path, [], {}, applied=applied) == 0
    index.refresh()
    assert index.manifest.applied == applied and index.manifest.generation == 2
    index.add(unit_texts([3], seed=1))
    index.delete(["0"])
    index.compact()
    index.compact(retrain=True)
    assert Index.open(path).manifest.applied == applied
