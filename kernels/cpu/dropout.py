"""Dropout on the CPU whose mask is a function of a key and a place, and of nothing else.

PyTorch's dropout draws from one generator of the process, so a mask depends on everything that was drawn before it, in
whatever order threads come to it, and it has to be kept for the backward pass. Here each token of a batch has a key,
made from the seed of its text and its position. A bit of a mask is a hash of the token's key, of the layer's `site` and
of the column (a counter-based generator: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"). The mask
is computed again in the backward pass, and it does not depend on which texts share a minibatch, nor on threads.

The hash is `triple32` of Chris Wellons' hash-prospector; the second half of the key is mixed in after its first round.

Legend: B texts, N tokens, R rows of a mask, C columns.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .compiled import njit

# Odd numbers near 2^64 and 2^32 divided by the golden ratio: multiples of them are spread evenly.
_GOLDEN_64 = np.uint64(0x9E3779B97F4A7C15)
_GOLDEN_32 = np.uint32(0x9E3779B9)
_FIRST, _SECOND, _THIRD = np.uint32(0xED5AD4BB), np.uint32(0xAC4C1B51), np.uint32(0x31848BAB)


def token_keys(seeds: Tensor, lengths: Tensor) -> Tensor:
    """A key for every token.

    Args:
        seeds: (B,) int64, one for each text; equal texts of a batch should have different ones.
        lengths: (B,) int64, tokens of each text, N in all.

    Returns:
        (N,) int64, all bits of it random.
    """
    counts = lengths.numpy()
    starts = np.cumsum(counts) - counts
    positions = np.arange(int(counts.sum())) - np.repeat(starts, counts)
    # SplitMix64 (Steele et al. 2014): the seed is mixed once, so that seeds next to each other share no keys.
    bases = _mixed(seeds.numpy().view(np.uint64))
    keys = _mixed(np.repeat(bases, counts) + (positions.astype(np.uint64) + np.uint64(1)) * _GOLDEN_64)
    return torch.from_numpy(keys.view(np.int64))


def _mixed(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = x ^ (x >> np.uint64(31))
    return mixed


@njit()
def _fill(  # type: ignore[no-untyped-def]
    keys,  # (tokens, 2) uint32
    sites,  # (heads,) uint32
    threshold,  # uint32: a hash below it is a dropped number
    kept,  # what numbers that are not dropped are multiplied by, as `out` holds it
    out,  # (texts, heads, length, columns)
):
    texts, heads, length, columns = out.shape
    for text in range(texts):
        for head in range(heads):
            for row in range(length):
                token = text * length + row
                first, second = keys[token, 0], np.uint32(keys[token, 1] ^ sites[head])
                target = out[text, head, row]
                for column in range(columns):
                    x = np.uint32(first + np.uint32(np.uint32(column) * _GOLDEN_32))
                    x = np.uint32((x ^ (x >> np.uint32(17))) * _FIRST)
                    x = np.uint32(x ^ second)
                    x = np.uint32((x ^ (x >> np.uint32(11))) * _SECOND)
                    x = np.uint32((x ^ (x >> np.uint32(15))) * _THIRD)
                    x = np.uint32(x ^ (x >> np.uint32(14)))
                    target[column] = kept if x >= threshold else out.dtype.type(0)


def mask(
    keys: Tensor, site: int, probability: float, columns: int, dtype: torch.dtype, heads: tuple[int, int] = (0, 1)
) -> Tensor:
    """The factors that dropout multiplies by: 0 with `probability`, else 1 / (1 - probability).

    Args:
        keys: (B, L) int64, a key for each row, as `token_keys` makes them.
        site: which dropout of the model this is, from 0 to 2^16 - 1.
        probability: of being dropped, from 0 to 1.
        columns: C.
        dtype: of the result.
        heads: the first head and the one after the last; each has a mask of its own.

    Returns:
        (B, heads, L, C).
    """
    result = torch.empty(keys.shape[0], heads[1] - heads[0], keys.shape[1], columns, dtype=dtype)
    if probability >= 1:
        return result.zero_()
    kept = torch.tensor(1 / (1 - probability), dtype=dtype)
    if dtype == torch.bfloat16 or dtype == torch.float16:  # numba has neither: it writes their bits
        out, factor = result.view(torch.int16).numpy(), kept.view(torch.int16).numpy()[()]
    else:
        out, factor = result.numpy(), kept.numpy()[()]
    # Sites and heads are counted together, and the counter spread over all bits.
    sites = (np.arange(heads[0], heads[1], dtype=np.uint32) + np.uint32(site << 16)) * _GOLDEN_32
    halves = keys.contiguous().numpy().view(np.uint32).reshape(-1, 2)
    _fill(halves, sites, np.uint32(min(round(probability * 2**32), 2**32 - 1)), factor, out)
    return result


def dropout(x: Tensor, keys: Tensor, site: int, probability: float) -> Tensor:
    """`x` (N, C) with some numbers set to 0 and the others divided by 1 - `probability`; differentiable.

    Args:
        x: on the CPU.
        keys: (N,) int64, a key for each row.
        site, probability: as for `mask`.
    """
    dropped: Tensor = _Dropout.apply(x, keys, site, probability)
    return dropped


class _Dropout(torch.autograd.Function):
    """The mask is not kept: the backward pass computes it again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, keys: Tensor, site: int, probability: float) -> Tensor:
        ctx.save_for_backward(keys)
        ctx.site, ctx.probability = site, probability
        return x * _rows(keys, site, probability, x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (keys,) = ctx.saved_tensors
        return grad * _rows(keys, ctx.site, ctx.probability, grad), None, None, None


def _rows(keys: Tensor, site: int, probability: float, like: Tensor) -> Tensor:
    return mask(keys[None], site, probability, like.shape[1], like.dtype)[0, 0]
