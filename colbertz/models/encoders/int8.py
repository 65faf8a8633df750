"""An encoder whose products are computed in 8-bit integers on the CPU, for encoding only.

Weights are quantised once, with a scale for each output, and activations when they come, with a scale for each token;
see kernels/cpu/int8.py. Norms, attention and the projections behind the encoder stay in the model's own type.
"""

from typing import Any

import torch
from torch import Tensor, nn

from colbertz.errors import UserError
from colbertz.kernels import cpu
from colbertz.models.encoders.layers import Linear


class Int8Linear(nn.Module):
    """`Linear` on flat (N, in) rows with a quantised weight."""

    bias: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self._quantised = cpu.int8.quantise(linear.weight)
        self._packed = cpu.int8.pack(*self._quantised)
        bias = torch.zeros(linear.out_features) if linear.bias is None else linear.bias.detach()
        self.register_buffer("bias", bias.clone(), persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            raise UserError(
                "a model with backend torch-int8 computes no gradients: call it under torch.no_grad(), or load it with "
                "backend torch to train it"
            )
        return cpu.int8.linear(input, self._packed, self.bias)

    def __getstate__(self) -> dict[str, Any]:
        # oneDNN's layout of a weight cannot be pickled.
        return {**self.__dict__, "_packed": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._packed = cpu.int8.pack(*self._quantised)


def quantise(module: nn.Module) -> None:
    """Replace all products of an encoder on the CPU, in place; those with sizes that do not fit stay.

    Raises:
        UserError: if this processor has no instructions for such products.
    """
    if cpu.int8.instructions() is None:
        raise UserError(
            "backend torch-int8 needs a processor that multiplies 8-bit integers (AVX-512 VNNI, AVX-VNNI or AMX), and "
            "PyTorch with oneDNN; use backend torch"
        )
    for name, child in module.named_children():
        if isinstance(child, Linear) and cpu.int8.fits(child.weight):
            setattr(module, name, Int8Linear(child))
        else:
            quantise(child)


def is_quantised(module: nn.Module) -> bool:
    """Whether `quantise` replaced any of its products."""
    return any(isinstance(part, Int8Linear) for part in module.modules())


def check_has_weights(module: nn.Module, to: str) -> None:
    """Raise UserError for a quantised encoder, which cannot be written; `to` says what was wanted."""
    if is_quantised(module):
        raise UserError(f"a model with backend torch-int8 has no weights to {to}; load it with backend torch")
