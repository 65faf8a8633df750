"""Self-attention of texts of equal length on the CPU in bfloat16, as plain products, and differentiable.

PyTorch's `scaled_dot_product_attention` computes on the CPU in small blocks. Here the scores of a few texts at a time
are written out, so few that they stay in the cache, and computed again in the backward pass: on two Zen 4 cores 163
instead of 52 GFLOP/s backwards through texts of 150 tokens, 30 instead of 3 through those of 12
(benchmarks/attention_cpu.py). Scores are rounded to bfloat16 before the softmax, as wherever they are written out.

Legend: B texts, h heads, L tokens of each text, d head dimension, n texts of a chunk times h.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Scores that are there at once, one text's at least; of a text that alone has more than the second, PyTorch keeps none.
_CHUNK_SCORES, _MOST_SCORES = 1 << 21, 1 << 26
# Added to the scores of filler. A number and not minus infinity, since filler itself may see nothing but filler.
_HIDDEN = -30_000.0


def is_for(dtype: torch.dtype) -> bool:
    """Whether tensors of this dtype on this machine's CPU are better off here."""
    if dtype != torch.bfloat16 or not torch.backends.mkldnn.is_available():
        return False
    multiplies: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return multiplies


def attention(q: Tensor, k: Tensor, v: Tensor, band: Tensor | None = None, attended: Tensor | None = None) -> Tensor:
    """Softmax attention, as `scaled_dot_product_attention` computes it.

    oneDNN compiles, and keeps, a product for every size that it meets: lengths should be such as come again.

    Args:
        q, k, v: (B, h, L, d) bfloat16 on the CPU.
        band: (L, L), added to the scores before the softmax; no row is all minus infinity.
        attended: (B, L) bool, false for tokens at the end of a text that no other attends to. What they get themselves
            is finite, and means nothing.

    Returns:
        (B, h, L, d).
    """
    hidden = None
    if attended is not None:
        hidden = torch.zeros(attended.shape, dtype=q.dtype).masked_fill_(~attended, _HIDDEN)[:, None, None]
    if q.shape[1] * q.shape[2] ** 2 > _MOST_SCORES:
        bias = band if hidden is None or band is None else band + hidden
        return F.scaled_dot_product_attention(q, k, v, attn_mask=hidden if band is None else bias)
    y: Tensor = _Attention.apply(q, k, v, band, hidden)
    return y


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, band: Tensor | None, hidden: Tensor | None) -> Tensor:
        ctx.save_for_backward(q, k, v, band, hidden)
        out = _empty_like(q)
        for texts in _chunks(q):
            weights = _weights(_rows(q[texts]), _rows(k[texts]), band, _of(hidden, texts))
            _write(torch.bmm(weights, _rows(v[texts])), out[texts])
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, band, hidden = ctx.saved_tensors
        dq, dk, dv = _empty_like(q), _empty_like(k), _empty_like(v)
        scale = q.shape[-1] ** -0.5
        for texts in _chunks(q):
            own_q, own_k, own_v, own_grad = (_rows(x[texts]) for x in (q, k, v, grad))
            weights = _weights(own_q, own_k, band, _of(hidden, texts))
            _write(torch.bmm(weights.mT, own_grad), dv[texts])
            dscores = torch._softmax_backward_data(torch.bmm(own_grad, own_v.mT), weights, -1, weights.dtype)
            _write(_product(dscores, own_k, scale), dq[texts])
            _write(_product(dscores.mT, own_q, scale), dk[texts])
        return dq, dk, dv, None, None


def _chunks(x: Tensor) -> Iterator[slice]:
    """Texts by powers of two, sizes that come again."""
    count, heads, length, _ = x.shape
    most, start = max(1, _CHUNK_SCORES // (heads * length * length)), 0
    while start < count:
        step = 1 << (min(most, count - start).bit_length() - 1)
        yield slice(start, start + step)
        start += step


def _empty_like(x: Tensor) -> Tensor:
    """(B, h, L, d), the heads of a token side by side, as the rest of an encoder has them."""
    count, heads, length, dim = x.shape
    return x.new_empty(count, length, heads, dim).transpose(1, 2)


def _rows(x: Tensor) -> Tensor:
    """(texts, h, L, d) as (n, L, d)."""
    return x.reshape(-1, *x.shape[2:])


def _of(hidden: Tensor | None, texts: slice) -> Tensor | None:
    return None if hidden is None else hidden[texts]


def _write(rows: Tensor, out: Tensor) -> None:
    out.copy_(rows.view(out.shape))


def _weights(q: Tensor, k: Tensor, band: Tensor | None, hidden: Tensor | None) -> Tensor:
    """(n, L, L), what each token takes of each."""
    scores = _product(q, k.mT, q.shape[-1] ** -0.5, band)
    if hidden is not None:
        scores.view(len(hidden), -1, *scores.shape[1:]).add_(hidden)
    return torch.softmax(scores, -1)


def _product(a: Tensor, b: Tensor, scale: float, bias: Tensor | None = None) -> Tensor:
    """`scale * a @ b + bias`, rounded once."""
    if bias is None:
        return torch.baddbmm(a.new_empty(1), a, b, beta=0, alpha=scale)
    return torch.baddbmm(bias, a, b, alpha=scale)
