"""Posting lists against plain NumPy and sets: making them, and walking those of the probed cells."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colbertz.kernels.cpu import lists

DOCLENS = st.lists(st.integers(0, 6), max_size=12)


@settings(deadline=None)  # the first call compiles
@given(DOCLENS, st.integers(1, 9), st.integers(0, 1000))
def test_lists_hold_each_document_once_per_cell(doclens: list[int], num_cells: int, seed: int) -> None:
    offsets = np.cumsum([0, *doclens])
    codes = np.random.default_rng(seed).integers(0, num_cells, offsets[-1]).astype(np.uint16)
    cells_of = [set(codes[start:end].tolist()) for start, end in pairwise(offsets)]
    expected = [[doc_idx for doc_idx, cells in enumerate(cells_of) if cell in cells] for cell in range(num_cells)]
    counts = lists.count_postings(codes, offsets, num_cells)
    assert counts.tolist() == [len(doc_idx) for doc_idx in expected]
    starts = np.concatenate([[0], np.cumsum(counts)])
    postings = np.full(starts[-1], -1, np.int32)
    lists.fill_postings(codes, offsets, starts[:-1].copy(), postings)
    assert [postings[start:end].tolist() for start, end in pairwise(starts)] == expected


@pytest.mark.parametrize("parts", [[0, 40], [0, 13, 14, 40]])
def test_walk_lists_and_reached(parts: list[int]) -> None:
    rng = np.random.default_rng(0)
    postings = [np.flatnonzero(rng.random(40) < 0.3) for _ in range(12)]
    offsets = np.cumsum([0, *map(len, postings)])
    cells = np.stack([rng.permutation(15)[:4] for _ in range(6)]).astype(np.int32)  # cells 12 … 14 have no list
    gains = -np.sort(-rng.integers(0, 30000, (6, 4)), axis=1).astype(np.int32)
    gains[2, 2:] = 0
    gained = np.zeros(40, np.int64)
    for first, last in pairwise(parts):
        lists.walk_lists(cells, gains, np.concatenate(postings).astype(np.int32), offsets, first, last, gained)
    expected = np.zeros(40, np.int64)
    for s in range(6):
        for doc_idx in range(40):
            in_list = [gains[s, p] for p in range(4) if cells[s, p] < 12 and doc_idx in postings[cells[s, p]]]
            expected[doc_idx] += max(in_list, default=0)
    allowed = rng.random(40) < 0.5
    for mask in (None, allowed):
        doc_idx, scores = np.empty(40, np.int64), np.empty(40, np.int64)
        count = lists.reached(gained, mask, doc_idx, scores)
        expected_idx = np.flatnonzero((expected > 0) & (True if mask is None else mask))
        np.testing.assert_array_equal(doc_idx[:count], expected_idx)
        np.testing.assert_array_equal(scores[:count], expected[expected_idx])
