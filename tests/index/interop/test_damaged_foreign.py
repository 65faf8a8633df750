"""Damaged and hostile indexes of other programs, which have no checksums: hits or a `UserError`, never a signal."""

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from damage import REFUSED, SAME, edit_array, flip, flips, outcome, restored
from foreign_indexes import as_stanford, merge
from test_interop import LENGTHS, build, random_ragged

from colbertz import Index
from colbertz.errors import UserError
from colbertz.index.interop import convert as converting

QUERIES = random_ragged([4, 3], seed=3)


def answers(root: Path) -> Any:
    """Whether a search found as many documents as it should."""
    index = Index.open(root)
    return [len(hits) for exact in (False, True) for hits in index.search(QUERIES, 3, exact=exact)] == [3] * 4


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("foreign")
    source = build(folder / "source")
    for name in ("fast-plaid", "next-plaid"):
        converting.convert(source, folder / name, name, chunk_documents=5)
    merge(folder / "next-plaid", mtimes=True)
    found = {name: folder / name for name in ("fast-plaid", "next-plaid")}
    found["stanford"] = as_stanford(source, folder / "stanford")
    assert all(answers(root) for root in found.values())
    return found


@pytest.mark.parametrize("program", ["fast-plaid", "next-plaid", "stanford"])
def test_flipped_bits(program: str, roots: dict[str, Path]) -> None:
    root = roots[program]
    for path in sorted(path for path in root.iterdir() if path.suffix in (".npy", ".pt", ".json")):
        with restored(root):
            for place, bit in flips(path, 3, seed=0):
                flip(path, place, bit)
                assert outcome(lambda: answers(root), True) in (SAME, REFUSED), (path.name, place, bit)
                flip(path, place, bit)


def array(name: str, change: Callable[[np.ndarray], Any]) -> tuple[str, Callable[[Path], None]]:
    return name, lambda path: edit_array(path, lambda x: np.asarray(change(x)))


def content(name: str, change: Callable[[Any], Any]) -> tuple[str, Callable[[Path], None]]:
    return name, lambda path: path.write_text(json.dumps(change(json.loads(path.read_text()))))


def with_first(value: Any, makes_up: int = 0) -> Callable[[Any], Any]:
    """The first number is another one, and the second makes up for the difference, modulo 2^64 if it has to."""

    def change(numbers: Any) -> Any:
        rest = [numbers[1] + makes_up, *numbers[2:]]
        return [value, *rest] if isinstance(numbers, list) else np.array([value, *rest])

    return change


NPY = [
    array("0.residuals.npy", lambda x: np.repeat(x, 100, axis=1)),
    array("0.residuals.npy", lambda x: np.asfortranarray(x)),
    array("0.residuals.npy", lambda x: x.astype(np.int64)),
    array("0.codes.npy", lambda x: x + (1 << 40)),
    array("0.codes.npy", lambda x: -x - 1),
    array("0.codes.npy", lambda x: x.astype(np.float32)),
    array("0.codes.npy", lambda x: x.reshape(-1, 1)),
    array("0.codes.npy", lambda x: x[0]),
    array("ivf.npy", lambda x: x + (1 << 32)),
    array("ivf.npy", lambda x: x[::-1].astype(np.uint64)),
    array("ivf.npy", lambda x: x - 1),
    array("ivf_lengths.npy", lambda x: np.concatenate([[1 << 62] * 4, x.astype(np.int64)])),
    array("ivf_lengths.npy", lambda x: np.concatenate([[-(1 << 40), 1 << 40], x.astype(np.int64)])),
    array("ivf_lengths.npy", lambda x: np.array([(1 << 64) - 5, 5, *x.tolist()], np.uint64)),
    array("ivf_lengths.npy", lambda x: x.astype(np.float32)),
    array("centroids.npy", lambda x: x * np.nan),
    array("centroids.npy", lambda x: x.astype(np.float64) * 1e300),
    array("centroids.npy", lambda x: x[:0]),
    array("bucket_weights.npy", lambda x: x + np.inf),
    array("bucket_cutoffs.npy", lambda x: x[::-1]),
    array("avg_residual.npy", lambda x: x * np.nan),
    array("cluster_threshold.npy", lambda x: x[:0]),
    array("cluster_threshold.npy", lambda x: x + np.inf),
    content("doclens.0.json", with_first(1 << 63)),
    content("doclens.0.json", with_first(-(1 << 62), 1 << 62)),
    content("doclens.0.json", with_first(True)),
    content("doclens.0.json", lambda x: [x]),
    content("metadata.json", lambda x: x | {"nbits": float("inf")}),
    content("metadata.json", lambda x: x | {"num_chunks": 10**12}),
    content("metadata.json", lambda x: x | {"colbertz": [1]}),
    content("metadata.json", lambda x: x | {"colbertz": {"next_number": "7"}}),
    content("metadata.json", lambda x: x | {"colbertz": {"encoding": {"backend": 1}}}),
    content("metadata.json", lambda x: x | {"colbertz": {"fingerprint": [float("nan")]}}),
]
MERGED = [
    content("merged_codes.manifest.json", lambda x: [x]),
    content("merged_codes.manifest.json", lambda x: {"chunks": dict.fromkeys(x, 7)}),
    content("merged_codes.manifest.json", lambda x: {name: entry | {"rows": -5} for name, entry in x.items()}),
    content("merged_codes.manifest.json", lambda x: {name: entry | {"rows": "5"} for name, entry in x.items()}),
    content("merged_codes.manifest.json", lambda x: {name: entry | {"rows": 1 << 62} for name, entry in x.items()}),
    array("merged_codes.npy", lambda x: x[:9]),
    array("merged_residuals.npy", lambda x: np.repeat(x, 3, axis=1)),
]


