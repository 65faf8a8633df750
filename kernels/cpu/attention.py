"""Self-attention on the CPU for texts of equal length, written as plain matrix products, differentiable.

PyTorch's `scaled_dot_product_attention` computes on the CPU in small blocks. Here the scores of a few texts at a time
are written out, so few that they stay in the cache, and are computed again in the backward pass: on two Zen 4 cores 163
instead of 52 GFLOP/s in the backward pass of texts of 150 tokens, and 30 instead of 3 for texts of 12
(benchmarks/attention_cpu.py). Scores are rounded to bfloat16 before the softmax, as in any attention that writes them.

With dropout (`dropout_attention`, any dtype) the mask of a chunk is made where it is needed, again in the backward
pass; PyTorch's attention would write all scores of the batch several times.

Legend: B texts, h heads, L tokens of each text, d head dimension, n texts of a chunk times heads of a chunk.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Scores that a chunk of texts has at most, unless one text alone has more.
CHUNK_SCORES = 1 << 21
# A text with more scores than this is left to PyTorch's attention, which keeps none of them.
MAX_SCORES = 1 << 26
# encoder.py, which has no gradients, computes heads whose dimension is a multiple of this.
HEAD_DIM_STEP = 32
# … and gates of 2 · I numbers that are a multiple of this.
GATE_STEP = 32
# Added to the scores of padding. It is finite because a row of padding may see nothing but padding, and a softmax over
# minus infinity alone is NaN.
_PADDING_SCORE = -30_000.0


def uses_bf16_attention(dtype: torch.dtype) -> bool:
    """Whether `bf16_attention` computes this dtype, and this processor multiplies bfloat16."""
    if dtype != torch.bfloat16 or not torch.backends.mkldnn.is_available():
        return False
    is_supported: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return is_supported


def bf16_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    band: Tensor | None = None,
    attended: Tensor | None = None,
    *,
    chunk_scores: int = CHUNK_SCORES,
    max_scores: int = MAX_SCORES,
) -> Tensor:
    """Softmax attention, as `scaled_dot_product_attention` computes it.

    Round L to a few sizes: oneDNN compiles and keeps one kernel per shape.

    Args:
        q, k, v: (B, h, L, d) bfloat16 on the CPU.
        band: (L, L), added to the scores before the softmax; no row is all minus infinity.
        attended: (B, L) bool, false for padding at the end of a text, which no token attends to. The outputs of padding
            are finite and have no meaning.
        chunk_scores: scores (B' · h · L · L) that are computed together, for at least one text.
        max_scores: a text with more scores than this is computed by PyTorch.

    Returns:
        (B, h, L, d).
    """
    padding = _padding(attended, q.dtype, _PADDING_SCORE)
    if q.shape[1] * q.shape[2] ** 2 > max_scores:
        bias = band if padding is None or band is None else band + padding
        return F.scaled_dot_product_attention(q, k, v, attn_mask=padding if band is None else bias)
    y: Tensor = _Attention.apply(q, k, v, band, padding, None, chunk_scores)
    return y


@dataclass(frozen=True)
class Dropout:
    """Which attention weights are dropped.

    Attributes:
        keys: (B, L) int64, a key for each token, as `dropout.token_keys` makes them.
        site: which dropout of the model this is.
        probability: of being dropped.
    """

    keys: Tensor
    site: int
    probability: float


def dropout_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    band: Tensor | None,
    attended: Tensor | None,
    dropout: Dropout,
    *,
    chunk_scores: int = CHUNK_SCORES,
) -> Tensor:
    """As `bf16_attention`, in any floating-point dtype, with dropout of the attention weights.

    A token that has nothing to attend to gets zeros. Where one text has more than `chunk_scores` scores, its heads are
    computed a few at a time.
    """
    padding = _padding(attended, q.dtype, -torch.inf)
    y: Tensor = _Attention.apply(q, k, v, band, padding, dropout, chunk_scores)
    return y


def _padding(attended: Tensor | None, dtype: torch.dtype, score: float) -> Tensor | None:
    """What is added to the scores (B, h, L, L) so that no token attends to padding: (B, 1, 1, L)."""
    if attended is None:
        return None
    return torch.zeros(attended.shape, dtype=dtype).masked_fill_(~attended, score)[:, None, None]


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        band: Tensor | None,
        padding: Tensor | None,
        dropout: Dropout | None,
        chunk_scores: int,
    ) -> Tensor:
        ctx.save_for_backward(q, k, v, band, padding)
        ctx.dropout, ctx.chunk_scores = dropout, chunk_scores
        out = _empty_like(q)
        for part in _parts(q, dropout, chunk_scores):
            weights = _weights(_rows(q[part]), _rows(k[part]), band, _part(padding, part))
            if dropout is not None:
                weights = _seen(weights, band, padding) * _mask(dropout, part, weights)
            _write(torch.bmm(weights, _rows(v[part])), out[part])
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None, None]:
        q, k, v, band, padding = ctx.saved_tensors
        dq, dk, dv = _empty_like(q), _empty_like(k), _empty_like(v)
        scale = q.shape[-1] ** -0.5
        for part in _parts(q, ctx.dropout, ctx.chunk_scores):
            chunk_q, chunk_k, chunk_v, chunk_grad = (_rows(x[part]) for x in (q, k, v, grad))
            weights = _weights(chunk_q, chunk_k, band, _part(padding, part))
            dweights = torch.bmm(chunk_grad, chunk_v.mT)
            dropped = weights
            if ctx.dropout is not None:
                weights = _seen(weights, band, padding)
                factors = _mask(ctx.dropout, part, weights)
                dweights *= factors
                dropped = factors.mul_(weights)
            _write(torch.bmm(dropped.mT, chunk_grad), dv[part])
            dscores = torch._softmax_backward_data(dweights, weights, -1, weights.dtype)
            _write(_product(dscores, chunk_k, scale), dq[part])
            _write(_product(dscores.mT, chunk_q, scale), dk[part])
        return dq, dk, dv, None, None, None, None


def _parts(x: Tensor, dropout: Dropout | None, chunk_scores: int) -> Iterator[tuple[slice, slice]]:
    """The texts and the heads of each chunk; a chunk has all heads unless one text has too many scores."""
    heads, length = x.shape[1:3]
    at_once = heads if dropout is None else max(1, min(heads, chunk_scores // length**2))
    for texts in chunks(x, chunk_scores):
        for first in range(0, heads, at_once):
            yield texts, slice(first, min(first + at_once, heads))


def chunks(x: Tensor, chunk_scores: int = CHUNK_SCORES) -> Iterator[slice]:
    """The texts of `x` (B, h, L, d) in chunks of at most `chunk_scores` scores.

    The number of texts in a chunk is a power of two, so that chunks have few shapes.
    """
    num_texts, heads, length, _ = x.shape
    max_texts, start = max(1, chunk_scores // (heads * length * length)), 0
    while start < num_texts:
        step = 1 << (min(max_texts, num_texts - start).bit_length() - 1)
        yield slice(start, start + step)
        start += step


def _seen(weights: Tensor, band: Tensor | None, padding: Tensor | None) -> Tensor:
    """Weights of zero for a row that sees nothing, because all of its window is padding; a whole text is never that."""
    return weights if band is None or padding is None else weights.nan_to_num_(0.0)


def _mask(dropout: Dropout, part: tuple[slice, slice], weights: Tensor) -> Tensor:
    """The factors of a chunk's weights (n, L, L)."""
    # Here, because this module loads before numba is needed.
    from .dropout import mask

    texts, heads = part
    keys = dropout.keys[texts]
    columns = weights.shape[-1]
    factors = mask(keys, dropout.site, dropout.probability, columns, weights.dtype, (heads.start, heads.stop))
    return factors.view(weights.shape)


def _empty_like(x: Tensor) -> Tensor:
    """(B, h, L, d) with a token's heads next to each other in memory, the layout that an encoder uses."""
    num_texts, heads, length, dim = x.shape
    return x.new_empty(num_texts, length, heads, dim).transpose(1, 2)


def _rows(x: Tensor) -> Tensor:
    """(texts, h, L, d) as (n, L, d)."""
    return x.reshape(-1, *x.shape[2:])


def _part(padding: Tensor | None, part: tuple[slice, slice]) -> Tensor | None:
    return None if padding is None else padding[part[0]]


def _write(rows: Tensor, out: Tensor) -> None:
    out.copy_(rows.view(out.shape))


def _weights(q: Tensor, k: Tensor, band: Tensor | None, padding: Tensor | None) -> Tensor:
    """(n, L, L) attention weights: how much of each token (column) goes into each token (row)."""
    scores = _product(q, k.mT, q.shape[-1] ** -0.5, band)
    if padding is not None:
        scores.view(len(padding), -1, *scores.shape[1:]).add_(padding)
    return torch.softmax(scores, -1)


def _product(a: Tensor, b: Tensor, scale: float, bias: Tensor | None = None) -> Tensor:
    """`scale * a @ b + bias`, rounded once."""
    if bias is None:
        return torch.baddbmm(a.new_empty(1), a, b, beta=0, alpha=scale)
    return torch.baddbmm(bias, a, b, alpha=scale)
