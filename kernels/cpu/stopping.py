"""How many candidates that were not scored yet are expected to be among the best."""

import math

import numba


@numba.njit(nogil=True, cache=True)
def expected_above(before, slope, intercept, deviation, threshold):  # type: ignore[no-untyped-def]
    """The expected number of scores above `threshold`: the sum of the tails of normal distributions.

    Args:
        before: (n,) float32, approximate scores, descending.
        slope, intercept: the score of candidate i is predicted to be slope · before[i] + intercept; `slope` ≥ 0.
        deviation: the standard deviation of scores about their prediction.
        threshold: the score to exceed.
    """
    total = 0.0
    scale = 1 / (max(deviation, 1e-9) * math.sqrt(2.0))
    for i in range(len(before)):
        needed = (threshold - slope * before[i] - intercept) * scale
        if needed > 4.5 and slope > 0:  # 1e-10, and less for all that follow
            break
        total += 0.5 * math.erfc(needed)
    return total
