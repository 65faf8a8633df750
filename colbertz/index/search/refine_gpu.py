"""refine.py for a batch of queries on a GPU: the same rule, without host synchronisation.

All sizes are known before the first kernel starts: a candidate that is not scored again becomes -1, which a kernel
skips. There is one wave of the base, where the CPU takes as many as it needs.

Legend: B queries, n candidates.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from colbertz.index.search.refine import TAIL

# Standard deviations beyond which a candidate has no chance.
_FARTHEST = 6.0


class Scored(NamedTuple):
    """Candidates of a batch with their scores.

    Attributes:
        candidates: (B, n) int32, -1 for none.
        scores: (B, n) float32, minus infinity for none.
        in_base: (B, n) bool, the candidates that a search with any effort has.
    """

    candidates: Tensor
    scores: Tensor
    in_base: Tensor


def refine(before: Scored, k: int, score: Callable[[Tensor], Tensor], wave: int, tolerance: float) -> Scored:
    """Score candidates again, until those that are left are expected to miss few of the best `k`.

    Args:
        before: candidates with approximate scores.
        k: how many are wanted.
        score: returns the better scores of candidates (B, any number) int32, minus infinity for -1.
        wave: candidates of the base that are scored first; at least `k`.
        tolerance: the expected number of candidates that are missed.

    Returns:
        The candidates that were scored again, with the better scores, and -1 in place of the others. The base of these
        is the first wave.
    """
    in_base = before.in_base & (before.candidates >= 0)
    wave = min(wave, in_base.shape[1])
    x, positions = before.scores.masked_fill(~in_base, -torch.inf).topk(wave)
    is_first = in_base.gather(1, positions)
    first = before.candidates.gather(1, positions).masked_fill(~is_first, -1)
    y = score(first)
    left = before.candidates.masked_fill(torch.zeros_like(in_base).scatter(1, positions, is_first), -1)
    scores, order = before.scores.masked_fill(left < 0, -torch.inf).sort(dim=1, descending=True)
    misses = _chance(x, y, is_first, scores, y.topk(min(k, wave)).values[:, -1:])
    # Summed up from the candidate with the lowest score.
    worthy = misses.flip(1).cumsum(1).flip(1) >= tolerance
    rest = left.gather(1, order).masked_fill(~worthy, -1)
    return Scored(
        torch.cat([first, rest], 1).contiguous(),
        torch.cat([y, score(rest.contiguous())], 1),
        torch.cat([is_first, torch.zeros_like(worthy)], 1),
    )


def _chance(x: Tensor, y: Tensor, is_point: Tensor, scores: Tensor, kth: Tensor) -> Tensor:
    """The probability of each candidate to score more than `kth` (B, 1), by a line through the points of its query.

    Args:
        x: (B, wave) approximate scores.
        y: (B, wave) better ones.
        is_point: (B, wave) bool, which of them count.
        scores: (B, n) approximate scores of the candidates.
        kth: (B, 1), the score to exceed.
    """
    count = is_point.sum(1, keepdim=True)

    def mean(values: Tensor) -> Tensor:
        return values.masked_fill(~is_point, 0).sum(1, keepdim=True, dtype=torch.float64) / count

    x_mean, y_mean = mean(x), mean(y)
    slope = (mean((x - x_mean) * (y - y_mean)) / mean((x - x_mean) ** 2).clamp(min=1e-12)).clamp(0, 1)
    error = mean((y - y_mean - slope * (x - x_mean)) ** 2) * count / (count - 2)
    deviation = torch.where(count > 2, TAIL * error.sqrt().clamp(min=1e-9), 1e30)
    needed = (kth - y_mean - slope * (scores - x_mean)) / deviation
    chance = 0.5 * torch.erfc(needed / 2**0.5)
    return chance.masked_fill((needed > _FARTHEST) | (scores == -torch.inf), 0)
