"""Replace approximate scores of candidates by better ones, until those that are left are expected to hold few hits.

A part of the candidates, the base, is the same whatever the effort of the search. It alone decides how the better
scores follow from the approximate ones, and which score a hit must have. More candidates can therefore only add to the
documents that are scored again: a search with more effort finds every hit of one with less.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from colbertz.kernels.cpu.stopping import fit_line, worth_scoring

# The tail of the errors is longer than that of a normal distribution: their deviation counts this many times.
TAIL = 1.25


class Scored(NamedTuple):
    """Candidates with their scores.

    Attributes:
        doc_idx: (n,) int64, ascending.
        scores: (n,) float32.
        in_base: (n,) bool, the candidates that a search with any effort has.
    """

    doc_idx: np.ndarray
    scores: np.ndarray
    in_base: np.ndarray


@dataclass(frozen=True)
class Line:
    """Better scores as a function of approximate ones: y ≈ slope · x + intercept.

    Attributes:
        slope: from 0 to 1.
        intercept: y at x = 0.
        deviation: the standard deviation of y from the line, times `TAIL`.
    """

    slope: float
    intercept: float
    deviation: float


def refine(
    candidates: Scored, k: int, score: Callable[[np.ndarray], np.ndarray], wave: int, tolerance: float
) -> Scored:
    """Score candidates again, until those that are left are expected to miss few of the best `k`.

    The best of the base are scored first. A line is fitted to their better scores as a function of the approximate
    ones. With the deviation from that line, each candidate has a probability of a better score above the k-th so far.
    Those with the lowest probabilities are left out, as many as together miss less than `tolerance`. This is repeated,
    with at most twice as many documents, until no more of the base are worth scoring. Its last line and k-th score
    decide about the candidates outside the base.

    Args:
        candidates: with approximate scores.
        k: how many are wanted; at most as many as the base has.
        score: returns the better scores of documents, (n,) float32, for ascending doc_idx.
        wave: candidates that are scored first; at least `k`.
        tolerance: the expected number of candidates that are missed.

    Returns:
        The candidates that were scored again, with the better scores. The base of these are the ones that were scored
        because of the base alone.
    """
    before, in_base = candidates.scores, np.flatnonzero(candidates.in_base)
    after = np.empty(len(before), np.float32)
    done = np.zeros(len(before), bool)

    def score_again(positions: np.ndarray) -> None:
        after[positions] = score(candidates.doc_idx[positions])
        done[positions] = True

    positions = _best(in_base, before, wave)
    while len(positions):
        score_again(positions)
        num_done = int(np.count_nonzero(done))
        if num_done == len(before):
            break
        line, kth = _fit(before[done], after[done], k)
        worthy = worth_scoring(
            before[in_base], done[in_base], line.slope, line.intercept, line.deviation, kth, tolerance
        )
        positions = _best(in_base[worthy], before, num_done)
    of_base = done.copy()
    if num_done < len(before):
        worthy = worth_scoring(before, done, line.slope, line.intercept, line.deviation, kth, tolerance)
        score_again(worthy)
    return Scored(candidates.doc_idx[done], after[done], of_base[done])


def _best(positions: np.ndarray, scores: np.ndarray, count: int) -> np.ndarray:
    """The `count` of these positions with the highest scores, ascending."""
    if len(positions) <= count:
        return positions
    return np.sort(positions[np.argpartition(scores[positions], -count)[-count:]])


def _fit(before: np.ndarray, after: np.ndarray, k: int) -> tuple[Line, float]:
    """The line through the points, and the k-th highest of the better scores."""
    kth = float(np.partition(after, -k)[-k])
    if len(before) <= 2:
        return Line(1.0, 0.0, float("inf")), kth
    slope, intercept, deviation = fit_line(before, after)
    return Line(slope, intercept, max(TAIL * deviation, 1e-9)), kth