@pytest.mark.parametrize("trial", range(len(NPY)))
def test_hostile_values(trial: int, roots: dict[str, Path]) -> None:
    """Lengths whose sum wraps around 2^64 once passed for right."""
    name, damage = NPY[trial]
    root = roots["fast-plaid"]
    with restored(root):
        damage(root / name)
        assert outcome(lambda: answers(root), True) == REFUSED


@pytest.mark.parametrize("trial", range(len(MERGED)))
def test_hostile_merged_files(trial: int, roots: dict[str, Path]) -> None:
    name, damage = MERGED[trial]
    root = roots["next-plaid"]
    with restored(root):
        damage(root / name)
        assert outcome(lambda: answers(root), True) == REFUSED


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("0.codes.pt", lambda x: x + (1 << 20)),
        ("0.codes.pt", lambda x: x.float()),
        ("0.codes.pt", lambda x: x.bool()),
        ("0.codes.pt", lambda x: x[0]),
        ("0.codes.pt", lambda x: x.to_sparse()),
        ("0.residuals.pt", lambda x: x.repeat(1, 100)),
        ("0.residuals.pt", lambda x: x[:1].expand(1 << 40, -1)),
        ("0.residuals.pt", lambda x: x.bfloat16()),
        ("centroids.pt", lambda x: x * float("nan")),
        ("centroids.pt", lambda x: x.T),
        ("centroids.pt", lambda x: x[:1].expand(1 << 40, -1)),
        ("avg_residual.pt", lambda x: [x]),
        ("buckets.pt", lambda x: (x[0], x[1], x[1])),
        ("buckets.pt", lambda x: (x[0].flip(0), x[1])),
        ("ivf.pid.pt", lambda x: (x[0] - 1, x[1])),
        ("ivf.pid.pt", lambda x: (x[0], torch.cat([torch.full((4,), 1 << 62), x[1]]))),
    ],
)
def test_hostile_tensors(name: str, change: Callable[[Any], Any], roots: dict[str, Path]) -> None:
    root = roots["stanford"]
    with restored(root):
        torch.save(change(torch.load(root / name, weights_only=True)), root / name)
        assert outcome(lambda: answers(root), True) == REFUSED


def repacked(path: Path) -> None:
    """Compress the parts of a file of PyTorch, one of them a gigabyte of zeros."""
    with zipfile.ZipFile(path) as archive:
        parts = {part: archive.read(part) for part in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for part, content in parts.items():
            archive.writestr(part, content + bytes(1 << 26) * ("/data/" in part))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (repacked, "is compressed"),
        (lambda path: path.write_text("[7, 7]"), "something else than tensors"),
        (lambda path: os.truncate(path, 100), "is damaged"),
    ],
)
def test_files_of_pytorch_that_are_none(damage: Callable[[Path], None], message: str, roots: dict[str, Path]) -> None:
    """Compressed ones took memory without bound, and PyTorch's message advised to run code of the file."""
    root = roots["stanford"]
    with restored(root):
        damage(root / "0.codes.pt")
        with pytest.raises(UserError, match=message) as caught:
            Index.open(root)
    assert "\n" not in str(caught.value) and "weights_only" not in str(caught.value)


@pytest.mark.parametrize("name", ["metadata.json", "doclens.0.json", "centroids.npy", "ivf_lengths.npy"])
def test_files_of_gigabytes_that_are_not_there(name: str, roots: dict[str, Path]) -> None:
    root = roots["fast-plaid"]
    with restored(root):
        os.truncate(root / name, 1 << 40)
        assert outcome(lambda: answers(root), True) in (SAME, REFUSED)


@pytest.mark.parametrize(("program", "name"), [("fast-plaid", "centroids.npy"), ("stanford", "0.codes.pt")])
def test_a_fifo_is_no_file(program: str, name: str, roots: dict[str, Path]) -> None:
    root = roots[program]
    with restored(root):
        (root / name).unlink()
        os.mkfifo(root / name)
        assert outcome(lambda: answers(root), True) == REFUSED


def test_the_trials_are_of_an_index_of_several_chunks(roots: dict[str, Path]) -> None:
    assert len(LENGTHS) > 10 and (roots["fast-plaid"] / "2.codes.npy").exists()
