"""MaxSim of candidates from their packed residuals, on the GPU, in Triton, without writing decoded vectors to memory.

A program scores one candidate, BLOCK_T tokens at a time: packed bytes are split into buckets, buckets are replaced by
their weights, and a matrix product with the query's tokens gives the scores of the residuals. For a query of more than
32 tokens the program reads the document once per 32 tokens.

    residual_maxsim    (centroid score from the table + residual · query) · inverse norm, in half precision: for each
                       token it reads E · nbits / 8 bytes of residuals, the code, the norm, and a row of the table
    exact_maxsim       ((centroid + residual) · inverse norm) · query in float32, the score of the decoded vector

Legend: B queries, n candidates of each, S query tokens of each (padded with zeros), E embedding dim, K centroids.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..arrays import CodedDocuments
from .centroid_maxsim import QUERY_TOKENS
from .tuning import SMALLEST, autotuned, precision, product, size_class

# Values of decoded tokens (BLOCK_T · BLOCK_E) in a program, at most.
_DECODED = 16384

CONFIGS = (
    triton.Config({"BLOCK_T": 64}, num_warps=4, num_stages=3),
    triton.Config({"BLOCK_T": 32}, num_warps=4, num_stages=3),
    triton.Config({"BLOCK_T": 16}, num_warps=4, num_stages=1),
)


def bytes_needed(arguments: dict[str, Any]) -> int:
    """Bytes of shared memory: the factors of the product; for exact scores three copies, the most that was measured."""
    rows, size = arguments["BLOCK_S"] + arguments["BLOCK_T"], arguments["queries"].element_size()
    if arguments["BLOCK_T"] * arguments["BLOCK_E"] > _DECODED:
        return 1 << 30
    copies = 3 if arguments["EXACT"] else 1
    packed = arguments["BLOCK_T"] * arguments["BLOCK_E"] * arguments["num_stages"]
    return int(rows * arguments["BLOCK_E"] * size * copies + packed)


# -- kernels -----------------------------------------------------------------------------------------------------


@triton.jit
def codewords_of(  # type: ignore[no-untyped-def]
    residuals,  # (tokens, PARTS) uint8
    codewords,  # (256, E): codeword b of a part is the part's columns of row b
    tokens,  # (BLOCK_T,) int64
    E: tl.constexpr,
    BLOCK_E: tl.constexpr,
    PARTS: tl.constexpr,
):
    """The decoded residuals (BLOCK_T, BLOCK_E); columns beyond E hold no defined value."""
    dims = tl.minimum(tl.arange(0, BLOCK_E), E - 1)
    parts = ((dims + 1) * PARTS - 1) // E  # part m begins at dimension m · E // PARTS
    entries = tl.load(residuals + tokens[:, None] * PARTS + parts[None, :]).to(tl.int32)
    return tl.load(codewords + entries * E + dims[None, :])


@triton.jit
def residuals_of(  # type: ignore[no-untyped-def]
    residuals,  # (tokens, E · NBITS / 8) uint8
    weights,  # (2^NBITS,) the weight of a bucket, by the bucket's bits in reverse
    tokens,  # (BLOCK_T,) int64
    E: tl.constexpr,
    BLOCK_E: tl.constexpr,
    NBITS: tl.constexpr,
):
    """The decoded residuals (BLOCK_T, BLOCK_E); columns beyond E hold no defined value."""
    NUM_BYTES: tl.constexpr = E * NBITS // 8
    BLOCK_BYTES: tl.constexpr = BLOCK_E * NBITS // 8
    columns = tl.arange(0, BLOCK_BYTES)
    source = residuals + tokens[:, None] * NUM_BYTES + columns[None, :]
    if BLOCK_BYTES == NUM_BYTES:
        packed = tl.load(source)
    else:
        packed = tl.load(source, mask=columns[None, :] < NUM_BYTES, other=0)
    # A byte holds consecutive dimensions, the first in its highest bits.
    if NBITS == 8:
        bits = packed
    elif NBITS == 4:
        bits = tl.join(packed >> 4, packed & 15).reshape(packed.shape[0], BLOCK_E)
    elif NBITS == 2:
        even, odd = tl.join(packed >> 6, (packed >> 2) & 3), tl.join((packed >> 4) & 3, packed & 3)
        bits = tl.join(even, odd).reshape(packed.shape[0], BLOCK_E)
    else:
        b04, b26 = tl.join(packed >> 7, (packed >> 3) & 1), tl.join((packed >> 5) & 1, (packed >> 1) & 1)
        b15, b37 = tl.join((packed >> 6) & 1, (packed >> 2) & 1), tl.join((packed >> 4) & 1, packed & 1)
        bits = tl.join(tl.join(b04, b26), tl.join(b15, b37)).reshape(packed.shape[0], BLOCK_E)
    if NBITS == 1:
        return tl.where(bits != 0, tl.load(weights + 1), tl.load(weights))
    return tl.load(weights + bits.to(tl.int32))


@autotuned(CONFIGS, key=["BLOCK_S", "BLOCK_E", "NBITS", "PARTS", "EXACT", "work"], bytes_needed=bytes_needed)
@triton.jit
def residual_maxsim_kernel(  # type: ignore[no-untyped-def]
    queries,  # (B, S, E), of the weights' dtype
    table,  # (K, B, S) float16; for EXACT the centroids, (K, E) float32
    candidates,  # (B, n) int32, -1 for none
    offsets,  # (documents + 1,) int64
    codes,  # (document tokens,) unsigned
    residuals,  # (document tokens, E · NBITS / 8) uint8; with PARTS (document tokens, PARTS)
    weights,  # (2^NBITS,); with PARTS the codewords, (256, E)
    inverse_norms,  # (document tokens,) float32
    scores,  # (B, n) float32 out
    num_queries,
    n,
    work,  # a measure of the size, for tuning
    E: tl.constexpr,
    S: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_E: tl.constexpr,
    NBITS: tl.constexpr,
    PARTS: tl.constexpr,
    EXACT: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    candidate = tl.program_id(0).to(tl.int64)
    document = tl.load(candidates + candidate)
    score = float("-inf")
    if document >= 0:
        start, end = tl.load(offsets + document), tl.load(offsets + document + 1)
        b, dims = candidate // n, tl.arange(0, BLOCK_E)
        score = 0.0
        for first_column in range(0, S, BLOCK_S):
            columns = first_column + tl.arange(0, BLOCK_S)
            query_source = queries + (b * S + columns)[:, None] * E + dims[None, :]
            if BLOCK_E == E:
                query = tl.load(query_source)
            else:
                query = tl.load(query_source, mask=dims[None, :] < E, other=0)
            best = tl.full([BLOCK_S], float("-inf"), tl.float32)
            for first in tl.range(start, end, BLOCK_T):
                tokens = tl.minimum(first + tl.arange(0, BLOCK_T), end - 1)
                if PARTS:
                    decoded = codewords_of(residuals, weights, tokens, E, BLOCK_E, PARTS)
                else:
                    decoded = residuals_of(residuals, weights, tokens, E, BLOCK_E, NBITS)
                rows = tl.load(codes + tokens).to(tl.int64)
                norms = tl.load(inverse_norms + tokens)
                if EXACT:
                    centroid_source = table + rows[:, None] * E + dims[None, :]
                    if BLOCK_E == E:
                        centroid = tl.load(centroid_source)
                    else:
                        centroid = tl.load(centroid_source, mask=dims[None, :] < E, other=0)
                    token_scores = product(query, (centroid + decoded) * norms[:, None], None, PRECISION)
                else:
                    centroid_scores = tl.load(table + (rows[None, :] * num_queries + b) * S + columns[:, None])
                    token_scores = product(query, decoded, centroid_scores.to(tl.float32), PRECISION) * norms[None, :]
                best = tl.maximum(best, tl.max(token_scores, 1))
            score += tl.sum(tl.where(start < end, best, 0.0), 0)
    tl.store(scores + candidate, score)


# -- launchers ---------------------------------------------------------------------------------------------------


def residual_maxsim(
    queries: Tensor, table: Tensor, candidates: Tensor, documents: CodedDocuments, weights: Tensor
) -> Tensor:
    """The (B, n) float32 scores of candidates with residuals, in half precision; minus infinity for a candidate of -1.

    Args:
        queries: (B, S, E) float16; S is 16 or a multiple of 32, zeros beyond a query's tokens.
        table: (K, B, S) float16, the scores of centroids with query tokens.
        candidates: (B, n) int32 document indices, -1 for none.
        documents: the documents of the index.
        weights: (2^nbits,) float16, by the bucket's bits in reverse (`cpu.bits.reversed_bits`); or the codewords
            (256, E) float16 of a product quantiser, whose rotation has turned `queries` and what made `table`.
    """
    return _scores(queries, table, candidates, documents, weights, exact=False)


def exact_maxsim(
    queries: Tensor, centroids: Tensor, candidates: Tensor, documents: CodedDocuments, weights: Tensor
) -> Tensor:
    """The (B, n) float32 scores of candidates over their decoded vectors.

    Args:
        queries: (B, S, E) float32; otherwise as for `residual_maxsim`.
        centroids: (K, E) float32.
        candidates, documents: as for `residual_maxsim`.
        weights: (2^nbits,) float32, by the bucket's bits in reverse; or the codewords (256, E) float32, whose rotation
            has turned `queries` and `centroids`.
    """
    return _scores(queries, centroids, candidates, documents, weights, exact=True)


def _scores(
    queries: Tensor,
    table: Tensor,
    candidates: Tensor,
    documents: CodedDocuments,
    weights: Tensor,
    *,
    exact: bool,
) -> Tensor:
    scores = torch.empty(candidates.shape, dtype=torch.float32, device=queries.device)
    num_queries, s, dim = queries.shape
    parts = documents.residuals.shape[1] if weights.dim() == 2 else 0
    nbits = 8 if parts else len(weights).bit_length() - 1
    if candidates.numel():
        residual_maxsim_kernel[(candidates.numel(),)](
            queries,
            table,
            candidates,
            documents.offsets,
            documents.codes,
            documents.residuals,
            weights,
            documents.inverse_norms,
            scores,
            num_queries,
            candidates.shape[1],
            size_class(candidates.numel()),
            E=dim,
            S=s,
            BLOCK_S=min(s, QUERY_TOKENS),
            BLOCK_E=max(SMALLEST, triton.next_power_of_2(dim)),
            NBITS=nbits,
            PARTS=parts,
            EXACT=exact,
            PRECISION=precision(queries.dtype),
        )
    return scores
