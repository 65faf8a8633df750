"""Rotary position embeddings (Su et al. 2021, arXiv 2104.09864, section 3.2.2), with a memory-saving gradient.

Legend: N tokens of the batch, n heads of queries and keys together, d head dimension.
"""

from typing import Any

import torch
from torch import Tensor


def rotary_table(max_length: int, dim: int, theta: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each (max_length, dim / 2) float32, of the angle of every position and pair of dimensions."""
    # The same formula as in transformers: a frequency that is rounded differently is another angle after 1,000 tokens.
    frequencies = 1.0 / theta ** (torch.arange(0, dim, 2, device=device, dtype=torch.float32) / dim)
    angles = torch.arange(max_length, device=device, dtype=torch.float32)[:, None] * frequencies
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate queries and keys by the angles of their positions. The memory of `x` may be reused for the result.

    Args:
        x: (N, n, d); dimension i and dimension i + d / 2 are a pair.
        cos, sin: (N, 1, d / 2).

    Returns:
        (N, n, d).
    """
    if torch.compiler.is_compiling():
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    if torch.is_grad_enabled():
        rotated: Tensor = _Rotate.apply(x, cos, sin)
        return rotated
    return _rotate_into(x, x, cos, sin)


class _Rotate(torch.autograd.Function):
    """A gradient of our own keeps no activations: it is rotated back by the same angles."""

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
    """Write `x` rotated into `out`, which may be `x`; half the memory traffic of the formula in four operators."""
    (first, second), (out_first, out_second) = x.chunk(2, dim=-1), out.chunk(2, dim=-1)
    rotated = torch.mul(first, cos, out=None if out is x else out_first).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=out_second).addcmul_(first, sin)
    if out is x:
        out_first.copy_(rotated)
    return out
