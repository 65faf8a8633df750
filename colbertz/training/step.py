"""One step: a batch goes in, gradients and what was measured come out."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from colbertz.models import ColBERT
from colbertz.models.tokenizer import Tokens
from colbertz.ragged import Ragged
from colbertz.training import distributed
from colbertz.training.config import TrainingConfig
from colbertz.training.data import Batch
from colbertz.training.distributed import World
from colbertz.training.gradcache import cached_backward
from colbertz.training.losses import Labels, Objective
from colbertz.training.mlm import MaskedLanguageHead, mask


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

    def encode(tokens: Tokens) -> Ragged:
        with _autocast(config, world):
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


def masked_backward(
    network: nn.Module, head: MaskedLanguageHead, model: ColBERT, batch: Batch, config: TrainingConfig, world: World
) -> Tensor:
    """As `backward`, of masked language modelling.

    Args:
        network: the encoder as `model.spread` made it.
        head: from its hidden states to the loss.
        model: whose encoder it is.
        batch: this process's share of the step's texts, of which queries and documents count alike.
        config: the run's settings.
        world: the processes.

    Returns:
        (2,) float32 on the device: the loss, and the share of the hidden tokens that were predicted right.
    """
    measured = torch.zeros(2, device=world.device)
    share = 1 / config.accumulation_steps
    for number, part in enumerate(_parts(batch, config.accumulation_steps), 1):
        texts = Ragged.cat([part.queries.ids, part.documents.ids]).to(world.device)
        masked = mask(texts, model.tokenizer, config.loss.masked_share)
        with nullcontext() if number == config.accumulation_steps else distributed.no_sync(network):
            with _autocast(config, world):
                hidden = network(masked.ids)[masked.places]
                value = head(hidden, model.encoder.token_embeddings.weight, masked.targets)
            (value[0] * share).backward()
        measured += share * torch.stack([v.detach().float() for v in value])
    distributed.mean_gradients(head)
    return measured


def _autocast(config: TrainingConfig, world: World) -> AbstractContextManager[None]:
    kind = world.device.type
    return torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda" if config.bf16 is None else config.bf16)


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
