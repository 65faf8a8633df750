"""The steps of an encoder between its matrix products, in bfloat16 and without gradient, each in one pass over memory.

PyTorch's operators read and write every intermediate result. `gated_gelu` is one pass instead of two, and attention
three beside its two products: `_gather` cuts queries, keys and values into heads, turns them by their positions and
fills texts up to lengths that repeat; `_softmax` scales scores and leaves out what is outside of a text or a window;
`_scatter` puts the heads' results next to each other again. reference.py says what they mean.

Legend: N tokens, H hidden size, I size of the gate, h heads, d head dimension, n heads of texts that are computed
together, L tokens of the longest of these texts, rounded up.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .compiled import njit
from .simd.bf16 import LANES, copy_16, gated_gelu_16, rotate_16, softmax_row

# Scores that are computed together, so that they stay in a core's cache.
_CHUNK_SCORES = 1 << 19
# Half a window that is wider than any text.
_EVERYTHING = 1 << 30


def gated_gelu(x: Tensor) -> Tensor:
    """The GELU of the first half of each row of `x` times its second half: (N, 2·I) bfloat16 -> (N, I).

    I is a multiple of 16.
    """
    out = x.new_empty(len(x), x.shape[1] // 2)
    _gated_gelu(_bits(x), _bits(out), out.shape[1])
    return out


class Chunk(NamedTuple):
    """Some heads of texts of like length, which are computed together.

    Attributes:
        starts: (n,) int64, the first token of each one's text.
        lengths: (n,) int64, the tokens of the text.
        columns: (n,) int64, where the head begins in a row of H numbers.
        width: L.
        dim: d, a multiple of 32.
    """

    starts: np.ndarray
    lengths: np.ndarray
    columns: np.ndarray
    width: int
    dim: int


def chunks(lengths: list[int], heads: int, dim: int) -> list[Chunk]:
    """How the heads, h of d dimensions, of texts of these lengths are computed together.

    Texts of like length should be neighbours. The number of heads in a chunk is a power of two, so that products have
    few sizes: oneDNN compiles one kernel for each.
    """
    sizes = np.array(lengths, np.int64)
    starts, widths = np.cumsum(sizes) - sizes, _rounded_up(sizes)
    bounds = np.flatnonzero(np.diff(widths, prepend=-1, append=-1)).tolist()
    result = []
    for first, last in pairwise(bounds):
        width, start, stop = int(widths[first]), first * heads, last * heads
        at_once = max(1, _CHUNK_SCORES // max(1, width * width))
        while start < stop and width:
            count = 1 << (min(at_once, stop - start).bit_length() - 1)
            texts, head = np.divmod(np.arange(start, start + count), heads)
            result.append(Chunk(starts[texts], sizes[texts], head * dim, width, dim))
            start += count
    return result


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    parts: Sequence[Chunk],
    rotary: tuple[Tensor, Tensor] | None = None,
    half_window: int | None = None,
) -> Tensor:
    """Softmax attention within each text.

    Args:
        q, k, v: (N, H) bfloat16, the heads of a token next to each other, and with the same strides.
        parts: all heads of all texts, from `chunks`.
        rotary: cosines and sines, each (positions, d / 2) float32, by which queries and keys are turned.
        half_window: a token sees the tokens at most this far to either side; None for all of its text.

    Returns:
        (N, H); 0 for tokens after the last text.
    """
    out = q.new_empty(q.shape)
    out[parts[-1].starts[-1] + parts[-1].lengths[-1] :] = 0
    window = _EVERYTHING if half_window is None else half_window
    rows, stride, result = (_bits(q), _bits(k), _bits(v)), q.stride(0), _bits(out)
    nothing = np.empty(0, np.float32)
    angles = (nothing, nothing) if rotary is None else tuple(table.numpy().ravel() for table in rotary)
    for part in parts:
        qkv = q.new_empty(3, len(part.starts), part.width, part.dim)
        _gather(*rows, stride, *angles, *part, _bits(qkv))
        scores = torch.bmm(qkv[0], qkv[1].mT)
        _softmax(_bits(scores), part.lengths, part.width, np.float32(part.dim**-0.5), window)
        _scatter(_bits(torch.bmm(scores, qkv[2])), *part, result, q.shape[1])
    return out


def _rounded_up(lengths: np.ndarray) -> np.ndarray:
    """Texts' lengths rounded up to multiples of 16, of longer ones to multiples of 32."""
    step = np.where(lengths <= 256, LANES, 2 * LANES)
    return -(-lengths // step) * step


def _bits(x: Tensor) -> np.ndarray:
    """The memory of a bfloat16 tensor from its first element on, flat, as uint16."""
    size = sum((n - 1) * stride for n, stride in zip(x.shape, x.stride())) + 1 if x.numel() else 0
    return x.as_strided((size,), (1,)).view(torch.uint16).numpy()


@njit()
def _gated_gelu(x: np.ndarray, out: np.ndarray, size: int) -> None:
    for row in range(len(out) // size):
        for column in range(0, size, LANES):
            start = 2 * row * size + column
            gated_gelu_16(x, start, start + size, out, row * size + column)


@njit()
def _softmax(scores: np.ndarray, lengths: np.ndarray, width: int, scale: Any, half_window: int) -> None:
    """Scores (n, L, L) to weights in place. The rows after a text are not read later and are left as they are."""
    exponentials = np.empty(width, np.float32)
    for i in range(len(lengths)):
        for row in range(lengths[i]):
            first, last = max(0, row - half_window), min(lengths[i], row + half_window + 1)
            softmax_row(scores, (i * width + row) * width, width, first, last, scale, exponentials)


@njit()
def _gather(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, stride: int, cos: np.ndarray, sin: np.ndarray,
    starts: np.ndarray, lengths: np.ndarray, columns: np.ndarray, width: int, dim: int, out: np.ndarray,
) -> None:  # fmt: skip
    """q, k, v, with rows `stride` apart, to out (3, n, L, d): q and k turned if there are cosines; 0 after a text."""
    half, size = dim // 2, len(starts) * width * dim
    for i in range(len(starts)):
        for row in range(lengths[i]):
            source, target = (starts[i] + row) * stride + columns[i], (i * width + row) * dim
            if len(cos):
                for j in range(0, half, LANES):
                    rotate_16(q, source + j, half, cos, sin, row * half + j, out, target + j)
                    rotate_16(k, source + j, half, cos, sin, row * half + j, out, size + target + j)
            else:
                for j in range(0, dim, LANES):
                    copy_16(q, source + j, out, target + j)
                    copy_16(k, source + j, out, size + target + j)
            for j in range(0, dim, LANES):
                copy_16(v, source + j, out, 2 * size + target + j)
        for third in range(3):
            first = third * size + (i * width + lengths[i]) * dim
            out[first : third * size + (i + 1) * width * dim] = 0


@njit()
def _scatter(
    y: np.ndarray, starts: np.ndarray, lengths: np.ndarray, columns: np.ndarray, width: int, dim: int,
    out: np.ndarray, stride: int,
) -> None:  # fmt: skip
    """Write y (n, L, d) to rows of out, `stride` apart."""
    for i in range(len(starts)):
        for row in range(lengths[i]):
            for j in range(0, dim, LANES):
                copy_16(y, (i * width + row) * dim + j, out, (starts[i] + row) * stride + columns[i] + j)
