"""Confidence intervals of means over queries, and whether one run is better than another."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from colbertz.errors import UserError

_RESAMPLES = 10_000
_BATCH = 500  # resamples in memory at once


@dataclass(frozen=True)
class Estimate:
    """A mean over queries and the bounds between which 95 % of resampled means lie."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference(Estimate):
    """The mean difference of two runs on the same queries.

    Attributes:
        p: how often chance alone gives a difference as large, by a two-sided paired randomisation test.
    """

    p: float


def estimate(values: Mapping[str, float], seed: int = 0) -> Estimate:
    """The mean of the queries' values with a bootstrap interval (Efron 1979; percentiles of 10,000 resamples)."""
    array = np.array(list(values.values()))
    low, high = np.quantile(_resampled(array, seed), (0.025, 0.975))
    return Estimate(float(array.mean()), float(low), float(high))


def difference(values: Mapping[str, float], others: Mapping[str, float], seed: int = 0) -> Difference:
    """The mean of `values` minus `others`, query by query.

    The test flips the signs of the queries' differences at random, 10,000 times (Smucker et al. 2007, A Comparison of
    Statistical Significance Tests for Information Retrieval Evaluation).

    Raises:
        UserError: if they are not of the same queries.
    """
    if values.keys() != others.keys():
        only = sorted(values.keys() ^ others.keys())[0]
        raise UserError(f"two runs are compared on the same queries; {only!r} is in one of them only")
    array = np.array([values[query] - others[query] for query in values])
    low, high = np.quantile(_resampled(array, seed), (0.025, 0.975))
    generator = np.random.default_rng(seed)
    larger = 0
    for _ in range(0, _RESAMPLES, _BATCH):
        signs = generator.integers(0, 2, (_BATCH, len(array))) * 2 - 1
        larger += int((np.abs((signs * array).mean(1)) >= abs(array.mean()) - 1e-12).sum())
    return Difference(float(array.mean()), float(low), float(high), (larger + 1) / (_RESAMPLES + 1))


def _resampled(values: np.ndarray, seed: int) -> np.ndarray:
    """(10_000,) means of samples with replacement, each of as many queries as there are."""
    generator = np.random.default_rng(seed)
    size = (_BATCH, len(values))
    return np.concatenate(
        [values[generator.integers(0, len(values), size)].mean(1) for _ in range(0, _RESAMPLES, _BATCH)]
    )
