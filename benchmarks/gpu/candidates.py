"""Reranking on the GPU: 1,000 candidates of one query, and of each of 64, beside flash-maxsim and padded PyTorch.

32 query tokens, documents of 187 (even from 63 to 137 % of that), 128 dimensions, bf16. Candidates are drawn at random
from the collection, each for one query only, so that the floor is reading every candidate once. PyTorch gathers them
from a collection that is padded already; flash-maxsim reads them in place, query by query, as float16. Goal: at most
1.3 × floor. Writes results/gpu_candidates.json.
"""

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

import common
import torch
from torch import Tensor

from colbertz import Ragged, quantised
from colbertz.kernels.arrays import Pairs
from colbertz.kernels.triton.maxsim import text_of_row
from colbertz.kernels.triton.maxsim_candidates import maxsim_candidates

QUERY_TOKENS, DOCUMENT_TOKENS, DIM = common.sized((32, 187, 128), (5, 20, 32))
QUERIES, CANDIDATES = common.sized((64, 1000), (3, 5))
# Lists of the 64 that take turns as those of the one query.
TURNS = common.sized(16, 2)
# Queries that PyTorch takes at a time: 1,000 padded candidates of each are gathered.
AT_A_TIME = 8
CHECKED = 20
flash_maxsim: Any = None
if importlib.util.find_spec("flash_maxsim") and not common.DRY:
    import flash_maxsim


def ours(queries: Ragged, documents: Ragged, lists: Ragged, scales: Tensor | None = None) -> Callable[[], Tensor]:
    """Scores (pairs,). The query of each pair is computed in every call, as `colbertz.maxsim_candidates` does."""
    texts = (common.arrays_of(queries), common.arrays_of(documents))

    def run() -> Tensor:
        pairs = Pairs(lists.values, text_of_row(lists.offsets, len(lists.values)))
        return maxsim_candidates(*texts, pairs, QUERY_TOKENS, scales=scales)[0]

    return run


def plain(queries: Tensor, documents: Tensor, mask: Tensor, lists: Tensor) -> Callable[[], Tensor]:
    """Queries (B, S, E), documents (A, T, E) with a mask (A, T), lists (B, n): scores (B · n,)."""

    def scores_of(queries: Tensor, lists: Tensor) -> Tensor:
        scores = torch.einsum("bse,bnte->bnst", queries, documents[lists])
        return scores.masked_fill(~mask[lists][:, :, None], -torch.inf).amax(3).float().sum(2)

    def run() -> Tensor:
        parts = zip(queries.split(AT_A_TIME), lists.split(AT_A_TIME))
        return torch.cat([scores_of(q, candidates) for q, candidates in parts]).flatten()

    return run


def flash(queries: Tensor, documents: Ragged, lists: Tensor) -> Callable[[], Tensor]:
    starts, lengths = documents.offsets[lists].int(), documents.lengths[lists].int()
    longest = int(documents.lengths.max())

    def run() -> Tensor:
        score = flash_maxsim.flash_maxsim_rerank_direct
        lists_of_queries = zip(queries, starts, lengths)
        return torch.cat([score(query, documents.values, *where, longest) for query, *where in lists_of_queries])

    return run


def verify(queries: Ragged, documents: Ragged, lists: Ragged, limit: float, scores: Tensor) -> float:
    """Against float32, over some pairs from first to last."""
    query_idx = text_of_row(lists.offsets, len(lists.values)).tolist()
    checked = torch.linspace(0, len(scores) - 1, CHECKED).long().tolist()
    pairs = [(queries[query_idx[p]], documents[int(lists.values[p])]) for p in checked]
    return common.check(scores[checked], torch.stack([common.maxsim_pair(*pair) for pair in pairs]), limit)


def measure(report: common.Report, sets: list[tuple[Ragged, Ragged]], documents: Ragged) -> None:
    """One row for each contender; `sets` are queries and their lists, which take turns."""
    queries, lists = sets[0]
    tensors = [(q.values.view(len(q), QUERY_TOKENS, DIM), candidates.values.view(len(q), -1)) for q, candidates in sets]
    num_tokens = int(documents.lengths[lists.values].sum())
    first = None

    def figures(bytes_a_token: int, ms: float) -> dict[str, Any]:
        nbytes = num_tokens * bytes_a_token + queries.values.nbytes + 12 * len(lists.values)
        floor = common.floor_ms(report.about, nbytes, 2 * QUERY_TOKENS * num_tokens * DIM)
        return {"floor ms": floor, "× floor (goal ≤ 1.3)": ms / floor, "× colbertz": ms / (first or ms)}

    def time(name: str, calls: Callable[[], common.Calls], bytes_a_token: int, decoded: Ragged, limit: float) -> Any:
        row = {"queries": len(queries), "candidates of each": CANDIDATES, "contender": name}
        check = partial(verify, queries, decoded, lists, limit)
        return report.time(row, calls, check, partial(figures, bytes_a_token), ours=name.startswith("colbertz"))

    first = time(
        "colbertz", lambda: [ours(q, documents, candidates) for q, candidates in sets], 2 * DIM, documents, 1e-4
    )
    for dtype in (torch.int8, torch.float8_e4m3fn):
        coded, scales = quantised(documents, dtype)
        decoded = coded.with_values(coded.values.float() * scales[:, None])
        name = f"colbertz, {str(dtype).removeprefix('torch.')}"
        time(
            name,
            lambda c=coded, s=scales: [ours(q, c, candidates, s) for q, candidates in sets],
            DIM + 4,
            decoded,
            1e-4,
        )
        del coded, decoded
    if flash_maxsim:
        half = documents.with_values(documents.values.half())
        time(
            "flash-maxsim",
            lambda: [flash(q.half(), half, candidates) for q, candidates in tensors],
            2 * DIM,
            documents,
            1e-2,
        )
    padded = documents.padded()
    time(
        "PyTorch, padded",
        lambda: [plain(q, *padded, candidates) for q, candidates in tensors],
        2 * DIM,
        documents,
        1e-2,
    )


def main() -> None:
    args = common.arguments(__doc__).parse_args()
    torch.manual_seed(0)
    report = common.Report("candidates", common.machine("flash-maxsim"), args.out)
    documents = common.texts(common.around(DOCUMENT_TOKENS, QUERIES * CANDIDATES), DIM)
    queries = common.texts(torch.full((QUERIES,), QUERY_TOKENS, device=common.DEVICE), DIM)
    doc_idx = torch.randperm(len(documents), device=common.DEVICE)
    lists = Ragged.from_lengths(doc_idx, [CANDIDATES] * QUERIES)
    measure(report, [(queries[b : b + 1], lists[b : b + 1]) for b in range(TURNS)], documents)
    measure(report, [(queries, lists)], documents)
    report.finish()


if __name__ == "__main__":
    main()
