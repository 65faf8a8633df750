"""The type that a model computes in where nobody chose one."""

from typing import Literal

import torch
from torch import nn

# A type, or "auto" for the faster one of bfloat16 and float32, or None for float32.
DType = torch.dtype | Literal["auto"] | None


def fast_bf16() -> str | None:
    """The instructions with which this processor multiplies bfloat16, by PyTorch's name for them; None without them.

    oneDNN computes bfloat16 on other processors too, but converts it to float32 first, which is slower than float32.
    """
    if not torch.backends.mkldnn.is_available():
        return None
    capabilities = torch.cpu.get_capabilities()
    # AMX and AVX-512 on x86, BFMMLA on Arm.
    return next((name for name in ("amx_bf16", "avx512_bf16", "bf16") if capabilities.get(name)), None)


def chosen_dtype(dtype: DType, device: torch.device) -> torch.dtype:
    """What `dtype` means on this device: "auto" is bfloat16 on CUDA, and on processors that multiply it fast."""
    if dtype == "auto":
        fast = device.type == "cuda" or (device.type == "cpu" and fast_bf16() is not None)
        return torch.bfloat16 if fast else torch.float32
    return dtype or torch.float32


def dtype_name(model: nn.Module) -> str:
    """The name of the type of a model's weights, such as "bfloat16"."""
    return str(next(model.parameters()).dtype).removeprefix("torch.")


def describe(model: nn.Module) -> str:
    """What a model computes in, for messages; an exported one has no weights, and its file decides."""
    return dtype_name(model) if any(True for _ in model.parameters()) else "onnxruntime"
