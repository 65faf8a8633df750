"""Replace approximate scores of candidates by better ones, best first, until no better candidate is expected."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from colbertz.kernels.cpu.stopping import expected_above

# The tail of the gains is longer than that of a normal distribution: their deviation counts this many times.
TAIL = 1.25


class Scored(NamedTuple):
    """Candidates with their scores.

    Attributes:
        doc_idx: (n,) int64, in any order.
        scores: (n,) float32.
    """

    doc_idx: np.ndarray
    scores: np.ndarray


def refine(
    candidates: Scored, k: int, score: Callable[[np.ndarray], np.ndarray], wave: int, limit: int, tolerance: float
) -> Scored:
    """Score candidates again, in waves, until those that are left are expected to miss few of the best `k`.

    After each wave, a line is fitted to the better scores as a function of the approximate ones. With the deviation
    from that line, each candidate that is left has a probability of a better score above the k-th so far. The waves end
    once these probabilities add up to less than `tolerance`.

    Args:
        candidates: with approximate scores.
        k: how many are wanted; at most as many as there are candidates.
        score: returns the better scores of documents, (n,) float32, for ascending doc_idx.
        wave: candidates that are scored at a time; at least `k`.
        limit: candidates that are scored at most.
        tolerance: the expected number of candidates that are missed.

    Returns:
        The candidates that were scored again, with the better scores, best first by the approximate ones.
    """
    order = np.argsort(-candidates.scores, kind="stable")[:limit]
    doc_idx, before = candidates.doc_idx[order], candidates.scores[order]
    after = np.empty(len(order), np.float32)
    done = 0
    while done < len(order):
        until = min(len(order), done + wave)
        ascending = np.argsort(doc_idx[done:until])
        after[done + ascending] = score(doc_idx[done:until][ascending])
        done = until
        if done < len(order) and _expected_misses(before, after, done, k) < tolerance:
            break
    return Scored(doc_idx[:done], after[:done])


def _expected_misses(before: np.ndarray, after: np.ndarray, done: int, k: int) -> float:
    """How many candidates from `done` on are expected to score more than the k-th best before it."""
    if done <= max(k, 2):
        return float("inf")
    x, y = before[:done].astype(np.float64), after[:done].astype(np.float64)
    x_mean, y_mean = x.mean(), y.mean()
    variance = x.var()
    slope = float(((x - x_mean) * (y - y_mean)).mean() / variance) if variance > 0 else 1.0
    slope = min(max(slope, 0.0), 1.0)
    intercept = y_mean - slope * x_mean
    deviation = TAIL * float(np.sqrt(((y - intercept - slope * x) ** 2).sum() / (done - 2)))
    kth = np.partition(after[:done], -k)[-k]
    return float(expected_above(before[done:], slope, intercept, deviation, kth))
