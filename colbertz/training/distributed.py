"""Several training processes: who we are, and a gather of documents that gradients flow through.

Started by `torchrun`, which sets RANK, LOCAL_RANK and WORLD_SIZE; without them there is one process.

Each process scores its own queries against the documents of all processes. In the backward pass a document's gradient
is the sum of what all processes' queries have to say about it. DDP then averages parameter gradients over processes,
and since every process took the mean over an equal share of the queries, that is exactly the gradient of the mean over
the global batch: the same numbers as one process with the whole batch, scale included.
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
        rank: the number of this process.
        size: how many there are.
        device: where this one computes.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0


@contextmanager
def world() -> Iterator[World]:
    """Join the processes that torchrun started, and leave them at the end: NCCL between GPUs, gloo between CPUs.

    Within the block it may be asked for again, by each of several stages, and gives the same processes.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    device = torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1 or dist.is_initialized():
        yield World(dist.get_rank() if size > 1 else 0, size, device)
        return
    # While the first process evaluates, the others wait.
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(hours=2))
    try:
        yield World(dist.get_rank(), size, device)
        dist.barrier()  # nobody leaves while others still talk to them
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)  # they hold the model
        raise
    finally:
        # DDP sits in reference cycles and has threads of its own: left to the end of the interpreter, which stops
        # threads in the middle of C++ code, they abort the process now and then. So it has to go first, and whoever
        # makes it makes it in a function that is over by now.
        gc.collect()
        dist.destroy_process_group()


def gather(texts: Ragged) -> Ragged:
    """The texts of all processes in order of rank, with gradient; as they are if there is one process.

    Every process must call this, and must use the result in a loss of equal weight.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return texts
    return Ragged.from_lengths(gather_rows(texts.values), _gather_rows(texts.lengths))


def gather_rows(rows: Tensor) -> Tensor:
    """The rows (n, …) of all processes in order of rank, with gradient; n may differ. Conditions as for `gather`."""
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


def maximum(number: int) -> int:
    """The largest of the processes' numbers."""
    if not dist.is_initialized():
        return number
    largest = _exchangeable(number)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest)


def from_first(number: float) -> float:
    """The first process's number."""
    if not dist.is_initialized():
        return number
    shared = _exchangeable(number)
    dist.broadcast(shared, 0)
    return float(shared)


def _exchangeable(number: float) -> Tensor:
    """A number where the processes can exchange it."""
    return torch.tensor(number, dtype=torch.float64, device="cuda" if dist.get_backend() == "nccl" else "cpu")


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
    """A backward pass in here adds to the gradients of this process; the first one outside exchanges the sums."""
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
    # The collective wants equal shapes, so everyone sends as many rows as the longest has.
    most = int(counts.max())
    sent = rows.new_zeros(most, *rows.shape[1:])
    sent[: len(rows)] = rows
    received = [torch.empty_like(sent) for _ in counts]
    dist.all_gather(received, sent)
    return torch.cat([part[:count] for part, count in zip(received, counts.tolist())])


class _Gather(torch.autograd.Function):
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
