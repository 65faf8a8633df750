"""The layout of a batch inside an encoder: which text lies where, worked out once and shared by all layers.

With FlashAttention (CUDA, half precision) the texts stay as the caller has them. Everywhere else texts of equal length
are put next to each other, so that every run of equal lengths is a plain view of the flat tensor and needs neither
padding nor a padding mask. On a CPU that multiplies bfloat16, texts of up to 512 tokens are also filled up to a few
lengths, because oneDNN compiles one kernel per shape; the filler is masked. Without gradient,
kernels/cpu/encoder.py fills up each head by itself, and nothing else is computed for the filler.

Legend: N tokens of the batch, N' tokens with filler, B texts.
"""

from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from colbertz.kernels import cpu
from colbertz.kernels.cpu.attention import HEAD_DIM_STEP, uses_bf16_attention
from colbertz.ragged import Ragged

if TYPE_CHECKING:
    from colbertz.kernels.cpu.encoder import Chunk

# Longer texts are not filled up: their sliding window is computed block by block, which allows no mask.
_MAX_FILLED_LENGTH = 512
# Longer texts are computed window by window, in time that grows with their length.
_MAX_FUSED_LENGTH = 1024
# Fewer tokens, as a query has, do not load numba, which takes half a second.
_FEW_TOKENS = 256


@dataclass(frozen=True)
class Packing:
    """Where the texts of a batch lie.

    Attributes:
        ids: the token ids in the order in which the encoder processes the texts, with filler.
        positions: (N',) int64, the position of each token in its text.
        max_length: tokens of the longest text.
        runs: (number of texts, their length) of each run of neighbours of equal length; empty with FlashAttention.
        attended: for each run (number of texts, their length) bool, false for tokens that no token attends to; None for
            a run in which all are attended to.
        filled: whether texts were filled up to a few lengths, for the products of kernels/cpu/attention.py.
        restore: index that takes the rows of the result back to the caller's: their order, without the filler.
        dropout_keys: (N',) int64, from which the masks of dropout are made; None for PyTorch's own dropout.
        parts: the heads that kernels/cpu/encoder.py computes together, where it computes attention: without gradient,
            in bfloat16 on a CPU that multiplies it. Then texts are not filled up and there are no runs.
    """

    ids: Ragged
    positions: Tensor
    max_length: int
    runs: tuple[tuple[int, int], ...]
    attended: tuple[Tensor | None, ...]
    filled: bool
    restore: Tensor | slice
    dropout_keys: Tensor | None = None
    parts: "tuple[Chunk, ...]" = ()

    @classmethod
    def of(
        cls,
        ids: Ragged,
        attended: Tensor | None,
        weight: Tensor,
        seeds: Tensor | None = None,
        heads: tuple[int, int] | None = None,
    ) -> "Packing":
        """Lay out a batch for an encoder with this weight: for FlashAttention or for runs of equal length.

        FlashAttention has no mask for single keys, so a batch with unattended tokens is laid out in runs.

        Args:
            ids: B texts of token ids, N in all.
            attended: (N,) bool, false for tokens that no token attends to; None if all are attended to.
            weight: any weight of the encoder; its device and dtype decide.
            seeds: (B,) int64 seeds of each text's dropout, on the CPU; None without dropout, or for PyTorch's own.
            heads: number and dimension of the encoder's heads if it is in evaluation mode; else None.
        """
        if attended is None and _uses_flash(weight):
            max_length = int(ids.lengths.max()) if len(ids) else 0
            return cls(ids, _positions(ids), max_length, (), (), False, slice(len(ids.values)))
        restore: Tensor | slice = slice(len(ids.values))
        lengths = ids.lengths.tolist()
        if any(a > b for a, b in pairwise(lengths)):
            order = ids.lengths.argsort(stable=True)
            rows = ids.with_values(torch.arange(len(ids.values), device=ids.device))[order].values
            restore = rows.argsort()
            ids = ids[order]
            attended = None if attended is None else attended[rows]
            seeds = None if seeds is None else seeds[order]
            lengths.sort()
        positions, max_length = _positions(ids), max(lengths, default=0)
        uses_products = attended is None and _uses_products(weight)
        fused = heads is not None and uses_products and _uses_fused(len(ids.values), max_length, heads[1])
        filled = uses_products and not fused
        if filled:
            lengths = [_filled_length(length) for length in lengths]
            ids, positions, attended, rows = _fill(ids, positions, lengths)
            restore = rows[restore]
        parts = tuple(cpu.encoder.chunks(lengths, *heads)) if fused and heads is not None else ()
        num_filler = _rounded_up(len(ids.values)) - len(ids.values)
        if num_filler:
            seeds = None if seeds is None else F.pad(seeds, (0, 1))
            ids = Ragged.cat([ids, Ragged.from_lengths(ids.values.new_zeros(num_filler), [num_filler])])
            attended = None if attended is None else F.pad(attended, (0, num_filler), value=True)
            positions = F.pad(positions, (0, num_filler))
            lengths.append(num_filler)
        if parts:
            return cls(ids, positions, max_length, (), (), False, restore, parts=parts)
        runs = tuple((len(list(group)), length) for length, group in groupby(lengths) if length)
        masks: tuple[Tensor | None, ...] = (None,) * len(runs)
        if attended is not None:
            of_runs = attended.split([count * length for count, length in runs])
            # Longer texts were not filled up, and a batch that is filled up has no other unattended tokens.
            masks = tuple(
                None if filled and length > _MAX_FILLED_LENGTH else part.view(count, length)
                for (count, length), part in zip(runs, of_runs)
            )
        keys = None
        if seeds is not None:
            # Imported here because numba takes half a second, and encoding has no dropout.
            from colbertz.kernels.cpu.dropout import token_keys

            keys = token_keys(seeds, ids.lengths)
        return cls(ids, positions, max_length, runs, masks, filled, restore, keys)


