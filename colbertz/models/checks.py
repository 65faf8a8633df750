"""Checks of the arguments of `ColBERT`, where they come in."""

from collections.abc import Sequence
from types import NoneType

import torch

from colbertz.errors import UserError, check_integer, check_path, check_show_progress, check_type


def check_loading(path_or_hub_id: object, device: object, dtype: object, embedding_dim: object, seed: object) -> None:
    """Raise UserError or TypeError for arguments that `ColBERT.from_pretrained` cannot use."""
    check_path("path_or_hub_id", path_or_hub_id)
    check_type("device", device, (str, torch.device, NoneType), "a device or None")
    if dtype != "auto":
        check_type("dtype", dtype, (torch.dtype, NoneType), "a dtype of PyTorch, 'auto' or None")
    if isinstance(dtype, torch.dtype) and not dtype.is_floating_point:
        raise UserError(f"dtype must be a floating point type, got {dtype}")
    if embedding_dim is not None:
        check_integer("embedding_dim", embedding_dim, 1)
    check_integer("seed", seed, 0)


def check_on_cpu(backend: str, device: torch.device | str | None) -> str:
    """The device of a backend that runs on the CPU only; UserError if another one was asked for."""
    if device is not None and str(device).partition(":")[0] != "cpu":
        raise UserError(f"backend {backend} runs on the CPU, got device {device}; leave device out")
    return "cpu"


def check_encoding(
    side: object, prompt: object, batch_tokens: object, normalize: object, show_progress: object, devices: object
) -> None:
    """Raise UserError or TypeError for arguments that `ColBERT.encode` cannot use."""
    if side not in ("query", "document"):
        raise UserError(f"side must be query or document, got {side!r}")
    check_type("prompt", prompt, (str, NoneType), "a string or None")
    if batch_tokens is not None:
        check_integer("batch_tokens", batch_tokens, 1)
    check_type("normalize", normalize, bool, "True or False")
    check_show_progress(show_progress)
    if isinstance(devices, str) or not isinstance(devices, Sequence | NoneType):
        raise TypeError(f"devices must be a list of devices or None, got {devices!r:.80}")


def usable_device(device: torch.device | str) -> torch.device:
    """The device, if tensors can be put on it.

    Raises:
        UserError: if they cannot.
    """
    try:
        usable = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # AssertionError: PyTorch was built without that backend
        reason = str(error).split(". ")[0].splitlines()[0]
        raise UserError(f"device {device} cannot be used here ({reason}); cpu always can") from error
    if usable.type == "meta":
        raise UserError("device meta cannot be used here (its tensors hold no numbers); cpu always can")
    return usable
