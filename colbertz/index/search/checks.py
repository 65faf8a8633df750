"""Checks of what a search is given, besides its options: the queries and the devices."""

from collections.abc import Sequence
from importlib.util import find_spec

import torch

from colbertz.errors import UserError
from colbertz.index.search.options import Device
from colbertz.ragged import Ragged


def checked_queries(queries: Ragged, dim: int, device: torch.device | str = "cpu") -> Ragged:
    """The queries in float32 on `device`.

    Args:
        queries: (num_tokens, E) embeddings of any floating point type.
        dim: E of the index.
        device: where the search runs.

    Raises:
        UserError: for queries of another dimension, without tokens, or with NaN or infinite values.
        TypeError: if they are not a Ragged.
    """
    if not isinstance(queries, Ragged):
        raise TypeError(f"queries must be a Ragged of embeddings, got {type(queries).__name__}")
    shape = tuple(queries.values.shape)
    if len(shape) != 2 or shape[1] != dim:
        raise UserError(f"queries of shape {shape} do not fit an index of dimension {dim}")
    queries = queries.detach().to(device, torch.float32)
    empty = (queries.lengths == 0).nonzero()
    if len(empty):
        raise UserError(f"query {int(empty[0])} has no tokens")
    if not bool(queries.values.isfinite().all()):
        raise UserError("the queries' embeddings hold NaN or infinite values; look for NaN weights in the model")
    return queries


def check_texts(texts: Sequence[str]) -> None:
    """Raise TypeError for one string in place of a list of queries."""
    if isinstance(texts, str):
        raise TypeError(f"queries must be a list of strings, got the string {texts!r}")


def checked_devices(device: Device | None) -> tuple[torch.device, ...]:
    """The GPUs to search on; none for the CPU.

    Raises:
        UserError: for a device that is no GPU, or if CUDA or Triton is missing.
    """
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
