"""The GPUs on which an index is built or searched."""

from collections.abc import Sequence
from importlib.util import find_spec
from types import NoneType

import torch

from colbertz.errors import UserError, check_type

Device = str | torch.device | Sequence[str | torch.device]


def checked_devices(device: Device | None) -> tuple[torch.device, ...]:
    """The GPUs to use; none for the CPU.

    Raises:
        UserError: for a device that is no GPU, or if CUDA or Triton is missing.
    """
    check_type("device", device, (str, torch.device, Sequence, NoneType), "a device, a list of them, or None")
    names = [] if device is None else [device] if isinstance(device, str | torch.device) else list(device)
    try:
        devices = tuple(torch.device(name) for name in names)
    except RuntimeError as error:
        raise UserError(f"device must be a CUDA device like cuda:1, or None for the CPU, got {device!r}") from error
    if devices == (torch.device("cpu"),):
        return ()
    count = torch.cuda.device_count()
    for gpu in devices:
        if gpu.type != "cuda":
            raise UserError(f"an index is searched on the CPU or on CUDA devices, not on {gpu}")
        if (gpu.index or 0) >= count:
            raise UserError(f"there is no device {gpu}: PyTorch sees {count} CUDA devices; leave it out for the CPU")
    if devices and find_spec("triton") is None:
        raise UserError('search on a GPU needs Triton: pip install "colbertz[gpu]"')
    return devices
