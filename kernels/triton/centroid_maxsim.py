"""MaxSim of candidates as if each token were its centroid, on the GPU, in Triton.

A program scores one candidate: it loads the rows of the table of centroid scores that the document's codes name, and
keeps elementwise maxima, so that lanes are combined only once, at the end. The rows of a query come from the L2 cache:
64 bytes per document token for 32 query tokens in half precision.

Legend: B queries, n candidates of each, S query tokens of each (padded with zeros), K centroids.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..arrays import CodedDocuments
from .tuning import autotuned, size_class

# Query tokens that a program handles at a time.
QUERY_TOKENS = 32

CONFIGS = (
    triton.Config({"BLOCK_T": 32}, num_warps=4, num_stages=3),
    triton.Config({"BLOCK_T": 64}, num_warps=4, num_stages=2),
    triton.Config({"BLOCK_T": 16}, num_warps=2, num_stages=1),
)


def bytes_needed(arguments: dict[str, Any]) -> int:
    """Bytes of shared memory: the rows of the table that are being loaded."""
    return int(arguments["BLOCK_T"] * arguments["BLOCK_S"] * 4 * arguments["num_stages"])


@autotuned(CONFIGS, key=["BLOCK_S", "work"], bytes_needed=bytes_needed)
@triton.jit
def centroid_maxsim_kernel(  # type: ignore[no-untyped-def]
    table,  # (K, B, S) float16
    candidates,  # (B, n) int32, -1 for none
    offsets,  # (documents + 1,) int64
    codes,  # (document tokens,) unsigned
    scores,  # (B, n) float32 out
    num_queries,
    n,
    work,  # a measure of the size, for tuning
    S: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    candidate = tl.program_id(0).to(tl.int64)
    document = tl.load(candidates + candidate)
    score = float("-inf")
    if document >= 0:
        start, end = tl.load(offsets + document), tl.load(offsets + document + 1)
        score = 0.0
        for first_column in range(0, S, BLOCK_S):
            columns = table + candidate // n * S + first_column + tl.arange(0, BLOCK_S)[None, :]
            best = tl.full([BLOCK_T, BLOCK_S], float("-inf"), tl.float32)
            for first in tl.range(start, end, BLOCK_T):
                tokens = tl.minimum(first + tl.arange(0, BLOCK_T), end - 1)
                rows = tl.load(codes + tokens).to(tl.int64) * (num_queries * S)
                best = tl.maximum(best, tl.load(columns + rows[:, None]).to(tl.float32))
            score += tl.sum(tl.where(start < end, tl.max(best, 0), 0.0), 0)
    tl.store(scores + candidate, score)


def centroid_maxsim(table: Tensor, candidates: Tensor, documents: CodedDocuments) -> Tensor:
    """The (B, n) float32 scores of candidates by their centroids; minus infinity where a candidate is -1.

    Args:
        table: (K, B, S) float16, the scores of centroids with query tokens; S is 16 or a multiple of 32, and scores are
            0 for columns beyond a query's tokens.
        candidates: (B, n) int32 document indices, -1 for none.
        documents: offsets and codes are read.
    """
    scores = torch.empty(candidates.shape, dtype=torch.float32, device=table.device)
    _, num_queries, s = table.shape
    if candidates.numel():
        centroid_maxsim_kernel[(candidates.numel(),)](
            table,
            candidates,
            documents.offsets,
            documents.codes,
            scores,
            num_queries,
            candidates.shape[1],
            size_class(candidates.numel()),
            S=s,
            BLOCK_S=min(s, QUERY_TOKENS),
        )
    return scores
