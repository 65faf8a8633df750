"""What MaxSim means, in plain PyTorch: short enough to be checked by eye, in any dtype, differentiable by autograd.

Every fast version is tested against this one, values and gradients. Nothing here is meant to be fast or to save memory.
The second part says which centroid is nearest to a token, how the residuals of an index are packed into bits, and which
vectors they stand for, the third what an encoder computes between its matrix products.

Legend: B queries, A documents, P pairs, S query tokens, T document tokens, E embedding dim, N tokens, K centroids,
h heads, d head dimension, I size of a gate.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .arrays import Candidates, Texts


def maxsim_pair(query: Tensor, document: Tensor) -> Tensor:
    """The score of `document` (T, E) for `query` (S, E): a scalar.

    Each query token counts with the document token nearest to it, the first one where several are equally near. A text
    without tokens scores 0 and gets no gradient. (Khattab and Zaharia 2020, ColBERT, section 3.3.)
    """
    if len(query) == 0 or len(document) == 0:
        return query.new_zeros(())
    return (query @ document.T).max(dim=1).values.sum()


def maxsim(queries: Texts, documents: Texts) -> Tensor:
    """The scores (B, A) of every document for every query."""
    doc_idx = torch.arange(documents.num_texts).repeat(queries.num_texts)
    offsets = torch.arange(queries.num_texts + 1) * documents.num_texts
    scores = maxsim_candidates(queries, documents, Candidates(doc_idx, offsets))
    return scores.view(queries.num_texts, documents.num_texts)


def maxsim_candidates(queries: Texts, documents: Texts, candidates: Candidates) -> Tensor:
    """The scores (P,) of each query with the documents of its own list."""
    query = queries.values.split(queries.offsets.diff().tolist())
    document = documents.values.split(documents.offsets.diff().tolist())
    lists = candidates.doc_idx.split(candidates.offsets.diff().tolist())
    scores = [maxsim_pair(query[b], document[a]) for b, doc_idx in enumerate(lists) for a in doc_idx.tolist()]
    return torch.stack(scores) if scores else queries.values.new_zeros(0)


def nearest(tokens: Tensor, centroids: Tensor) -> Tensor:
    """The centroid (K, E) with the largest product for each token (N, E), the first of equal ones: (N,) int64."""
    return (tokens @ centroids.T).argmax(dim=1)


def pack_buckets(buckets: Tensor, nbits: int) -> Tensor:
    """Pack buckets (N, E) to (N, E · nbits / 8) uint8: lowest bit of a bucket first, highest bit of a byte first.

    The layout is that of Stanford's ColBERT (`ResidualCodec.binarize`) and fast-plaid.
    """
    bits = buckets.long()[:, :, None] >> torch.arange(nbits) & 1
    return (bits.reshape(len(buckets), -1, 8) << torch.arange(7, -1, -1)).sum(2).to(torch.uint8)


def unpack_buckets(packed: Tensor, nbits: int) -> Tensor:
    """The buckets (N, E) int64 that `pack_buckets` packed to (N, E · nbits / 8) uint8."""
    bits = packed.long()[:, :, None] >> torch.arange(7, -1, -1) & 1
    return (bits.reshape(len(packed), -1, nbits) << torch.arange(nbits)).sum(2)


def encode_residuals(tokens: Tensor, centroids: Tensor, codes: Tensor, cutoffs: Tensor) -> Tensor:
    """The packed residuals of `tokens` (N, E): a bucket is the number of `cutoffs` (2^nbits - 1,) below the value."""
    residuals = tokens - centroids[codes]
    return pack_buckets((residuals[:, :, None] > cutoffs).sum(2), len(cutoffs).bit_length())


def decode_residuals(centroids: Tensor, codes: Tensor, packed: Tensor, weights: Tensor) -> Tensor:
    """The vectors (N, E) before they are normalised: centroids plus the `weights` (2^nbits,) of the buckets."""
    return centroids[codes] + weights[unpack_buckets(packed, len(weights).bit_length() - 1)]


def gated_gelu(x: Tensor) -> Tensor:
    """The GELU of the first half of each row times its second half: (N, 2·I) -> (N, I). (Shazeer 2020, 2002.05202.)"""
    value, gate = x.chunk(2, dim=-1)
    return F.gelu(value) * gate


def int8_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`x` (N, in) times `weight` (out, in) transposed, plus `bias` (out,): (N, out), both rounded to 8-bit integers.

    Each row has a scale, a 127th of its largest magnitude.
    """
    x_scales, weight_scales = (rows.abs().amax(1, keepdim=True).clamp(min=1e-30) / 127 for rows in (x, weight))
    return (x / x_scales).round() @ (weight / weight_scales).round().T * x_scales * weight_scales.T + bias


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn pairs of dimensions of `x` (T, h, d), i and i + d / 2, by the angles of T positions; cos, sin (T, d / 2)."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def attention(q: Tensor, k: Tensor, v: Tensor, half_window: int | None = None) -> Tensor:
    """Softmax attention of the tokens of one text, (T, h, d); a token sees those at most `half_window` away, or all."""
    q, k, v = (x.transpose(0, 1) for x in (q, k, v))
    scores = q @ k.mT * q.shape[-1] ** -0.5
    if half_window is not None:
        place = torch.arange(scores.shape[-1])
        scores = scores.masked_fill((place - place[:, None]).abs() > half_window, -torch.inf)
    return (torch.softmax(scores, dim=-1) @ v).transpose(0, 1)


def _parts(dim: int, num_parts: int) -> list[slice]:
    return [slice(m * dim // num_parts, (m + 1) * dim // num_parts) for m in range(num_parts)]


def encode_product(residuals: Tensor, codewords: Tensor, num_parts: int) -> Tensor:
    """For each part of residuals (N, E) the nearest of the part's columns of codewords (256, E): (N, M) uint8."""
    parts = _parts(residuals.shape[1], num_parts)
    nearest = [(residuals[:, None, part] - codewords[:, part]).square().sum(2).argmin(1) for part in parts]
    return torch.stack(nearest, 1).to(torch.uint8)


def decode_product(packed: Tensor, codewords: Tensor) -> Tensor:
    """The residuals (N, E) that `encode_product` coded to (N, M) uint8."""
    parts = _parts(codewords.shape[1], packed.shape[1])
    return torch.cat([codewords[packed[:, m].long(), part] for m, part in enumerate(parts)], 1)


def product_tables(query: Tensor, codewords: Tensor, num_parts: int) -> Tensor:
    """The products (S, M, 256) of each part of the tokens of a query (S, E) with its codewords (256, E)."""
    return torch.stack([query[:, part] @ codewords[:, part].T for part in _parts(query.shape[1], num_parts)], 1)


def product_sums(tables: Tensor, packed: Tensor) -> Tensor:
    """The products (S, N) of query tokens with coded residuals (N, M), from tables (S, M, 256) of any number type."""
    return torch.stack([tables[:, m, packed[:, m].long()] for m in range(packed.shape[1])]).sum(0)
