"""Damage in what an interrupted build left: that part is made again, with a message, and the index is the same."""

import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from damage import flip
from stopped_builds import Stop, stop_at
from test_build import files, random_ragged

from colbertz import Index

DOCUMENTS = random_ragged([3, 1, 12, 7, 30, 5, 2, 9] * 5)


def build(root: Path) -> Index:
    def batches(first: int) -> Iterator[object]:
        yield from (DOCUMENTS[i : i + 3] for i in range(first, len(DOCUMENTS), 3))

    return Index.build(root, batches, chunk_tokens=60)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return files(build(tmp_path_factory.mktemp("whole") / "index").path)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index whose build was stopped when some chunks were coded and others were not."""
    root = tmp_path_factory.mktemp("stopped") / "index"
    with pytest.MonkeyPatch.context() as patch:
        stop_at(1 + 2 * 8 + 1 + 4, patch)  # the beginning, each chunk twice, the codec, three coded chunks
        with pytest.raises(Stop):
            build(root)
    assert len(list(root.glob("build/chunks/*.npy"))) == 8 and (root / "build/segment/codes.npy").stat().st_size > 300
    return root


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def flipped(place: int) -> Callable[[Path], None]:
    return lambda path: flip(path, place, 6)


def written(content: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(content)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("progress.json", cut, r"progress\.json is damaged or of another version: the build begins anew"),
        ("progress.json", written("null"), "the build begins anew"),
        ("progress.json", written('{"content": 7, "sha256": ""}'), "the build begins anew"),
        ("progress.json", written("[" * 100_000), "the build begins anew"),
        ("progress.json", flipped(40), "the build begins anew"),
        ("codec/centroids.npy", flipped(300), "codec is damaged: centroids and codes are made again"),
        ("codec/bucket_weights.npy", cut, "centroids and codes are made again"),
        ("codec/avg_residual.npy", lambda path: os.truncate(path, 1 << 40), "centroids and codes are made again"),
        ("codec/avg_residual.npy", Path.unlink, "centroids and codes are made again"),
        ("segment/codes.npy", flipped(129), r"the codes of chunk 0 in .*segment are damaged: they and those after"),
        ("segment/codes.npy", lambda path: path.write_bytes(path.read_bytes()[:300]), "the codes of chunk 1 in"),
        ("segment/codes.npy", Path.unlink, "the codes of chunk 0 in"),
        ("segment/residuals.npy", flipped(128 + 8 * 70), "the codes of chunk 1 in"),
        ("segment/residuals.npy", written(""), "the codes of chunk 0 in"),
        ("segment/inverse_norms.npy", flipped(128 + 4 * 70), "the codes of chunk 1 in"),
        ("chunks/000001.npy", flipped(500), r"000001\.npy is damaged: its embeddings, and those after it, are made"),
        ("chunks/000001.npy", lambda path: os.truncate(path, 1 << 40), r"000001\.npy is damaged"),
        ("chunks/000001.npy", cut, r"000001\.npy is damaged"),
        ("chunks/000001.npy", Path.unlink, r"000001\.npy is damaged"),
        ("chunks/000001.json", cut, r"000001\.npy is damaged"),
        ("chunks/000001.json", flipped(30), r"000001\.npy is damaged"),
        ("segment/documents.sqlite", written("no database"), None),
    ],
)
def test_what_is_damaged_is_made_again(
    name: str,
    damage: Callable[[Path], None],
    message: str | None,
    stopped: Path,
    expected: dict[str, bytes],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A damaged codec or code once went into an index that passed `check`."""
    root = tmp_path / "index"
    shutil.copytree(stopped, root)
    damage(root / "build" / name)
    with caplog.at_level(logging.WARNING):
        index = build(root)
    index.check()
    assert files(root) == expected
    if message is not None:
        assert len(caplog.records) == 1
        assert re.search(message, caplog.records[0].getMessage())


def test_without_damage_nothing_is_said_and_codes_are_kept(
    stopped: Path, expected: dict[str, bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(stopped, tmp_path / "index")
    assert files(build(tmp_path / "index").path) == expected and not caplog.records


@pytest.mark.parametrize("content", ["", '{"settings', "[]"])
def test_a_cut_progress_file_does_not_block_changes(content: str, tmp_path: Path) -> None:
    """It once was a JSON error of every later change."""
    index = Index.build(tmp_path / "index", random_ragged([3, 4]))
    (index.path / "build").mkdir()
    (index.path / "build/progress.json").write_text(content)
    index.add(random_ragged([5]))
    index.delete(["0"])
    index.compact()
    assert index.ids() == ["1", "2"]


def test_a_segment_behind_a_symbolic_link(tmp_path: Path) -> None:
    """After a compact that took effect, the link could not be removed, and every later change failed."""
    index = Index.build(tmp_path / "index", random_ragged([3, 4]))
    elsewhere = tmp_path / "elsewhere"
    (index.path / "segment-000001").rename(elsewhere)
    (index.path / "segment-000001").symlink_to(elsewhere)
    index = Index.open(index.path)
    index.add(random_ragged([5]))
    index.compact()
    index.add(random_ragged([6]))
    assert index.ids() == ["0", "1", "2", "3"]
    assert not (index.path / "segment-000001").exists() and (elsewhere / "codes.npy").exists()
