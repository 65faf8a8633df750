"""Self-attention over packed texts: every token attends to the tokens of its own text and to nothing else.

On CUDA in half precision this is one call of PyTorch's variable-length FlashAttention. Everywhere else the encoders put
texts of equal length next to each other (`Packing.of`), so that each run of equal lengths is a plain view of the
flat tensor: attention then needs neither padding nor a padding mask, and a mask appears only where a sliding window is
narrower than the text. Long texts go through the window block by block, so time and memory grow with their length. In
bfloat16 on the CPU texts of up to 512 tokens are filled up to lengths that come again, and the filler is masked.

Legend: N tokens of the batch, B texts, L tokens of a text, h heads, d head dimension.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby, pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from colbertz.errors import UserError
from colbertz.kernels.cpu.attention import bf16_attention, uses_bf16_attention
from colbertz.ragged import Ragged

# A band mask over a whole text costs L×L. From this many windows on, blocks of one window with a halo cost less.
_DENSE_MASK_WINDOWS = 4
# Longer texts are not filled up: their window then goes block by block, for which nothing may be masked.
_MOST_FILLED = 512


@dataclass(frozen=True)
class Packing:
    """Where the texts of a batch lie, worked out once and shared by all layers.

    Attributes:
        ids: the token ids in the order in which the encoder processes the texts, with filler.
        positions: (N,) int64, the place of each token in its text.
        max_length: tokens of the longest text.
        runs: (number of texts, their length) of each run of neighbours of equal length; empty with FlashAttention.
        attended: (number of texts, their length) bool of each run, false for tokens that no token attends to; None for
            a run in which all are attended to.
        filled: whether texts were filled up to lengths that repeat, for the products of kernels/cpu/attention.py.
        restore: index that takes the rows of the result back to the caller's: their order, without the filler.
    """

    ids: Ragged
    positions: Tensor
    max_length: int
    runs: tuple[tuple[int, int], ...]
    attended: tuple[Tensor | None, ...]
    filled: bool
    restore: Tensor | slice

    @classmethod
    def of(cls, ids: Ragged, attended: Tensor | None, weight: Tensor) -> "Packing":
        """Lay out a batch for an encoder with this weight: for FlashAttention or for runs of equal length.

        FlashAttention has no mask for single keys, so a batch with tokens that nobody attends to is laid out in runs.
        """
        if attended is None and _uses_flash(weight):
            longest = int(ids.lengths.max()) if len(ids) else 0
            return cls(ids, _positions(ids), longest, (), (), False, slice(len(ids.values)))
        restore: Tensor | slice = slice(len(ids.values))
        lengths = ids.lengths.tolist()
        if any(a > b for a, b in pairwise(lengths)):
            order = ids.lengths.argsort(stable=True)
            rows = ids.with_values(torch.arange(len(ids.values), device=ids.device))[order].values
            restore = rows.argsort()
            ids = ids[order]
            attended = None if attended is None else attended[rows]
            lengths.sort()
        positions, longest = _positions(ids), max(lengths, default=0)
        filled = attended is None and _uses_products(weight)
        if filled:
            lengths = [_filled_length(length) for length in lengths]
            ids, positions, attended, rows = _filled(ids, positions, lengths)
            restore = rows[restore]
        filler = _round_up(len(ids.values)) - len(ids.values)
        if filler:
            ids = Ragged.cat([ids, Ragged.from_lengths(ids.values.new_zeros(filler), [filler])])
            attended = None if attended is None else F.pad(attended, (0, filler), value=True)
            positions = F.pad(positions, (0, filler))
            lengths.append(filler)
        runs = tuple((len(list(group)), length) for length, group in groupby(lengths) if length)
        masks: tuple[Tensor | None, ...] = (None,) * len(runs)
        if attended is not None:
            each = attended.split([count * length for count, length in runs])
            # Of texts longer than that none was filled up, and all is attended to.
            masks = tuple(
                None if filled and length > _MOST_FILLED else mask.view(count, length)
                for (count, length), mask in zip(runs, each)
            )
        return cls(ids, positions, longest, runs, masks, filled, restore)


def _positions(ids: Ragged) -> Tensor:
    """(N,) int64, the place of each token in its text."""
    return torch.arange(len(ids.values), device=ids.device) - ids.offsets[:-1].repeat_interleave(ids.lengths)


def _filled(ids: Ragged, positions: Tensor, lengths: list[int]) -> tuple[Ragged, Tensor, Tensor, Tensor]:
    """Texts filled up to these lengths with tokens that nobody attends to.

    Returns:
        The ids, their positions, (N',) bool of those that are attended to, and (N,) int64 where the tokens are now.
    """
    starts = torch.tensor([0, *lengths]).cumsum(0)[:-1]
    rows = positions + starts.repeat_interleave(ids.lengths)
    attended = torch.zeros(sum(lengths), dtype=torch.bool).index_fill_(0, rows, True)
    places = positions.new_zeros(len(attended)).index_copy_(0, rows, positions)
    values = ids.values.new_zeros(len(attended)).index_copy_(0, rows, ids.values)
    return Ragged.from_lengths(values, lengths), places, attended, rows


def _round_up(num_tokens: int) -> int:
    """A size that other batches have too: oneDNN compiles, and keeps, a product for every size that it meets.

    The filler is one text more, to which no other attends: 15 tokens at most, or 6 % of a batch.
    """
    step = min(256, max(16, 1 << max(num_tokens.bit_length() - 5, 0)))
    return -(-num_tokens // step) * step


def _filled_length(length: int) -> int:
    """The same for a text: 6 % at most."""
    step = 1 << max(length.bit_length() - 5, 0) if length <= _MOST_FILLED else 1
    return -(-length // step) * step


def _uses_flash(weight: Tensor) -> bool:
    """Whether an encoder with this weight computes on CUDA in half precision, by its dtype or under autocast."""
    return weight.is_cuda and _dtype(weight) in (torch.float16, torch.bfloat16)


def _uses_products(weight: Tensor) -> bool:
    """Whether kernels/cpu/attention.py is for an encoder with this weight."""
    return weight.device.type == "cpu" and uses_bf16_attention(_dtype(weight))


def _dtype(weight: Tensor) -> torch.dtype:
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


def attention(
    q: Tensor, k: Tensor, v: Tensor, packing: Packing, half_window: int | None = None, dropout: float = 0.0
) -> Tensor:
    """Bidirectional softmax attention within each text.

    Args:
        q, k, v: (N, h, d), queries, keys and values; positions are in them already.
        packing: the layout of the N tokens.
        half_window: a token sees the tokens at most this far to either side; None for all of its text.
        dropout: probability with which attention weights are dropped.

    Returns:
        (N, h, d). A token that has nothing to attend to gets zeros.
    """
    if half_window is not None and packing.max_length <= half_window + 1:
        half_window = None
    if packing.runs or not len(q):
        over_runs = attention_over_runs
        if torch.compiler.is_compiling():
            from colbertz.models.encoders.untraced import attention_over_runs as over_runs
        return over_runs(q, k, v, packing, half_window, dropout)
    return _flash_attention(q, k, v, packing, half_window, dropout)


def _flash_attention(
    q: Tensor, k: Tensor, v: Tensor, packing: Packing, half_window: int | None, dropout: float
) -> Tensor:
    if dropout:
        raise UserError(
            f"attention_dropout is {dropout}, but PyTorch's variable-length attention on CUDA has no dropout; "
            "set attention_dropout to 0 in the model's config.json or train in float32"
        )
    from torch.nn.attention.varlen import varlen_attn  # takes two seconds to import and serves CUDA alone

    offsets, longest = packing.ids.offsets.to(torch.int32), packing.max_length
    window = (-1, -1) if half_window is None else (half_window, half_window)
    out = varlen_attn(q, k, v, offsets, offsets, longest, longest, window_size=window)
    assert isinstance(out, Tensor)  # a tuple only if asked for more
    return out


def attention_over_runs(
    q: Tensor, k: Tensor, v: Tensor, packing: Packing, half_window: int | None, dropout: float
) -> Tensor:
    """`attention` of each run of equal length, by PyTorch's scaled dot products or by kernels/cpu/attention.py."""
    sizes = [count * length for count, length in packing.runs]
    out = []
    # `split` rather than slices: its gradient is one concatenation instead of a full-size tensor for every slice.
    for (count, length), keys, *rows in zip(packing.runs, packing.attended, *(x.split(sizes) for x in (q, k, v))):
        qs, ks, vs = (x.view(count, length, *x.shape[1:]).transpose(1, 2) for x in rows)  # each (count, h, L, d)
        window = None if half_window is None or length <= half_window + 1 else half_window
        if window is not None and keys is None and length > _DENSE_MASK_WINDOWS * 2 * window:
            y = _blocked_window(qs, ks, vs, window, dropout)
        else:
            band = None if window is None else _band(length, length, window, 0, q.device).to(q.dtype)
            if packing.filled and not dropout:
                y = bf16_attention(qs, ks, vs, band, keys)
            else:
                y = _sdpa(qs, ks, vs, _mask(band, keys), dropout)
        out.append(y.transpose(1, 2).reshape(count * length, *q.shape[1:]))
    return torch.cat(out) if out else v


def _mask(band: Tensor | None, keys: Tensor | None) -> Tensor | None:
    """For (B, h, L, L) scores: a (L, L) band, what (B, L) allows, or both."""
    if keys is None:
        return band
    allowed = keys[:, None, None]
    return allowed if band is None else allowed & (band == 0)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)


