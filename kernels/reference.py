"""What MaxSim means, in plain PyTorch: short enough to be checked by eye, in any dtype, differentiable by autograd.

Every fast version is tested against this one, values and gradients. Nothing here is meant to be quick or small.
Likewise for the residuals of an index: how they are packed into bits, and what those stand for.

Texts come as a flat tensor of tokens and offsets: text i is `tokens[offsets[i]:offsets[i + 1]]`.

Legend: B queries, A documents, S query tokens, T document tokens, E embedding dim, N tokens, K centroids.
"""

import torch
from torch import Tensor


def maxsim_pair(query: Tensor, document: Tensor) -> Tensor:
    """The score of `document` (T, E) for `query` (S, E): a scalar.

    Each query token counts with the document token nearest to it, the first one where several are equally near. A text
    without tokens scores 0 and gets no gradient. (Khattab and Zaharia 2020, ColBERT, section 3.3.)
    """
    if len(query) == 0 or len(document) == 0:
        return query.new_zeros(())
    return (query @ document.T).max(dim=1).values.sum()


def maxsim(queries: Tensor, query_offsets: Tensor, documents: Tensor, document_offsets: Tensor) -> Tensor:
    """The scores (B, A) of every document for every query."""
    num_documents = len(document_offsets) - 1
    candidates = torch.arange(num_documents).repeat(len(query_offsets) - 1)
    candidate_offsets = torch.arange(len(query_offsets)) * num_documents
    scores = maxsim_candidates(queries, query_offsets, documents, document_offsets, candidates, candidate_offsets)
    return scores.view(len(query_offsets) - 1, num_documents)


def maxsim_candidates(
    queries: Tensor,
    query_offsets: Tensor,
    documents: Tensor,
    document_offsets: Tensor,
    candidates: Tensor,
    candidate_offsets: Tensor,
) -> Tensor:
    """The scores (num_pairs,) of each query with the documents of its own list.

    Args:
        queries: (num_query_tokens, E).
        query_offsets: (B + 1,) int64.
        documents: (num_document_tokens, E).
        document_offsets: (A + 1,) int64.
        candidates: (num_pairs,) int64 document numbers; a document may stand in several lists, or twice in one.
        candidate_offsets: (B + 1,) int64; query b is paired with `candidates[offsets[b]:offsets[b + 1]]`.
    """
    query, document = queries.split(query_offsets.diff().tolist()), documents.split(document_offsets.diff().tolist())
    lists = candidates.split(candidate_offsets.diff().tolist())
    scores = [maxsim_pair(query[b], document[a]) for b, numbers in enumerate(lists) for a in numbers.tolist()]
    return torch.stack(scores) if scores else queries.new_zeros(0)


def pack_buckets(buckets: Tensor, nbits: int) -> Tensor:
    """(N, E · nbits / 8) uint8 from buckets (N, E): of each dimension its lowest bit first; bytes from the highest bit.

    The layout is that of Stanford's ColBERT (`ResidualCodec.binarize`) and fast-plaid.
    """
    bits = buckets.long()[:, :, None] >> torch.arange(nbits) & 1
    return (bits.reshape(len(buckets), -1, 8) << torch.arange(7, -1, -1)).sum(2).to(torch.uint8)


def unpack_buckets(packed: Tensor, nbits: int) -> Tensor:
    """(N, E) int64 from (N, E · nbits / 8) uint8."""
    bits = packed.long()[:, :, None] >> torch.arange(7, -1, -1) & 1
    return (bits.reshape(len(packed), -1, nbits) << torch.arange(nbits)).sum(2)


def encode_residuals(tokens: Tensor, centroids: Tensor, codes: Tensor, cutoffs: Tensor) -> Tensor:
    """The packed residuals of `tokens` (N, E): a bucket is the number of `cutoffs` (2^nbits - 1,) below the value."""
    residuals = tokens - centroids[codes]
    return pack_buckets((residuals[:, :, None] > cutoffs).sum(2), len(cutoffs).bit_length())


def decode_residuals(centroids: Tensor, codes: Tensor, packed: Tensor, weights: Tensor) -> Tensor:
    """The vectors (N, E) before they are normalised: centroids plus the `weights` (2^nbits,) of the buckets."""
    return centroids[codes] + weights[unpack_buckets(packed, len(weights).bit_length() - 1)]
