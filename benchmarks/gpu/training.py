"""MaxSim of all pairs of a contrastive batch on the GPU, forward and backward, through `colbertz.maxsim`.

16,384 queries and documents of 39 and 187 tokens (even from 63 to 137 % of that), 128 dimensions, bf16. A query's
tokens are noisy copies of some of its document's tokens. The noise differs from query to query: with the strongest the
document is lost among the others, with the weakest it ranks first. So the loss at temperature 0.02 gives as few pairs a
gradient as training does. "passed over" is the share of pairs that kernels/triton/maxsim_backward.py skips. A smaller
batch is measured too, also with a random gradient for every pair, the worst case.

Queries are scored in parts, as many at a time as the memory has room for their scores and places of maxima; "queries at
a time" says how many. The forward pass includes writing the places; TFLOP/s count only the products of the tokens.
Goals: the forward pass at half of the matmul rate, the backward pass no longer than the forward pass.

Writes results/gpu_training.json.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import common
import torch
import torch.nn.functional as F
from torch import Tensor

from colbertz import Ragged, maxsim
from colbertz.kernels.triton.maxsim_backward import NEGLIGIBLE

DIM = common.sized(128, 32)
QUERY_TOKENS, DOCUMENT_TOKENS = common.sized((39, 187), (6, 20))
TRAINED, DENSE = common.sized((16_384, 2048), (6, 4))
TEMPERATURE = 0.02
# The factor of the document's token in a query's token, smallest and largest; the noise has length 1.
KEPT = (0.1, 0.7)
REPEATS = common.sized(3, 1)
# The share of the free memory that scores, their gradients and the places may take.
SHARE = 0.6


@dataclass
class Step:
    """One pass over a part of the queries."""

    forward_ms: float
    backward_ms: float
    grads: Tensor  # (B, A) of the scores
    dqueries: Tensor
    ddocuments: Tensor


def batch(count: int) -> tuple[Ragged, Ragged]:
    """`count` queries and `count` documents; query i is about document i."""
    documents = common.texts(common.around(DOCUMENT_TOKENS, count), DIM)
    lengths = common.around(QUERY_TOKENS, count)
    doc_idx = torch.arange(count, device=common.DEVICE).repeat_interleave(lengths)
    places = (torch.rand(len(doc_idx), device=common.DEVICE) * documents.lengths[doc_idx]).long()
    kept = (KEPT[0] + (KEPT[1] - KEPT[0]) * torch.rand(count, device=common.DEVICE))[doc_idx]
    copied = documents.values[documents.offsets[doc_idx] + places].float()
    tokens = kept[:, None] * copied + common.unit(len(doc_idx), DIM).float()
    return Ragged.from_lengths(F.normalize(tokens, dim=1).bfloat16(), lengths), documents


def loss_gradient(scores: Tensor, first: int) -> Tensor:
    """Of the mean of -log softmax(scores / TEMPERATURE) at query `first + i`'s own document, by the scores."""
    scores = scores.detach().requires_grad_()
    targets = torch.arange(first, first + len(scores), device=scores.device)
    loss = F.cross_entropy(scores / TEMPERATURE, targets, reduction="sum") / scores.shape[1]
    return torch.autograd.grad(loss, scores)[0]


def step(queries: Ragged, documents: Ragged, gradient: Callable[[Tensor], Tensor]) -> Step:
    inputs = [texts.map(lambda values: values.detach().requires_grad_()) for texts in (queries, documents)]
    with common.stopwatch() as forward:
        scores = maxsim(*inputs, backend=common.BACKEND)
    grads = gradient(scores)
    with common.stopwatch() as backward:
        dqueries, ddocuments = torch.autograd.grad(scores, [texts.values for texts in inputs], grads)
    return Step(forward.ms(), backward.ms(), grads, dqueries, ddocuments)


