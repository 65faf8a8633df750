"""One step: a batch goes in, gradients and the measured loss come out."""

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
from colbertz.training.gradcache import cached_backward, fits_on_cores
from colbertz.training.mlm import MaskedLanguageHead, mask
from colbertz.training.objective import Labels, Objective
from colbertz.training.run import Run


def gradients(run: Run, batch: Batch) -> Tensor:
    """Add a batch's gradient to every parameter's `.grad`, and return its loss and accuracy, (2,) float32."""
    if isinstance(run.objective, MaskedLanguageHead):
        return masked_backward(run.network, run.objective, run.model, batch, run.config, run.world)
    return backward(run.network, run.objective, batch, run.config, run.world)


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
    parameters = _parameters_on_cores(network, config, world)
    for count, part in enumerate(_parts(batch, config.accumulation_steps), 1):
        part = part.to(world.device, non_blocking=True)
        labels = _labels(part, config, world)
        with nullcontext() if count == config.accumulation_steps else no_sync():
            if config.minibatch_tokens or parameters is not None:
                values = cached_backward(
                    encode,
                    objective,
                    part.queries,
                    part.documents,
                    labels,
                    config.minibatch_tokens,
                    parameters=parameters,
                    share=share,
                    no_sync=no_sync,
                )
            else:
                queries, documents = encode(part.queries), encode(part.documents)
                if config.loss.needs_whole_batch:
                    documents = distributed.gather(documents)
                values = objective(queries, documents, labels)
                (values[0] * share).backward()
        measured += share * torch.stack([value.detach() for value in values])
    distributed.mean_gradients(objective)
    return measured


def masked_backward(
    network: nn.Module, head: MaskedLanguageHead, model: ColBERT, batch: Batch, config: TrainingConfig, world: World
) -> Tensor:
    """As `backward`, for masked language modelling.

    Args:
        network: the encoder as `model.replicate` made it.
        head: computes the loss from the encoder's hidden states.
        model: the model that the encoder belongs to.
        batch: this process's share of the step's texts; queries and documents are treated alike.
        config: the run's settings.
        world: the processes.

    Returns:
        (2,) float32 on the device: the loss, and the share of the hidden tokens that were predicted right.
    """
    measured = torch.zeros(2, device=world.device)
    share = 1 / config.accumulation_steps
    for count, part in enumerate(_parts(batch, config.accumulation_steps), 1):
        texts = Ragged.cat([part.queries.ids, part.documents.ids]).to(world.device)
        masked = mask(texts, model.tokenizer, config.loss.masked_share)
        with nullcontext() if count == config.accumulation_steps else distributed.no_sync(network):
            with _autocast(config, world):
                hidden = network(masked.ids)[masked.positions]
                values = head(hidden, model.encoder.token_embeddings.weight, masked.targets)
            (values[0] * share).backward()
        measured += share * torch.stack([value.detach().float() for value in values])
    distributed.mean_gradients(head)
    return measured


def _parameters_on_cores(network: nn.Module, config: TrainingConfig, world: World) -> list[nn.Parameter] | None:
    """The parameters to train with a minibatch on each core; None to compute each minibatch on all cores or a GPU."""
    # Several processes exchange gradients in hooks of `backward`, and compiled code draws from PyTorch's generator.
    if world.device.type != "cpu" or world.size > 1 or config.model.compile:
        return None
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return parameters if fits_on_cores(parameters) else None


def _autocast(config: TrainingConfig, world: World) -> AbstractContextManager[None]:
    # Without the cache of converted weights, which threads would share: a weight is used once in a minibatch.
    cache = world.device.type != "cpu"
    return torch.autocast(world.device.type, torch.bfloat16, enabled=bool(config.bf16), cache_enabled=cache)


def _labels(batch: Batch, config: TrainingConfig, world: World) -> Labels:
    """Which documents are the candidates of which query.

    Documents are numbered over all processes where the loss compares a query with the documents of all of them.
    """
    candidates = torch.arange(len(batch.documents), device=world.device)
    keys = None
    if config.loss.needs_whole_batch:
        counts = distributed.gather_rows(torch.tensor([len(candidates)], device=world.device))
        candidates += counts[: world.rank].sum()
        keys = distributed.gather_rows(batch.keys)
    return Labels(Ragged.from_lengths(candidates, batch.counts), batch.scores, keys)


def _parts(batch: Batch, num_parts: int) -> Iterator[Batch]:
    """The batch in parts with equal numbers of queries."""
    if num_parts == 1:
        yield batch
        return
    size = len(batch) // num_parts
    document_offsets = [0, *batch.counts.cumsum(0).tolist()]
    for start in range(0, len(batch), size):
        queries = slice(start, start + size)
        documents = slice(document_offsets[start], document_offsets[start + size])
        yield replace(
            batch,
            queries=batch.queries[queries],
            counts=batch.counts[queries],
            documents=batch.documents[documents],
            scores=None if batch.scores is None else batch.scores[documents],
            keys=batch.keys[documents],
        )
