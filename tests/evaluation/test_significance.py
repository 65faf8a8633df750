"""Intervals and tests against what is known of them."""

import math

import numpy as np
import pytest

from colbertz.evaluation import significance


def test_the_interval_of_many_values_is_that_of_the_normal_distribution() -> None:
    values = np.random.default_rng(1).normal(0.4, 0.2, 2000)
    estimate = significance.estimate({str(i): value for i, value in enumerate(values)})
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert estimate.mean == pytest.approx(values.mean())
    assert (estimate.low, estimate.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=half / 10)


def test_p_is_the_share_of_sign_flips_that_make_as_large_a_difference() -> None:
    """Eight queries have 256 ways to flip; all of them give the exact value."""
    values = {str(i): value for i, value in enumerate([0.9, 0.8, 0.3, 0.5, 0.7, 0.2, 0.9, 0.4])}
    others = {str(i): value for i, value in enumerate([0.7, 0.8, 0.4, 0.1, 0.6, 0.0, 0.5, 0.4])}
    differences = np.array([values[query] - others[query] for query in values])
    flips = [np.abs(np.mean(differences * [1 if bits >> i & 1 else -1 for i in range(8)])) for bits in range(256)]
    exact = np.mean(np.array(flips) >= abs(differences.mean()) - 1e-12)
    difference = significance.difference(values, others)
    assert difference.mean == pytest.approx(differences.mean()) and difference.p == pytest.approx(exact, abs=0.01)
    assert significance.difference(values, values).p == 1
    with pytest.raises(ValueError, match="'7' is in one of them only"):
        significance.difference(values, {query: 1.0 for query in values if query != "7"})