def queries_at_a_time(queries: Ragged, documents: Ragged) -> int:
    """As many queries as fit the memory with six float32 values per score, and the places of the maxima."""
    if common.DRY:
        return -(-len(queries) // 2)
    place = 1 if int(documents.lengths.max()) <= 256 else 2
    bytes_per_query = len(documents) * (6 * 4 + place * int(queries.lengths.max()))
    count = len(queries)
    while count * bytes_per_query > SHARE * torch.cuda.mem_get_info()[0]:
        count = -(-count // 2)
    return count


def check_gradients(queries: Ragged, documents: Ragged, step: Step) -> float:
    """Compare the gradients of two queries and of two documents with float32 over all pairs."""
    padded, mask = documents.float().padded()
    computed, expected = [], []
    for b in strongest(step.grads.abs().sum(1)):
        scores = torch.einsum("se,ate->sat", queries[b].float(), padded).masked_fill(~mask, -torch.inf)
        nearest = padded[torch.arange(len(documents), device=scores.device), scores.argmax(2)]
        expected.append(torch.einsum("a,sae->se", step.grads[b], nearest))
        computed.append(queries.with_values(step.dqueries)[b])
    error = common.check(torch.cat(computed), torch.cat(expected), 2e-2)
    computed, expected = [], []
    query_of = torch.arange(len(queries), device=common.DEVICE).repeat_interleave(queries.lengths)
    tokens = queries.values.float()
    for a in strongest(step.grads.abs().sum(0)):
        places = (tokens @ documents[a].float().T).argmax(1)
        sums = torch.zeros(len(documents[a]), DIM, device=common.DEVICE)
        expected.append(sums.index_add(0, places, step.grads[query_of, a][:, None] * tokens))
        computed.append(documents.with_values(step.ddocuments)[a])
    return max(error, common.check(torch.cat(computed), torch.cat(expected), 2e-2))


def strongest(sums: Tensor) -> tuple[int, int]:
    """The text with the largest sum in the first half, and in the second."""
    half = len(sums) // 2
    return int(sums[:half].argmax()), half + int(sums[half:].argmax())


def check_scores(queries: Ragged, documents: Ragged) -> float:
    """Compare a few rows and columns of the scores with float32."""
    rows, columns = ([0, count // 2, count - 1] for count in (len(queries), len(documents)))
    with torch.no_grad():
        scores = maxsim(queries, documents, backend=common.BACKEND)
    expected = [[float(common.maxsim_pair(queries[b], documents[a])) for a in columns] for b in rows]
    return common.check(scores[rows][:, columns], torch.tensor(expected), 1e-4)


def measure(report: common.Report, kind: str, count: int) -> None:
    row: dict[str, Any] = {"gradient": kind, "queries × documents": f"{count} × {count}"}
    with report.attempt(row, ours=True):
        queries, documents = batch(count)
        size = queries_at_a_time(queries, documents)
        parts = [(first, queries[first : first + size]) for first in range(0, count, size)]

        def gradient(first: int) -> Callable[[Tensor], Tensor]:
            if kind == "dense":
                return lambda scores: torch.randn_like(scores)
            return lambda scores: loss_gradient(scores, first)

        error = check_scores(parts[0][1], documents)
        first_step = step(parts[0][1], documents, gradient(0))  # compiles, and chooses configurations
        error = max(error, check_gradients(parts[0][1], documents, first_step))
        del first_step
        times, passed, peak = [], [], 0
        for _ in range(REPEATS):
            common.reset_peak()
            steps = [0.0, 0.0]
            passed = []
            for first, part in parts:
                done = step(part, documents, gradient(first))
                steps[0] += done.forward_ms
                steps[1] += done.backward_ms
                size_of = done.grads.abs()
                limit = size_of.max() * (NEGLIGIBLE / max(done.grads.shape))
                passed.append(float((size_of <= limit).double().mean()))
                del done, size_of
            times.append(steps)
            peak = common.peak_bytes()
        forward, backward = (statistics.median(column) for column in zip(*times))
        flops = 2 * len(queries.values) * len(documents.values) * DIM
        rate = flops / forward / 1e9
        report.add(
            row
            | {
                "queries at a time": size,
                "forward ms": forward,
                "TFLOP/s": rate,
                "% of matmul (goal ≥ 50)": 100 * rate / report.about["matmul TFLOP/s"],
                "backward ms": backward,
                "× forward (goal ≤ 1)": backward / forward,
                "passed over %": 100 * statistics.mean(passed),
                "peak GB": peak / 1e9,
                "inputs GB": (queries.values.nbytes + documents.values.nbytes) / 1e9,
                "error": error,
            }
        )


def main() -> None:
    args = common.arguments(__doc__).parse_args()
    torch.manual_seed(0)
    report = common.Report("training", common.machine(), args.out)
    measure(report, "contrastive", TRAINED)
    measure(report, "dense", DENSE)
    measure(report, "contrastive", DENSE)
    report.finish()


if __name__ == "__main__":
    main()
