"""`x @ weight.T + bias` on the CPU through oneDNN: in float32 and differentiable, and in bfloat16 without gradient.

PyTorch computes float32 products on the CPU with MKL, which uses slower code on processors that are not from Intel: on
two Zen 5 cores it reached 175 to 190 GFLOP/s, and oneDNN, which is part of the same PyTorch, 320 to 410
(benchmarks/linear_cpu.py). oneDNN is called through `torch.ops.mkldnn._linear_pointwise`, the operator that
torch.compile uses on the CPU. PyTorch itself uses oneDNN in bfloat16, with 3 to 15 % more work around small products.
Other devices and dtypes, and PyTorch without oneDNN, use PyTorch's own product.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .attention import uses_bf16_attention
from .onednn import WHEN_ENCODING, keep_products

# Here, because whatever computes products on the CPU imports this module before the first one.
keep_products(WHEN_ENCODING)


def _uses_onednn(*tensors: Tensor) -> bool:
    dtype = tensors[0].dtype
    return (
        all(t.dtype == dtype and t.device.type == "cpu" for t in tensors)
        and (dtype == torch.float32 or (uses_bf16_attention(dtype) and not torch.is_grad_enabled()))
        and torch.backends.mkldnn.is_available()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def _weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """`grad.T @ x`, in parts: the sum over all tokens at once would not stay in the cache (see docs/log.md)."""
    rows = 512 if grad.shape[1] + x.shape[1] >= 768 else 2048
    total = _product(grad[:rows].t(), x[:rows].t())
    for start in range(rows, len(x), rows):
        total += _product(grad[start : start + rows].t(), x[start : start + rows].t())
    return total


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return _product(x, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        dx = _product(grad, weight.t()) if ctx.needs_input_grad[0] else None
        dweight = _weight_gradient(grad, x) if ctx.needs_input_grad[1] else None
        dbias = grad.sum(0) if ctx.has_bias and ctx.needs_input_grad[2] else None
        return dx, dweight, dbias


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x` (N, in) times `weight` (out, in) transposed, plus `bias` (out,): (N, out), as `F.linear` computes it."""
    if not _uses_onednn(x, weight) or x.dim() != 2 or x.numel() == 0:
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled():
        return _Linear.apply(x, weight, bias)
    return _product(x, weight, bias)


def product(a: Tensor, b: Tensor) -> Tensor:
    """`a` (M, E) times `b` (N, E) transposed: (M, N), without autograd."""
    if not _uses_onednn(a, b) or a.numel() == 0 or b.numel() == 0:
        return a @ b.T
    return _product(a, b)
