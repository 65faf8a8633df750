"""Weights in a quarter of the bytes: rows of int8 with a scale each, in a file of their own.

The packaged models are stored like this. They are computed with in floating point: reading multiplies every row by its
scale, once. Other programs do not know the file; `ColBERT.save_pretrained` writes plain weights for them.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from safetensors.torch import save as serialized
from torch import Tensor

from colbertz.models.checkpoint.layouts import FILES, CheckpointError

# Name of the scales of a matrix: that of the matrix and this. No module can have a name with a slash.
_SCALES = "/scales"
# The largest number of an int8 that also exists with the other sign.
_LARGEST = 127


def quantised(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Matrices as int8 with float32 scales, one a row (an output channel or a token); other tensors as they are."""
    stored = {}
    for name, tensor in tensors.items():
        if tensor.dim() != len(("rows", "columns")):
            stored[name] = tensor
            continue
        scales = tensor.float().abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny) / _LARGEST
        stored[name] = (tensor.float() / scales[:, None]).round().to(torch.int8)
        stored[name + _SCALES] = scales
    return stored


def dequantised(stored: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors that `quantised` was given, with its rounding.

    Args:
        stored: as `path` has them.
        path: for messages.

    Raises:
        CheckpointError: if an int8 matrix and its scales do not belong together.
    """
    tensors = {}
    for name, tensor in stored.items():
        if name.endswith(_SCALES):
            continue
        if tensor.dtype == torch.int8:
            scales = stored.get(name + _SCALES)
            if scales is None or scales.dtype != torch.float32 or tensor.shape[:1] != scales.shape or tensor.dim() != 2:
                raise CheckpointError(f"{path}: tensor {name} has no scales that fit it; the file is damaged")
            tensor = tensor.float() * scales[:, None]
        tensors[name] = tensor
    return tensors


def store_as_int8(directory: Path) -> None:
    """Replace the weights in a checkpoint directory, those of the encoder and of the dense layers, by int8 ones."""
    for plain in sorted(directory.rglob(FILES.weights)):
        stored = quantised(load_file(plain))
        plain.with_name(FILES.weights_int8).write_bytes(serialized(stored, metadata={"format": "pt"}))
        plain.unlink()