@lru_cache(maxsize=256)
def _band(rows: int, columns: int, half_window: int, shift: int, device: torch.device) -> Tensor:
    """(rows, columns) float32: 0 where column - shift is within `half_window` of the row, else minus infinity.

    A number rather than a boolean, which attention on the CPU would turn into numbers again in every layer.
    """
    # The cache outlives a caller's inference mode, whose tensors autograd would refuse later.
    with torch.inference_mode(False):
        distance = torch.arange(columns, device=device) - shift - torch.arange(rows, device=device)[:, None]
        return torch.zeros(rows, columns, device=device).masked_fill_(distance.abs() > half_window, -torch.inf)


def _blocked_window(q: Tensor, k: Tensor, v: Tensor, half_window: int, dropout: float) -> Tensor:
    """Sliding-window attention in O(L): each block of queries sees its own keys and a halo on both sides.

    q, k, v: (B, h, L, d) -> (B, h, L, d)
    """
    batch, heads, length, dim = q.shape
    block = max(2 * half_window, 64)
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
    y = _sdpa(queries, with_halo(k), with_halo(v), mask, dropout)
    return y.view(batch, num_blocks, heads, block, dim).transpose(1, 2).flatten(2, 3)[:, :, :length]


def rotary_table(max_length: int, dim: int, theta: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines (max_length, dim / 2) float32 of rotary position embeddings (Su et al. 2021, section 3.2.2)."""
    # Written as everyone writes it: another rounding of a frequency is another angle after a thousand tokens.
    frequencies = 1.0 / theta ** (torch.arange(0, dim, 2, device=device, dtype=torch.float32) / dim)
    angles = torch.arange(max_length, device=device, dtype=torch.float32)[:, None] * frequencies
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate queries or keys `x` (N, n, d) by `cos`, `sin` (N, 1, d / 2); the pairs are the halves. May reuse `x`."""
    if torch.compiler.is_compiling():
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    if torch.is_grad_enabled():
        rotated: Tensor = _Rotate.apply(x, cos, sin)
        return rotated
    # Where no gradient is wanted, in place.
    return _rotate_into(x, x, cos, sin)


class _Rotate(torch.autograd.Function):
    """Written out, it keeps no activations: the gradient is rotated back by the same angles."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotate_into(torch.empty(x.shape, dtype=x.dtype, device=x.device), x, cos, sin)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotate_into(torch.empty_like(grad), grad, cos, -sin), None, None


def _rotate_into(out: Tensor, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`x` rotated, in `out`, which may be `x`: half the traffic through memory of the formula in four operators."""
    (first, second), (out_first, out_second) = x.chunk(2, dim=-1), out.chunk(2, dim=-1)
    rotated = torch.mul(first, cos, out=None if out is x else out_first).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=out_second).addcmul_(first, sin)
    if out is x:
        out_first.copy_(rotated)
    return out
