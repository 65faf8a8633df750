"""Gradient caching (Gao et al. 2021, arXiv 2101.06983): a contrastive batch far larger than memory.

A step has three parts. `embed` runs the model over the batch in minibatches and keeps no activations;
`cache_gradients` computes the loss of all embeddings at once and its gradient with respect to each of them; `replay`
runs the minibatches again, with activations, and sends the cached gradients through. Dropout draws the same numbers
both times. The gradients of the parameters equal those of one big batch, scale included, for any number of processes.

docs/training.md says how much memory that takes.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from colbertz.models.tokenizer import Tokens
from colbertz.ragged import Ragged
from colbertz.training import distributed
from colbertz.training.losses import Labels, Objective

Encode = Callable[[Tokens], Ragged]

# Queries are scored in chunks. What a chunk's scores and places of maxima may take: on a CPU so much, on a GPU this
# share of what is free, at least as much.
_CHUNK_BYTES = 1 << 30
_FREE_SHARE = 0.5


@dataclass(frozen=True)
class Minibatch:
    """Texts that the model sees at once.

    Attributes:
        numbers: their places in the batch.
        tokens: the texts.
        cpu_rng, cuda_rng: the random number generators as they were before the model first saw them.
    """

    numbers: Tensor
    tokens: Tokens
    cpu_rng: Tensor
    cuda_rng: Tensor | None

    def restore_rng(self) -> None:
        """Put the generators back, so that dropout drops what it dropped before."""
        torch.set_rng_state(self.cpu_rng)
        if self.cuda_rng is not None:
            torch.cuda.set_rng_state(self.cuda_rng, self.tokens.ids.device)


def cached_backward(
    encode: Encode,
    objective: Objective,
    queries: Tokens,
    documents: Tokens,
    labels: Labels,
    minibatch_tokens: int,
    *,
    share: float = 1.0,
    no_sync: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> tuple[Tensor, Tensor]:
    """Add the gradient of a step's loss to every parameter's `.grad`, in the memory of one minibatch.

    Args:
        encode: the model, perhaps wrapped for several processes and autocast.
        objective: the loss; its own parameters get their gradients too, of this process alone.
        queries, documents: this process's texts, on the model's device.
        labels: which document is whose, as the objective wants them.
        minibatch_tokens: tokens that the model sees at once, about.
        share: gradients are multiplied by it, where this is one part of a larger batch.
        no_sync: the context in which a backward pass leaves gradients unexchanged between processes; all but the last
            run in it.

    Returns:
        The loss and the accuracy of this process, as `Objective` gives them, without gradient.
    """
    query_embeddings, query_minibatches = embed(encode, queries, minibatch_tokens)
    document_embeddings, document_minibatches = embed(encode, documents, minibatch_tokens)
    measured, gradients = cache_gradients(objective, query_embeddings, document_embeddings, labels, share)
    del query_embeddings, document_embeddings
    replay(encode, [query_minibatches, document_minibatches], gradients, no_sync)
    return measured


def embed(encode: Encode, tokens: Tokens, minibatch_tokens: int) -> tuple[Ragged, list[Minibatch]]:
    """First step: the embeddings of all texts without activations, and what it takes to embed them again."""
    # Neighbours in length share a minibatch, in which the encoder then computes on few different shapes. All processes
    # make the same number of minibatches, because sharded weights are collected for each of them.
    order = tokens.ids.lengths.argsort(stable=True)
    ends = tokens.ids.lengths[order].cumsum(0)
    count = distributed.maximum(-(-len(tokens.ids.values) // minibatch_tokens))
    targets = torch.linspace(0, len(tokens.ids.values), count + 1, device=ends.device).long()
    bounds = torch.searchsorted(ends, targets, right=True).tolist()
    cuda = tokens.ids.device.type == "cuda"
    minibatches, embeddings = [], []
    with torch.no_grad():
        for start, end in pairwise([0, *bounds[1:-1], len(order)]):
            numbers = order[start:end]
            states = torch.get_rng_state(), torch.cuda.get_rng_state(tokens.ids.device) if cuda else None
            minibatches.append(Minibatch(numbers, tokens[numbers], *states))
            embeddings.append(encode(minibatches[-1].tokens))
    return Ragged.cat(embeddings)[order.argsort()], minibatches


def cache_gradients(
    objective: Objective, queries: Ragged, documents: Ragged, labels: Labels, share: float = 1.0
) -> tuple[tuple[Tensor, Tensor], tuple[Ragged, Ragged]]:
    """Second step: the loss and the accuracy, and the loss's gradient with respect to every embedding.

    Args:
        objective: the loss.
        queries, documents: this process's embeddings; the documents of the others are gathered if the loss needs them.
        labels: which document is whose.
        share: gradients are multiplied by it.
    """
    own = documents.map(lambda values: values.detach().requires_grad_())
    with torch.enable_grad():
        gathered = distributed.gather(own) if objective.config.needs_whole_batch else own
    # The chunks leave their gradients here, so that they are exchanged once.
    everyone = gathered.map(lambda values: values.detach().requires_grad_())
    totals, gradients, start = torch.zeros(2, device=documents.device), [], 0
    for chunk in _chunks(objective, queries, everyone):
        part = chunk.map(lambda values: values.detach().requires_grad_())
        with torch.enable_grad():
            loss, accuracy = objective(part, everyone, labels[start : start + len(part)])
            weight = len(part) / len(queries)
            (loss * weight * share).backward()
        totals += weight * torch.stack([loss.detach(), accuracy])
        gradients.append(_gradient(part))
        start += len(part)
    gathered.values.backward(everyone.values.grad)
    return (totals[0], totals[1]), (queries.with_values(torch.cat(gradients)), own.with_values(_gradient(own)))


def _gradient(leaf: Ragged) -> Tensor:
    assert leaf.values.grad is not None
    return leaf.values.grad


def _chunks(objective: Objective, queries: Ragged, documents: Ragged) -> list[Ragged]:
    """The queries in parts that fit in memory: for each document a place per query token, and eight numbers a query."""
    if objective.config.symmetric:
        return [queries]  # the softmax over the queries needs all of them
    longest = int(documents.lengths.max())
    place = 1 if longest <= 1 << 8 else 2 if longest <= 1 << 15 else 4
    per_token = place + 32 * len(queries) / max(1, len(queries.values))
    return queries.split(max(1, int(_chunk_bytes(documents.device) / (per_token * len(documents)))))


def _chunk_bytes(device: torch.device) -> int:
    """A power of two, so that another run has the same chunks, and with them the same order of sums."""
    if device.type != "cuda":
        return _CHUNK_BYTES
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = torch.cuda.mem_get_info(device)[0] + kept
    return max(_CHUNK_BYTES, 1 << (int(free * _FREE_SHARE).bit_length() - 1))


def replay(
    encode: Encode,
    sides: Sequence[Sequence[Minibatch]],
    gradients: Sequence[Ragged],
    no_sync: Callable[[], AbstractContextManager[None]],
) -> None:
    """Third step: embed every minibatch again and send its cached gradient through the model.

    The last one leaves the random number generators where the first step left them.
    """
    work = [(minibatch, gradient) for side, gradient in zip(sides, gradients) for minibatch in side]
    for number, (minibatch, gradient) in enumerate(work, 1):
        minibatch.restore_rng()
        with no_sync() if number < len(work) else nullcontext():
            encode(minibatch.tokens).values.backward(gradient[minibatch.numbers].values)
