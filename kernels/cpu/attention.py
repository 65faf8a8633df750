"""Self-attention in bfloat16 on the CPU for texts of equal length, written as plain matrix products, differentiable.

PyTorch's `scaled_dot_product_attention` computes on the CPU in small blocks. Here the scores of a few texts at a time
are written out, so few that they stay in the cache, and are computed again in the backward pass: on two Zen 4 cores 163
instead of 52 GFLOP/s in the backward pass of texts of 150 tokens, and 30 instead of 3 for texts of 12
(benchmarks/attention_cpu.py). Scores are rounded to bfloat16 before the softmax, as in any attention that writes them.

Legend: B texts, h heads, L tokens of each text, d head dimension, n texts of a chunk times h.
"""

from collections.abc import Iterator
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
    padding = None
    if attended is not None:
        padding = torch.zeros(attended.shape, dtype=q.dtype).masked_fill_(~attended, _PADDING_SCORE)[:, None, None]
    if q.shape[1] * q.shape[2] ** 2 > max_scores:
        bias = band if padding is None or band is None else band + padding
        return F.scaled_dot_product_attention(q, k, v, attn_mask=padding if band is None else bias)
    y: Tensor = _Attention.apply(q, k, v, band, padding, chunk_scores)
    return y


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, band: Tensor | None, padding: Tensor | None, chunk_scores: int
    ) -> Tensor:
        ctx.save_for_backward(q, k, v, band, padding)
        ctx.chunk_scores = chunk_scores
        out = _empty_like(q)
        for texts in chunks(q, chunk_scores):
            weights = _weights(_rows(q[texts]), _rows(k[texts]), band, _part(padding, texts))
            _write(torch.bmm(weights, _rows(v[texts])), out[texts])
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        q, k, v, band, padding = ctx.saved_tensors
        dq, dk, dv = _empty_like(q), _empty_like(k), _empty_like(v)
        scale = q.shape[-1] ** -0.5
        for texts in chunks(q, ctx.chunk_scores):
            chunk_q, chunk_k, chunk_v, chunk_grad = (_rows(x[texts]) for x in (q, k, v, grad))
            weights = _weights(chunk_q, chunk_k, band, _part(padding, texts))
            _write(torch.bmm(weights.mT, chunk_grad), dv[texts])
            dscores = torch._softmax_backward_data(torch.bmm(chunk_grad, chunk_v.mT), weights, -1, weights.dtype)
            _write(_product(dscores, chunk_k, scale), dq[texts])
            _write(_product(dscores.mT, chunk_q, scale), dk[texts])
        return dq, dk, dv, None, None, None


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


def _empty_like(x: Tensor) -> Tensor:
    """(B, h, L, d) with a token's heads next to each other in memory, the layout that an encoder uses."""
    num_texts, heads, length, dim = x.shape
    return x.new_empty(num_texts, length, heads, dim).transpose(1, 2)


def _rows(x: Tensor) -> Tensor:
    """(texts, h, L, d) as (n, L, d)."""
    return x.reshape(-1, *x.shape[2:])


def _part(padding: Tensor | None, texts: slice) -> Tensor | None:
    return None if padding is None else padding[texts]


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
