"""Several training processes: rank and size of this process, and a gather of documents that passes gradients.

`torchrun` starts the processes and sets RANK, LOCAL_RANK and WORLD_SIZE; without these variables there is one process.

Each process scores its own queries against the documents of all processes. In the backward pass a document's gradient
is the sum of the gradients from the queries of all processes. DDP then averages parameter gradients over the processes.
Because every process took the mean over an equal share of the queries, this average is exactly the gradient of the mean
over the global batch: the same numbers as one process with the whole batch, scale included.
"""

import gc
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from colbertz.ragged import Ragged


@dataclass(frozen=True)
class World:
    """The processes of this run.

    Attributes:
        rank: the index of this process.
        size: the number of processes.
        device: the device of this process.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this is the first process, which prints, evaluates and writes."""
        return self.rank == 0


@contextmanager
def world() -> Iterator[World]:
    """Join the processes that torchrun started, and leave them at the end: NCCL between GPUs, gloo between CPUs.

    Calls may be nested, as where a recipe runs several stages: the inner ones yield the same processes.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    device = torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1 or dist.is_initialized():
        yield World(dist.get_rank() if size > 1 else 0, size, device)
        return
    # The others wait while the first process evaluates, which takes longer than the default timeout of ten minutes.
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(hours=2))
    try:
        yield World(dist.get_rank(), size, device)
        dist.barrier()  # no process leaves while others still exchange data with it
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)  # the frames keep the model alive
        raise
    finally:
        # DDP has threads of its own and is part of reference cycles. If it is still alive when the interpreter exits,
        # its threads are stopped in the middle of C++ code, which sometimes aborts the process. It must be freed before
        # that, so callers create DDP in a function that has returned by now.
        gc.collect()
        dist.destroy_process_group()


def gather(texts: Ragged) -> Ragged:
    """The texts of all processes in order of rank, with gradient; `texts` itself if there is one process.

    Every process must call this, and must use the result in a loss of equal weight.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return texts
    return Ragged.from_lengths(gather_rows(texts.values), _gather_rows(texts.lengths))


def gather_rows(rows: Tensor) -> Tensor:
    """The rows (n, …) of all processes in order of rank, with gradient; n may differ between processes.

    Every process must call this, as for `gather`.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return rows
    gathered: Tensor = _Gather.apply(rows)
    return gathered


def mean(values: Tensor) -> Tensor:
    """The elementwise mean over all processes, without gradient."""
    if not dist.is_initialized():
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def maximum(value: int) -> int:
    """The largest of the processes' values."""
    if not dist.is_initialized():
        return value
    largest = _on_exchange_device(value)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest)


def from_first(value: float) -> float:
    """The first process's value."""
    if not dist.is_initialized():
        return value
    shared = _on_exchange_device(value)
    dist.broadcast(shared, 0)
    return float(shared)


def _on_exchange_device(value: float) -> Tensor:
    """A scalar on the device from which the backend can send it: NCCL only sends from GPUs."""
    return torch.tensor(value, dtype=torch.float64, device="cuda" if dist.get_backend() == "nccl" else "cpu")


def any_of(text: str) -> str:
    """The text of the first process that has one."""
    if not dist.is_initialized():
        return text
    texts = [""] * dist.get_world_size()
    dist.all_gather_object(texts, text)
    return next(filter(None, texts), "")


def mean_gradients(module: nn.Module) -> None:
    """Replace the gradients of a small module that DDP does not wrap by their means over all processes."""
    for parameter in module.parameters():
        if parameter.grad is not None:
            parameter.grad.copy_(mean(parameter.grad))


@contextmanager
def no_sync(network: nn.Module) -> Iterator[None]:
    """Within this context backward passes add to the gradients of this process and exchange nothing.

    The first backward pass after it exchanges the sums.
    """
    if isinstance(network, FSDPModule):
        network.set_requires_gradient_sync(False)
        yield
        network.set_requires_gradient_sync(True)
    else:
        with network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext():
            yield


def barrier() -> None:
    """Wait for all processes."""
    if dist.is_initialized():
        dist.barrier()


def _gather_rows(rows: Tensor) -> Tensor:
    """Concatenate (n_rank, …) over the processes, which may differ in n."""
    counts = rows.new_zeros(dist.get_world_size(), dtype=torch.int64)
    counts[dist.get_rank()] = len(rows)
    dist.all_reduce(counts)
    # all_gather needs equal shapes, so every process fills up its rows to the largest number of rows.
    sent = rows.new_zeros(int(counts.max()), *rows.shape[1:])
    sent[: len(rows)] = rows
    received = [torch.empty_like(sent) for _ in counts]
    dist.all_gather(received, sent)
    return torch.cat([part[:count] for part, count in zip(received, counts.tolist())])


class _Gather(torch.autograd.Function):
    """Gathers rows; the gradient of a row is the sum of the gradients that all processes have for it."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.num_rows = torch.tensor(len(rows), device=rows.device)
        return _gather_rows(rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        counts = _gather_rows(ctx.num_rows[None]).tolist()
        total = grad.contiguous().clone()
        dist.all_reduce(total)
        start = sum(counts[: dist.get_rank()])
        return total[start : start + counts[dist.get_rank()]]
