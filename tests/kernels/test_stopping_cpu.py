"""Which candidates are left out, against the sum of the tails by definition."""

import math

import numpy as np
import pytest

from colbertz.kernels.cpu.stopping import worth_scoring


def expected_above(scores: np.ndarray, slope: float, intercept: float, deviation: float, threshold: float) -> float:
    needed = (threshold - slope * scores - intercept) / deviation
    return sum(0.5 * math.erfc(x / math.sqrt(2)) for x in needed.tolist())


@pytest.mark.parametrize("deviation", [1e-9, 0.1, 1.0, 30.0])
@pytest.mark.parametrize("slope", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("tolerance", [0.01, 1.0])
def test_what_is_left_out(deviation: float, slope: float, tolerance: float) -> None:
    rng = np.random.default_rng(0)
    scores = rng.standard_normal(5000).astype(np.float32)
    done = rng.random(5000) < 0.1
    line = (slope, 0.25, deviation)
    worthy = worth_scoring(scores, done, *line, 2.0, tolerance)
    left_out = np.setdiff1d(np.flatnonzero(~done), worthy)
    assert not done[worthy].any() and (np.diff(worthy) > 0).all()
    assert expected_above(scores[left_out], *line, 2.0) < tolerance + 1e-4
    if slope and len(worthy) and len(left_out):
        assert scores[left_out].max() <= scores[worthy].min()
        # Steps are a 64th of a deviation wide: somewhat farther down, too many would be missed.
        farther = scores[~done & (scores < scores[worthy].min() + deviation / 32 / slope)]
        assert expected_above(farther, *line, 2.0) >= tolerance or deviation == 1e-9


def test_of_more_candidates_none_is_left_out_that_was_not_before() -> None:
    rng = np.random.default_rng(1)
    scores = rng.standard_normal(3000).astype(np.float32)
    line, before = (0.8, 0.1, 0.5), set[int]()
    for count in (100, 500, 1000, 3000):
        worthy = set(worth_scoring(scores[:count], np.zeros(count, bool), *line, 2.0, 0.05).tolist())
        assert before <= worthy
        before = worthy