def dropout_seeds(ids: Ragged, seeds: Tensor | None) -> Tensor | None:
    """The seeds of each text's dropout in a training pass: those given, or drawn from PyTorch's generator.

    None where dropout is PyTorch's own: on other devices, and in code that torch.compile compiles.
    """
    if ids.device.type != "cpu" or torch.compiler.is_compiling():
        return None
    return draw_seeds(len(ids)) if seeds is None else seeds


def draw_seeds(num_texts: int) -> Tensor:
    """(num_texts,) int64 seeds of each text's dropout, from PyTorch's generator of the CPU."""
    return torch.randint(2**63 - 1, (num_texts,))


def compute_dtype(weight: Tensor) -> torch.dtype:
    """The dtype in which an encoder with this weight computes: autocast's, or else the weight's own."""
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


def _positions(ids: Ragged) -> Tensor:
    """(N,) int64, the position of each token in its text."""
    return torch.arange(len(ids.values), device=ids.device) - ids.offsets[:-1].repeat_interleave(ids.lengths)


def _fill(ids: Ragged, positions: Tensor, lengths: list[int]) -> tuple[Ragged, Tensor, Tensor, Tensor]:
    """Fill texts up to these lengths with tokens that no token attends to.

    Returns:
        The ids, their positions, (N',) bool of the tokens that are attended to, and (N,) int64, the new row of each of
        the caller's tokens.
    """
    starts = torch.tensor([0, *lengths]).cumsum(0)[:-1]
    rows = positions + starts.repeat_interleave(ids.lengths)
    attended = torch.zeros(sum(lengths), dtype=torch.bool).index_fill_(0, rows, True)
    filled_positions = positions.new_zeros(len(attended)).index_copy_(0, rows, positions)
    values = ids.values.new_zeros(len(attended)).index_copy_(0, rows, ids.values)
    return Ragged.from_lengths(values, lengths), filled_positions, attended, rows


def _rounded_up(num_tokens: int) -> int:
    """Round the size of a batch up to one that other batches have too: oneDNN compiles one kernel per shape.

    The filler is one more text, to which no other attends: at most 15 tokens, or 6 % of a batch.
    """
    step = min(256, max(16, 1 << max(num_tokens.bit_length() - 5, 0)))
    return -(-num_tokens // step) * step


def _filled_length(length: int) -> int:
    """Round the length of a text up for the same reason, by 6 % at most."""
    step = 1 << max(length.bit_length() - 5, 0) if length <= _MAX_FILLED_LENGTH else 1
    return -(-length // step) * step


def _uses_fused(num_tokens: int, max_length: int, head_dim: int) -> bool:
    """Whether a batch in evaluation mode should use kernels/cpu/encoder.py."""
    return (
        num_tokens >= _FEW_TOKENS
        and max_length <= _MAX_FUSED_LENGTH
        and head_dim % HEAD_DIM_STEP == 0
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
    )


def _uses_flash(weight: Tensor) -> bool:
    """Whether an encoder with this weight computes on CUDA in half precision, by its dtype or under autocast."""
    return weight.is_cuda and compute_dtype(weight) in (torch.float16, torch.bfloat16)


def _uses_products(weight: Tensor) -> bool:
    """Whether an encoder with this weight should use kernels/cpu/attention.py."""
    return weight.device.type == "cpu" and uses_bf16_attention(compute_dtype(weight))
