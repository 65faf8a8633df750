"""Several training processes: who we are, and a gather of documents that gradients flow through.

Started by `torchrun`, which sets RANK, LOCAL_RANK and WORLD_SIZE; without them there is one process.

Each process scores its own queries against the documents of all processes. In the backward pass a document's gradient
is the sum of what all processes' queries have to say about it. DDP then averages parameter gradients over processes,
and since every process took the mean over an equal share of the queries, that is exactly the gradient of the mean over
the global batch: the same numbers as one process with the whole batch, scale included.
"""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

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
    """Join the processes that torchrun started, and leave them at the end: NCCL between GPUs, gloo between CPUs."""
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    device = torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        yield World(0, 1, device)
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), size, device)
        dist.barrier()  # nobody leaves while others still talk to them
    finally:
        # DDP sits in reference cycles and has threads of its own: left to the end of the interpreter, which tears the
        # process group down first, they abort the process now and then.
        gc.collect()
        dist.destroy_process_group()


def gather(texts: Ragged) -> Ragged:
    """The texts of all processes in order of rank, with gradient; as they are if there is one process.

    Every process must call this, and must use the result in a loss of equal weight.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return texts
    lengths = _gather_rows(texts.lengths)
    values = _Gather.apply(texts.values)
    return Ragged.from_lengths(values, lengths)


def mean(values: Tensor) -> Tensor:
    """The elementwise mean over all processes, without gradient."""
    if not dist.is_initialized():
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


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
