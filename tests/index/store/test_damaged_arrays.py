"""Flipped bits and hostile values in the arrays of an index: the right answer or a `UserError`, never a signal.

Each trial is a child process; see `damage`.
"""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import REFUSED, SAME, edit_array, flip, flips, outcome, recompute_checksums, restored, searched_by_lists
from embeddings import texts_in_cells

from colbertz import Index
from colbertz.kernels.cpu import checks, sums

SEGMENT, CODEC = "segment-000001", "codec-000001"
NAMES = ("codes", "residuals", "inverse_norms", "doclens", "ivf", "ivf_lengths")
ARRAYS = [
    *(f"{SEGMENT}/{name}.npy" for name in (*NAMES, "document_checksums", "list_checksums", "deleted-000002")),
    *(f"{CODEC}/{name}.npy" for name in ("centroids", "bucket_cutoffs", "bucket_weights", "avg_residual")),
    f"{CODEC}/cluster_threshold.npy",
]


texts = functools.partial(texts_in_cells, num_cells=300)
QUERIES = texts(6, seed=2)


def answers(root: Path) -> list[Any]:
    """Of searches by all stages and by brute force."""
    return searched(Index.open(root))


def searched(index: Index) -> list[Any]:
    found = [searched_by_lists(index, QUERIES), index.search(QUERIES[:1], 5, exact=True)]
    return [[(hit.id, hit.score) for hit in hits] for result in found for hits in result]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("damage") / "index"
    Index.build(path, texts(3000, seed=1)).delete([str(number) for number in range(0, 3000, 50)])
    return path


@pytest.fixture(scope="module")
def expected(root: Path) -> list[Any]:
    return answers(root)


@pytest.mark.parametrize("name", ARRAYS)
def test_a_flipped_bit_is_found_or_changes_nothing(name: str, root: Path, expected: list[Any]) -> None:
    """High bits beyond the pages of the quick checksum once made a signal, or scores of 1e30."""
    with restored(root / name.partition("/")[0]):
        for place, bit in flips(root / name, 10, seed=0):
            flip(root / name, place, bit)
            assert outcome(lambda: answers(root), expected) in (SAME, REFUSED), (place, bit)
            flip(root / name, place, bit)


def of(name: str, change: Callable[[np.ndarray], np.ndarray]) -> tuple[str, Callable[[np.ndarray], np.ndarray]]:
    folder = SEGMENT if name in NAMES or name.startswith("deleted") else CODEC
    return f"{folder}/{name}.npy", change


def at(places: Any, value: Any) -> Callable[[np.ndarray], np.ndarray]:
    """The array with other values in some places."""

    def change(array: np.ndarray) -> np.ndarray:
        array[places] = value
        return array

    return change


def sums_stay(value: int) -> Callable[[np.ndarray], np.ndarray]:
    """One length is far off, and the next makes up for it, so that their sum is right."""

    def change(lengths: np.ndarray) -> np.ndarray:
        wide = lengths.astype(np.int64)
        wide[6] += wide[5] - value
        wide[5] = value
        return wide.astype(lengths.dtype)

    return change


HOSTILE = [
    of("residuals", lambda x: np.repeat(x, 100, axis=1)),
    of("residuals", lambda x: x[:, :-1].copy()),
    of("residuals", np.asfortranarray),
    of("residuals", lambda x: x.view(np.int8)),
    of("residuals", lambda x: x.reshape(-1)),
    of("residuals", lambda x: x[:-1]),
    of("codes", at(slice(40_000, None), 0xFFFF)),
    of("codes", at(slice(None), 0xFFFF)),
    of("codes", lambda x: x.astype(np.int64)),
    of("codes", lambda x: x.astype(">u2")),
    of("codes", lambda x: x[:-1]),
    of("codes", lambda x: x.astype(object)),
    of("codes", lambda x: x.astype([("code", "<u2")])),
    of("codes", lambda x: x[:, None]),
    of("ivf", at(slice(20_000, None), -1)),
    of("ivf", at(slice(None), 1 << 30)),
    of("ivf", at(slice(None), -(1 << 31))),
    of("ivf", lambda x: x[::-1].copy()),
    of("ivf", lambda x: x.astype(np.int64)),
    of("ivf", lambda x: x[:-1]),
    of("ivf_lengths", sums_stay(-(1 << 30))),
    of("ivf_lengths", sums_stay(1 << 30)),
    of("ivf_lengths", lambda x: x.astype(np.float32)),
    of("ivf_lengths", lambda x: np.concatenate([x, np.zeros(5000, x.dtype)])),
    of("ivf_lengths", lambda x: np.array([x.sum()], x.dtype)),
    of("doclens", sums_stay(-(1 << 30))),
    of("doclens", sums_stay(1 << 30)),
    of("doclens", sums_stay(0)),
    of("doclens", lambda x: x.astype(np.int64)),
    of("doclens", lambda x: x.reshape(2, -1)),
    of("inverse_norms", at(slice(None), np.nan)),
    of("inverse_norms", at(slice(None), -1.0)),
    of("inverse_norms", at(slice(None), np.inf)),
    of("inverse_norms", lambda x: x.astype(np.float64)),
    of("deleted-000002", at(-1, 3000)),
    of("deleted-000002", at(0, -1)),
    of("deleted-000002", lambda x: x[::-1].copy()),
    of("deleted-000002", lambda x: x[:-1]),
    of("centroids", at((5, 5), np.nan)),
    of("centroids", at((-1, -1), np.inf)),
    of("centroids", lambda x: x.astype(np.float32) * 1e30),
    of("centroids", lambda x: x[:5].copy()),
    of("centroids", lambda x: x[:, :-8].copy()),
    of("centroids", lambda x: x[:0]),
    of("bucket_weights", at(3, np.inf)),
    of("bucket_weights", lambda x: x[:-1]),
    of("bucket_cutoffs", at(3, np.nan)),
    of("bucket_cutoffs", lambda x: x[::-1].copy()),
    of("bucket_cutoffs", lambda x: x[:, None]),
    of("avg_residual", at(3, -np.inf)),
    of("avg_residual", lambda x: x[:3]),
    of("cluster_threshold", at(0, np.nan)),
    of("cluster_threshold", lambda x: x[:0]),
]


