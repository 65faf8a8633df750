"""colbertz.maxsim against PyLate's `colbert_scores` on the CPU: time and peak memory.

Needs an environment with PyLate; prints a table and writes results/maxsim_cpu.json. PyLate gets the same
input as in its training: texts padded to the longest, with a mask. The results must agree before anything is timed.
"""

import os
import sys
from collections.abc import Callable

import common
import torch
import torch.nn.functional as F
from torch import Tensor

from colbertz import Ragged, maxsim

DIM = 128
QUERY_TOKENS = 32
# Deciles of the number of words and punctuation marks in 3,000 sections of Wikipedia, at most 180.
DOCUMENT_TOKENS = (28, 53, 64, 76, 87, 98, 111, 126, 148, 180, 180)
SHAPES = {"64 × 64": (64, 64), "256 × 256": (256, 256), "1 × 1000": (1, 1000)}


def texts(shape: str) -> tuple[Ragged, Ragged]:
    """Random unit vectors in texts of realistic lengths. Their mean is not zero, like that of a model's embeddings."""
    num_queries, num_documents = SHAPES[shape]
    torch.manual_seed(0)
    deciles = torch.tensor(DOCUMENT_TOKENS, dtype=torch.float32)
    quantiles = torch.rand(num_documents) * 10
    lower = quantiles.long()
    lengths = torch.lerp(deciles[lower], deciles[lower + 1], quantiles.frac()).long()
    lengths[0] = 180
    common_direction = 2 * torch.randn(DIM)

    def embeddings(count: int) -> Tensor:
        return F.normalize(torch.randn(count, DIM) + common_direction, dim=1)

    queries = Ragged.from_lengths(embeddings(num_queries * QUERY_TOKENS), [QUERY_TOKENS] * num_queries)
    return queries, Ragged.from_lengths(embeddings(int(lengths.sum())), lengths)


def contender(name: str, shape: str, *, backward: bool) -> Callable[[], Tensor]:
    """A function that scores once and returns the scores, or with `backward` the documents' gradient, flat."""
    queries, documents = texts(shape)
    torch.manual_seed(1)
    weights = torch.randn(len(queries), len(documents))
    if name == "colbertz":
        inputs = (queries.values, documents.values)

        def score() -> Tensor:
            return maxsim(queries, documents)
    else:
        os.environ["PYLATE_SCORES_BACKEND"] = "torch"
        from pylate.scores import colbert_scores

        (Q, q_mask), (D, d_mask) = queries.padded(), documents.padded()
        inputs = (Q, D)

        def score() -> Tensor:
            scores: Tensor = colbert_scores(Q, D, q_mask, d_mask)
            return scores

    if not backward:
        return torch.inference_mode()(score)
    for tensor in inputs:
        tensor.requires_grad_()

    def step() -> Tensor:
        _, gradient = torch.autograd.grad(score(), inputs, weights)
        return gradient if name == "colbertz" else gradient[d_mask]

    return step


def main() -> None:
    about = common.machine("pylate")
    rows = []
    for shape in SHAPES:
        for backward in (False, True):
            both = {name: contender(name, shape, backward=backward) for name in ("pylate", "colbertz")}
            torch.testing.assert_close(both["colbertz"](), both["pylate"](), rtol=1e-4, atol=1e-4)
            durations = common.seconds(both, repeats=3 if shape == "256 × 256" else 15)
            mode = "forward + backward" if backward else "inference"
            memory = {name: common.in_fresh_process(__file__, name, shape, mode) for name in both}
            rows.append(
                {
                    "queries × documents": shape,
                    "step": mode,
                    "PyLate ms": durations["pylate"] * 1e3,
                    "colbertz ms": durations["colbertz"] * 1e3,
                    "times faster": durations["pylate"] / durations["colbertz"],
                    "PyLate MB": memory["pylate"],
                    "colbertz MB": memory["colbertz"],
                    "share of memory": memory["colbertz"] / memory["pylate"],
                }
            )
    common.report("maxsim_cpu", about, rows)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        name, shape, mode = sys.argv[1:]
        SHAPES["warm-up"] = (2, 2)
        backward = mode != "inference"
        contender(name, "warm-up", backward=backward)()  # compiles and loads libraries
        print(common.peak_megabytes(contender(name, shape, backward=backward)))
    else:
        main()
