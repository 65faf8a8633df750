"""The search of nearest centroids in integers against products in float64 of all pairs."""

from pathlib import Path

import numba
import numpy as np
import processors
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from colbertz.kernels import reference
from colbertz.kernels.cpu import nearest, simd
from colbertz.kernels.cpu.kmeans import order_by
from colbertz.kernels.cpu.simd import COLUMNS, ROWS


def rows_of(count: int, dim: int, cone: float, seed: int) -> np.ndarray:
    """Unit vectors with a part in common, around fewer directions than there are vectors."""
    rng = np.random.default_rng(seed)
    directions = np.random.default_rng(0).standard_normal((50, dim))
    rows = directions[rng.integers(50, size=count)] + 0.3 * rng.standard_normal((count, dim))
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True) + cone * directions[0] / np.linalg.norm(directions[0])
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def products(tokens: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    return tokens.astype(np.float64) @ centroids.T.astype(np.float64)


def packed_both(tokens: np.ndarray, centroids: np.ndarray) -> tuple[nearest.Tokens, nearest.Rows]:
    rows = nearest.pack_rows(centroids, centroids.mean(0))
    return nearest.pack_tokens(tokens, rows), rows


@numba.njit
def keep_best_2(rows, width, groups, tokens, scales, biases, row, count, shift, mask, kept):  # type: ignore
    simd.keep_best_2(rows, row * width, width, groups, tokens, scales, biases, row, row, count, shift, mask, kept)


@numba.njit
def keep_best_6(rows, width, groups, tokens, scales, biases, row, count, shift, mask, kept):  # type: ignore
    simd.keep_best_6(rows, row * width, width, groups, tokens, scales, biases, row, row, count, shift, mask, kept)


@pytest.mark.parametrize(("keep", "num_kept"), [(keep_best_2, 2), (keep_best_6, 6)])
@pytest.mark.parametrize("count", [1, 4, 7, 40])
def test_keep_best(keep, num_kept: int, count: int) -> None:  # type: ignore[no-untyped-def]
    """Rows beyond `count` are there in memory, and have the highest products."""
    rng = np.random.default_rng(count)
    groups, shift, mask = 5, 11, 63
    rows = rng.integers(0, 100, (count + ROWS, 4 * groups), dtype=np.uint8)
    rows[count:] = 127
    tokens = rng.integers(-20, 127, (groups, COLUMNS, 4), dtype=np.int8)
    kept = np.full(num_kept * COLUMNS, -(1 << 31), np.int32)
    scales = rng.uniform(10, 1000, COLUMNS).astype(np.float32)
    biases = rng.uniform(-10, 10, count + ROWS).astype(np.float32)
    words = tokens.reshape(-1).view(np.int32)
    for row in range(0, count, ROWS):
        keep(rows.reshape(-1), 4 * groups, groups, words, scales, biases, row, count, shift, mask, kept)
    columns = tokens.transpose(1, 0, 2).reshape(COLUMNS, -1).astype(np.int64)
    scores = rows[:count].astype(np.int64) @ columns.T + (biases[:count, None] * scales).astype(np.int64)
    keys = ((scores << shift) & ~mask) | np.arange(count)[:, None]
    expected = np.full((num_kept, COLUMNS), -(1 << 31))
    expected[: min(num_kept, count)] = -np.sort(-keys, axis=0)[:num_kept]
    np.testing.assert_array_equal(kept.reshape(num_kept, COLUMNS), expected)


@given(
    st.integers(1, 70), st.integers(1, 90), st.sampled_from([1, 3, 8, 30, 96, 130]), st.sampled_from([0.0, 3.0, 30.0])
)
@settings(max_examples=40)
def test_packing_keeps_its_bounds(num_tokens: int, num_centroids: int, dim: int, cone: float) -> None:
    tokens, centroids = rows_of(num_tokens, dim, cone, 1), rows_of(num_centroids, dim, cone, 2)
    tokens[0] = 0
    packed, rows = packed_both(tokens, centroids)
    rounded, moved = packed.bytes[:, :dim] * packed.units[:, None], tokens - rows.center
    assert (packed.bytes[:, dim:] == 0).all()
    np.testing.assert_allclose(packed.errors, np.linalg.norm(moved - rounded, axis=1), rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(packed.lengths, np.linalg.norm(rounded, axis=1), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(packed.sums, packed.bytes.sum(1, dtype=np.int64))
    assert (np.abs(moved - rounded) <= packed.units[:, None] * 0.501).all()
    differences = (rows.bytes[:num_centroids, :dim].astype(np.float32) - 64) * rows.units[0]
    assert rows.bytes.max() <= 127
    biases = (centroids - rows.means[0]) @ rows.center / rows.units[0]
    np.testing.assert_allclose(rows.biases[:num_centroids], biases, rtol=1e-3, atol=1e-2)
    assert (np.abs(rows.biases).max() / packed.units <= 127 * 127 * dim * 1.001).all()
    lengths = np.linalg.norm(centroids - rows.means[0], axis=1)
    errors = np.linalg.norm(centroids - rows.means[0] - differences, axis=1)
    np.testing.assert_allclose([rows.radii[0], rows.errors[0]], [lengths.max(), errors.max()], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("cone", [0.0, 2.0, 30.0])
@pytest.mark.parametrize(("num_centroids", "dim"), [(1, 8), (5, 24), (33, 48), (1024, 96), (300, 130), (200, 768)])
def test_the_nearest_of_all(num_centroids: int, dim: int, cone: float) -> None:
    """Where float32 is sure, the same; elsewhere nearly as near."""
    tokens, centroids = rows_of(501, dim, cone, 1), rows_of(num_centroids, dim, cone, 2)
    packed, rows = packed_both(tokens, centroids)
    codes = np.full(len(tokens), -1, np.int32)
    nearest.nearest_of_all(packed, tokens, rows, centroids, codes)
    expected = reference.nearest(torch.from_numpy(tokens).double(), torch.from_numpy(centroids).double()).numpy()
    scores = products(tokens, centroids)
    highest, found = scores.max(1), scores[np.arange(len(tokens)), codes]
    slack = packed.errors * rows.radii[0] + packed.lengths * rows.errors[0] + 1e-5
    assert (found >= highest - 2 * slack).all()
    second = np.sort(scores, axis=1)[:, -2] if num_centroids > 1 else highest - 1
    sure = highest - second > 2 * slack
    np.testing.assert_array_equal(codes[sure], expected[sure])
    # The check in float32 decides between the two best: of three that are as near, another one may be the nearest.
    assert (highest - found).mean() <= 0.002 * (1 - highest).mean()


def test_of_equal_centroids_the_first() -> None:
    tokens = rows_of(40, 16, 0.0, 1)
    codes = np.empty(40, np.int32)
    centroids = np.repeat(tokens[:1], 9, axis=0)
    packed, rows = packed_both(tokens, centroids)
    nearest.nearest_of_all(packed, tokens, rows, centroids, codes)
    assert (products(tokens, centroids)[np.arange(40), codes] >= products(tokens, centroids).max(1)).all()


@pytest.mark.parametrize("cone", [0.0, 30.0])
@pytest.mark.parametrize("dim", [24, 96, 130])
def test_the_nearest_in_groups(dim: int, cone: float) -> None:
    """Groups of very different sizes that share centroids."""
    tokens, centroids = rows_of(700, dim, cone, 1), rows_of(400, dim, cone, 2)
    groups_of_centroid = np.minimum(np.random.default_rng(3).geometric(0.2, (400, 2)) - 1, 8).astype(np.int32)
    order, offsets = order_by(groups_of_centroid.reshape(-1), 9)
    assert (np.diff(offsets) > 0).all()
    order //= 2
    groups = np.stack([np.random.default_rng(n).permutation(9)[:3] for n in range(700)]).astype(np.int32)
    rows = nearest.pack_rows(centroids[order], centroids.mean(0), offsets)
    packed = nearest.pack_tokens(tokens, rows)
    codes = np.full(700, -1, np.int32)
    nearest.nearest_in_groups(packed, tokens, groups, rows, offsets, order, centroids, codes)
    members = np.zeros((9, 400), bool)
    members[np.repeat(np.arange(9), np.diff(offsets)), order] = True
    scores = np.where(members[groups].any(1), products(tokens, centroids), -np.inf)
    highest, found = scores.max(1), scores[np.arange(700), codes]
    slack = (packed.errors[:, None] * rows.radii[groups] + packed.lengths[:, None] * rows.errors[groups]).max(1) + 1e-5
    assert (found >= highest - 2 * slack).all()
    sure = highest - np.sort(scores, axis=1)[:, -2] > 2 * slack
    np.testing.assert_array_equal(codes[sure], scores.argmax(1)[sure])
    assert (highest - found).mean() <= 0.002 * (1 - highest).mean()


def test_the_best_groups() -> None:
    tokens, centroids = rows_of(333, 40, 1.0, 1), rows_of(57, 40, 1.0, 2)
    groups = np.full((333, 5), -1, np.int32)
    packed, rows = packed_both(tokens, centroids)
    nearest.best_groups(packed, rows, 57, groups)
    scores = products(tokens, centroids)
    slack = packed.errors * rows.radii[0] + packed.lengths * rows.errors[0] + 1e-5
    expected = -np.sort(-scores, axis=1)[:, :5]
    found = np.take_along_axis(scores, groups.astype(np.int64), 1)
    assert (np.diff(np.sort(groups, axis=1), axis=1) > 0).all()
    assert (np.abs(found - expected) <= 2 * slack[:, None]).all()


@processors.needs_x86
@pytest.mark.parametrize(("cpu", "features", "path"), processors.OLDER)
def test_the_same_on_other_processors(cpu: str, features: str, path: str, tmp_path: Path) -> None:
    processors.run_as(cpu, features, path, __file__, "keep_best", tmp_path)
