"""Which candidates that were not scored yet may be among the best: better scores follow approximate ones on a line."""

import math

import numpy as np

from .compiled import njit

# Standard deviations from the expected score to the one that is needed: candidates beyond the last are left out (1e-9
# of them have such scores), and they are counted in steps of this size.
_FARTHEST = 6.0
_STEPS = 64  # for each standard deviation


@njit()
def fit_line(x, y):  # type: ignore[no-untyped-def]
    """The line of least squares through the points, with a slope of at least 0 and at most 1.

    Args:
        x, y: (n,) float32, n > 2. If all x are equal, the slope is 1.

    Returns:
        Its slope, its intercept, and the standard deviation of y from it, in float64.
    """
    n = len(x)
    x_mean, y_mean = 0.0, 0.0
    for i in range(n):
        x_mean += np.float64(x[i])
        y_mean += np.float64(y[i])
    x_mean, y_mean = x_mean / n, y_mean / n
    variance, covariance = 0.0, 0.0
    for i in range(n):
        variance += (x[i] - x_mean) ** 2
        covariance += (x[i] - x_mean) * (y[i] - y_mean)
    slope = min(max(covariance / variance, 0.0), 1.0) if variance > 0 else 1.0
    intercept, squares = y_mean - slope * x_mean, 0.0
    for i in range(n):
        squares += (y[i] - intercept - slope * x[i]) ** 2
    return slope, intercept, math.sqrt(squares / (n - 2))


@njit()
def worth_scoring(before, done, slope, intercept, deviation, threshold, tolerance):  # type: ignore[no-untyped-def]
    """All candidates that are not done but those farthest below a threshold that are expected to exceed it seldom.

    The score of candidate i is taken as normally distributed about slope · before[i] + intercept. The candidates that
    are left out hold less than `tolerance` scores above the threshold, as expected. A candidate is left out only
    together with those that have lower scores: of a larger set of candidates, none is left out that was not before.

    Args:
        before: (n,) float32, approximate scores.
        done: (n,) bool, candidates that need no score.
        slope, intercept: see above; `slope` ≥ 0.
        deviation: the standard deviation of scores about their prediction, > 0.
        threshold: the score to exceed.
        tolerance: the expected number of scores above the threshold that are missed.

    Returns:
        The positions of the others, int64, ascending.
    """
    num_steps = int(_FARTHEST * _STEPS)
    counts = np.zeros(num_steps + 1, np.int64)
    steps = np.empty(len(before), np.int16)
    scale = _STEPS / deviation
    for i in range(len(before)):
        needed = (threshold - slope * before[i] - intercept) * scale
        step = num_steps if needed >= num_steps else 0 if needed < 1 else int(needed)
        steps[i] = step
        if not done[i]:
            counts[step] += 1
    nearest, missed = num_steps, 0.0  # candidates of this step and farther ones are left out
    while nearest > 0:
        missed += counts[nearest - 1] * 0.5 * math.erfc((nearest - 1) / _STEPS / math.sqrt(2.0))
        if missed >= tolerance:
            break
        nearest -= 1
    positions = np.empty(len(before), np.int64)
    num_worthy = 0
    for i in range(len(before)):
        if steps[i] < nearest and not done[i]:
            positions[num_worthy] = i
            num_worthy += 1
    return positions[:num_worthy]
