"""Attention of texts laid out in runs of equal length, with sliding windows; see packing.py for the layout.

Each run is a plain view of the flat tensor. A mask appears only where a sliding window is narrower than the text, or
where tokens are not attended to. Long texts go through the window block by block, so time and memory grow with their
length and not with its square.

Legend: N tokens of the batch, B texts of a run, L tokens of each, h heads, d head dimension.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from colbertz.kernels.cpu.attention import Dropout, bf16_attention, dropout_attention
from colbertz.models.encoders.packing import Packing

# A band mask over a whole text costs L×L. From this many windows on, blocks of one window with a halo cost less.
_DENSE_MASK_WINDOWS = 4
# Queries of a block at least, so that narrow windows do not make many small products.
_MIN_BLOCK = 64


def attention_over_runs(
    q: Tensor, k: Tensor, v: Tensor, packing: Packing, half_window: int | None, dropout: float, site: int = 0
) -> Tensor:
    """Softmax attention within each text, by PyTorch's scaled dot products or by kernels/cpu/attention.py.

    Args:
        q, k, v: (N, h, d).
        packing: the layout of the N tokens; it has runs.
        half_window: a token sees the tokens at most this far to either side; None for all of its text.
        dropout: probability with which attention weights are dropped.
        site: which dropout of the encoder this is.

    Returns:
        (N, h, d).
    """
    sizes = [count * length for count, length in packing.runs]
    results = []
    keys = packing.dropout_keys if dropout else None
    all_keys = [None] * len(sizes) if keys is None else keys.split(sizes)
    # `split` rather than slices: its gradient is one concatenation instead of a full-size tensor for every slice.
    parts = zip(packing.runs, packing.attended, all_keys, *(x.split(sizes) for x in (q, k, v)))
    for (count, length), attended, run_keys, *rows in parts:
        qs, ks, vs = (x.view(count, length, *x.shape[1:]).transpose(1, 2) for x in rows)  # each (B, h, L, d)
        dropped = None if run_keys is None else Dropout(run_keys.view(count, length), site, dropout)
        window = None if half_window is None or length <= half_window + 1 else half_window
        if window is not None and attended is None and length > _DENSE_MASK_WINDOWS * 2 * window:
            y = _blocked_window(qs, ks, vs, window, dropped or dropout)
        else:
            band = None if window is None else _band(length, length, window, 0, q.device).to(q.dtype)
            if dropped is not None:
                y = dropout_attention(qs, ks, vs, band, attended, dropped)
            elif packing.filled and not dropout:
                y = bf16_attention(qs, ks, vs, band, attended)
            else:
                y = _sdpa(qs, ks, vs, _mask(band, attended), dropout)
        results.append(y.transpose(1, 2).reshape(count * length, *q.shape[1:]))
    return torch.cat(results) if results else v


def _mask(band: Tensor | None, attended: Tensor | None) -> Tensor | None:
    """The mask of (B, h, L, L) scores: a (L, L) band, the keys that (B, L) `attended` allows, or both."""
    if attended is None:
        return band
    allowed = attended[:, None, None]
    return allowed if band is None else allowed & (band == 0)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)


@lru_cache(maxsize=256)
def _band(rows: int, columns: int, half_window: int, shift: int, device: torch.device) -> Tensor:
    """(rows, columns) float32: 0 where column - shift is within `half_window` of the row, else minus infinity.

    Float rather than bool, because attention on the CPU would convert a boolean mask to float again in every layer.
    """
    # The cache outlives a caller's inference mode, and autograd would refuse a tensor made in it later.
    with torch.inference_mode(False):
        distance = torch.arange(columns, device=device) - shift - torch.arange(rows, device=device)[:, None]
        return torch.zeros(rows, columns, device=device).masked_fill_(distance.abs() > half_window, -torch.inf)


def _blocked_window(q: Tensor, k: Tensor, v: Tensor, half_window: int, dropout: float | Dropout) -> Tensor:
    """Sliding-window attention in O(L): each block of queries sees its own keys and a halo on both sides.

    q, k, v: (B, h, L, d) -> (B, h, L, d)
    """
    batch, heads, length, dim = q.shape
    block = max(2 * half_window, _MIN_BLOCK)
    num_blocks = -(-length // block)
    tail = num_blocks * block - length
    span = block + 2 * half_window

    def with_halo(x: Tensor) -> Tensor:  # (B · blocks, h, span, d)
        x = F.pad(x, (0, 0, half_window, half_window + tail)).unfold(2, span, block)
        return x.permute(0, 2, 1, 4, 3).reshape(batch * num_blocks, heads, span, dim)

    key = torch.arange(num_blocks, device=q.device)[:, None] * block - half_window + torch.arange(span, device=q.device)
    real = ((key >= 0) & (key < length)).repeat(batch, 1)[:, None, None]
    mask = _band(block, span, half_window, half_window, q.device).where(real, -torch.inf).to(q.dtype)
    queries = F.pad(q, (0, 0, 0, tail)).view(batch, heads, num_blocks, block, dim).transpose(1, 2).flatten(0, 1)
    if isinstance(dropout, Dropout):
        keys = F.pad(dropout.keys, (0, tail)).view(-1, block)
        from colbertz.kernels.cpu.dropout import mask as dropout_mask  # numba takes half a second

        factors = dropout_mask(keys, dropout.site, dropout.probability, span, q.dtype, (0, heads))
        weights = torch.softmax(queries @ with_halo(k).mT * dim**-0.5 + mask, -1)
        y = (weights * factors) @ with_halo(v)
    else:
        y = _sdpa(queries, with_halo(k), with_halo(v), mask, dropout)
    return y.view(batch, num_blocks, heads, block, dim).transpose(1, 2).flatten(2, 3)[:, :, :length]