@pytest.mark.parametrize("trial", range(len(HOSTILE)))
def test_hostile_arrays_with_right_checksums_are_refused(trial: int, root: Path, expected: list[Any]) -> None:
    """Residuals 100 times as wide once corrupted the heap."""
    name, change = HOSTILE[trial]
    with restored(root):
        edit_array(root / name, change)
        recompute_checksums(root)
        assert outcome(lambda: answers(root), expected) == REFUSED


HEADERS = [
    b"{'descr': '<u2', 'fortran_order': False, 'shape': (4611686018427387904, 8), }",
    b"{'descr': '<u2', 'fortran_order': False, 'shape': (-1,), }",
    b"{'descr': '<u2', 'fortran_order': False, 'shape': (True,), }",
    b"{'descr': 'V999999999', 'fortran_order': False, 'shape': (1,), }",
    b"{'descr': '<q7', 'fortran_order': False, 'shape': (1,), }",
    b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
    b"{'descr': '<u2', 'shape': (1,), }",
    b"{'descr': '<u2', 'fortran_order': False, 'shape': (1,), 'more': 1}",
    b"(" * 1000,
    b"[" * 90 + b"]" * 90,
    b"'unclosed",
    b"\xff\xfe\x00",
    b"1" * 5000,
]


@pytest.mark.parametrize("header", HEADERS)
def test_headers_that_numpy_would_believe_or_choke_on(header: bytes, root: Path, expected: list[Any]) -> None:
    name = f"{SEGMENT}/codes.npy"
    with restored(root):
        content = (root / name).read_bytes()
        padded = header + b" " * max(0, 117 - len(header)) + b"\n"
        start = b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little")
        (root / name).write_bytes(start + padded + content[128:])
        recompute_checksums(root, parts=False)
        assert outcome(lambda: answers(root), expected) == REFUSED


@pytest.mark.parametrize("name", ["manifest.json", f"{SEGMENT}/codes.npy", f"{CODEC}/centroids.npy"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file(make: Callable[[Path], None], name: str, root: Path, expected: list[Any]) -> None:
    """A FIFO once waited for ever."""
    with restored(root):
        (root / name).unlink()
        make(root / name)
        assert outcome(lambda: answers(root), expected) == REFUSED


@pytest.mark.parametrize("size", [200, 1 << 20])
def test_copying_over_an_open_index_is_noticed(size: int, root: Path, expected: list[Any]) -> None:
    """It ended the process with SIGBUS where the file became shorter, and gave other scores where it did not."""
    index = Index.open(root)
    assert searched(index) == expected

    def overwritten() -> Any:
        (root / SEGMENT / "residuals.npy").write_bytes(bytes(size))  # the same inode
        return searched(index)

    def renamed() -> Any:
        (root / SEGMENT / "fresh").write_bytes(bytes(size))
        (root / SEGMENT / "fresh").rename(root / SEGMENT / "residuals.npy")
        return searched(index)

    for change, end in ((overwritten, REFUSED), (renamed, SAME)):
        with restored(root):
            index = Index.open(root)
            searched(index)
            assert outcome(change, expected) == end


def test_the_checksum_of_numbers() -> None:
    generator = np.random.default_rng(0)
    for dtype in (np.uint8, np.uint16, np.uint32, np.int32):
        numbers = generator.integers(0, 256, 1001).astype(dtype) * dtype(np.iinfo(dtype).max // 255)
        expected = sum(int(x) * (2 * i + 1) for i, x in enumerate(numbers[7:990])) % (1 << 32)
        assert checks.checksum(numbers, 7, 990) == expected
        parts = sums.checksums(numbers[7:990], np.array([0, 0, 983, 983]))
        assert parts.tolist() == [0, expected, 0]
        assert sums.checksums(numbers, np.array([0, 7, 990, 1001])).tolist()[1] == expected
    content = generator.integers(0, 256, 4096, np.uint8)
    whole = sums.bytes_checksum(content)
    for place in range(4096):
        content[place] ^= 1 << place % 8
        assert sums.bytes_checksum(content) != whole
        content[place] ^= 1 << place % 8
