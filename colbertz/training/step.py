"""One step: a batch goes in, gradients and what was measured come out."""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from colbertz.config import TrainingConfig
from colbertz.models.tokenizer import Tokens
from colbertz.ragged import Ragged
from colbertz.training import distributed
from colbertz.training.data import Batch
from colbertz.training.distributed import World
from colbertz.training.gradcache import cached_backward
from colbertz.training.losses import Labels, Objective


def backward(network: nn.Module, objective: Objective, batch: Batch, config: TrainingConfig, world: World) -> Tensor:
    """Add the gradient of the batch's loss to every parameter's `.grad`, the same as one process would compute.

    Args:
        network: the model as `model.spread` made it.
        objective: the loss.
        batch: this process's share of the step's texts.
        config: the run's settings.
        world: the processes.

    Returns:
        (2,) float32 on the device: the loss and the accuracy of this process's queries.
    """
    on_cuda = world.device.type == "cuda"

    def encode(tokens: Tokens) -> Ragged:
        with torch.autocast(world.device.type, torch.bfloat16, enabled=config.bf16 and on_cuda):
            embeddings = network(tokens)
        assert isinstance(embeddings, Ragged)
        return embeddings

    measured = torch.zeros(2, device=world.device)
    share = 1 / config.accumulation_steps
    no_sync = partial(distributed.no_sync, network)
    for number, part in enumerate(_parts(batch, config.accumulation_steps), 1):
        part = part.to(world.device, non_blocking=True)
        labels = _labels(part, config, world)
        with nullcontext() if number == config.accumulation_steps else no_sync():
            if config.minibatch_tokens:
                texts = (part.queries, part.documents)
                value = cached_backward(
                    encode, objective, *texts, labels, config.minibatch_tokens, share=share, no_sync=no_sync
                )
            else:
                queries, documents = encode(part.queries), encode(part.documents)
                if config.loss.needs_whole_batch:
                    documents = distributed.gather(documents)
                value = objective(queries, documents, labels)
                (value[0] * share).backward()
        measured += share * torch.stack([v.detach() for v in value])
    distributed.mean_gradients(objective)
    return measured


def _labels(batch: Batch, config: TrainingConfig, world: World) -> Labels:
    """Number the documents: over all processes where the loss compares queries with all of them."""
    numbers = torch.arange(len(batch.documents), device=world.device)
    keys = None
    if config.loss.needs_whole_batch:
        counts = distributed.gather_rows(torch.tensor([len(numbers)], device=world.device))
        numbers += counts[: world.rank].sum()
        keys = distributed.gather_rows(batch.keys)
    return Labels(Ragged.from_lengths(numbers, batch.counts), batch.scores, keys)


def _parts(batch: Batch, count: int) -> Iterator[Batch]:
    """The batch in `count` parts of equally many queries."""
    if count == 1:
        yield batch
        return
    size = len(batch) // count
    ends = [0, *batch.counts.cumsum(0).tolist()]
    for start in range(0, len(batch), size):
        own, others = slice(start, start + size), slice(ends[start], ends[start + size])
        yield replace(
            batch,
            queries=batch.queries[own],
            counts=batch.counts[own],
            documents=batch.documents[others],
            scores=None if batch.scores is None else batch.scores[others],
            keys=batch.keys[others],
        )
