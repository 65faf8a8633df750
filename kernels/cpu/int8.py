"""`x @ weight.T + bias` in 8-bit integers on the CPU: a scale for each row of `x`, and one for each row of `weight`.

Rows of `x` are quantised when they come ("dynamic"), by their largest magnitude. oneDNN multiplies the integers and
adds them up without rounding, so a row's result does not depend on the others of its batch. reference.py says what is
computed. Called through `torch.ops.onednn`, the operators that PyTorch's quantised models use.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .compiled import njit
from .simd.bf16 import LANES
from .simd.int8 import quantise_row, scale_row

# What is added to the integers of `x`, which oneDNN wants without a sign.
_ZERO_POINT = 128
# A number of rows for which oneDNN lays out weights; products with other numbers work too.
_ROWS = 2048


class Int8Weight(NamedTuple):
    """A weight that was quantised and packed for oneDNN.

    Attributes:
        packed: the integers, in a layout of oneDNN's own.
        scales: (out,) float32.
        zeros: (out,) int64, the zero points of symmetric integers.
        size: (out, in).
    """

    packed: Tensor
    scales: Tensor
    zeros: Tensor
    size: tuple[int, int]


def instructions() -> str | None:
    """The instructions with which this processor multiplies 8-bit integers, by PyTorch's name; None without them.

    Without them oneDNN needs several instructions for each, and integers that are too large for some overflow.
    """
    if not torch.backends.mkldnn.is_available():
        return None
    capabilities = torch.cpu.get_capabilities()
    return next((name for name in ("amx_int8", "avx512_vnni", "avx_vnni") if capabilities.get(name)), None)


def fits(weight: Tensor) -> bool:
    """Whether products with a weight (out, in) can be computed here: both sizes are multiples of 16."""
    return all(size % LANES == 0 and size > 0 for size in weight.shape)


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A weight (out, in) as int8 integers of the same shape, and float32 scales (out,)."""
    weight = weight.detach().float()
    scales = weight.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / 127
    return (weight / scales[:, None]).round().to(torch.int8), scales


def pack(integers: Tensor, scales: Tensor) -> Int8Weight:
    """Lay out what `quantise` gave for products."""
    packed = torch.ops.onednn.qlinear_prepack(integers.contiguous(), [_ROWS, integers.shape[1]])
    return Int8Weight(
        packed, scales, torch.zeros(len(scales), dtype=torch.int64), (integers.shape[0], integers.shape[1])
    )


def linear(x: Tensor, weight: Int8Weight, bias: Tensor) -> Tensor:
    """`x` (N, in) times `weight`, plus `bias` (out,), both bfloat16 or both float32: (N, out), without gradient."""
    if not len(x):
        return x.new_empty(0, weight.size[0])
    x = x.contiguous()
    integers = torch.empty(x.shape, dtype=torch.uint8)
    scales = np.empty(len(x), np.float32)
    _quantise(_flat(x), x.shape[1], integers.view(-1).numpy(), scales)
    product = torch.ops.onednn.qlinear_pointwise(
        integers, 1.0, _ZERO_POINT, weight.packed, weight.scales, weight.zeros, None, 1.0, 0, x.dtype, "none", [], ""
    )
    _scale(_flat(product), product.shape[1], scales, _flat(bias))
    return product


def _flat(x: Tensor) -> np.ndarray:
    """The memory of a contiguous tensor, bfloat16 as uint16."""
    flat = x.detach().view(-1)
    return (flat.view(torch.uint16) if x.dtype == torch.bfloat16 else flat).numpy()


@njit()
def _quantise(x: np.ndarray, width: int, out: np.ndarray, scales: np.ndarray) -> None:
    for row in range(len(scales)):
        scales[row] = quantise_row(x, row * width, width, out)


@njit()
def _scale(x: np.ndarray, width: Any, scales: np.ndarray, bias: np.ndarray) -> None:
    for row in range(len(scales)):
        scale_row(x, row * width, width, scales[row], bias)
