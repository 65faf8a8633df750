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
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from colbertz.models.tokenizer import Tokens
from colbertz.ragged import Ragged
from colbertz.training import distributed
from colbertz.training.losses import Labels, Objective

Encode = Callable[[Tokens], Ragged]

# Queries are scored in chunks whose places of maxima, one per query token and document, are about so many.
_ARGMAX_BYTES = 1 << 30


@dataclass(frozen=True)
class Minibatch:
    """Texts that the model sees at once, and the random number generators as they were before it did."""

    tokens: Tokens
    cpu_rng: Tensor
    cuda_rng: Tensor | None

    @classmethod
    def of(cls, tokens: Tokens) -> "Minibatch":
        """Note the state of the generators."""
        device = tokens.ids.device
        return cls(tokens, torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None)

    def restore_rng(self) -> None:
        """Put the generators back, so that dropout drops what it dropped before."""
        torch.set_rng_state(self.cpu_rng)
        if self.cuda_rng is not None:
            torch.cuda.set_rng_state(self.cuda_rng, self.tokens.ids.device)


@dataclass(frozen=True)
class Embedded:
    """One side of the batch after the first step.

    Attributes:
        embeddings: of each text, in the order of the batch, without activations.
        order: the numbers of the texts in the order in which they were embedded.
        minibatches: these texts.
    """

    embeddings: Ragged
    order: Tensor
    minibatches: list[Minibatch]


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
    query_side, document_side = (embed(encode, tokens, minibatch_tokens) for tokens in (queries, documents))
    measured, gradients = cache_gradients(objective, query_side.embeddings, document_side.embeddings, labels, share)
    replay(encode, [query_side, document_side], gradients, no_sync)
    return measured


def embed(encode: Encode, tokens: Tokens, minibatch_tokens: int) -> Embedded:
    """First step: the embeddings of all texts without activations, and what it takes to do that again."""
    # Neighbours in length share a minibatch, in which the encoder then computes on few different shapes. All processes
    # make the same number of minibatches, because sharded weights are collected for each of them.
    order = tokens.ids.lengths.argsort(stable=True)
    ordered = tokens[order]
    ends = ordered.ids.offsets
    count = distributed.maximum(-(-len(ordered.ids.values) // minibatch_tokens))
    bounds = torch.searchsorted(ends, torch.linspace(0, len(ordered.ids.values), count + 1, device=ends.device).long())
    minibatches, embeddings = [], []
    with torch.no_grad():
        for start, end in pairwise(bounds.tolist()):
            minibatches.append(Minibatch.of(ordered[start:end]))
            embeddings.append(encode(minibatches[-1].tokens))
    return Embedded(Ragged.cat(embeddings)[order.argsort()], order, minibatches)


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
    for chunk in _chunks(objective, queries, len(everyone)):
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


def _chunks(objective: Objective, queries: Ragged, num_documents: int) -> list[Ragged]:
    """The queries in parts whose places of maxima fit in `_ARGMAX_BYTES`."""
    if objective.config.symmetric:
        return [queries]  # the softmax over the queries needs all of them
    return queries.split(max(1, _ARGMAX_BYTES // num_documents))


def replay(
    encode: Encode,
    sides: Sequence[Embedded],
    gradients: Sequence[Ragged],
    no_sync: Callable[[], AbstractContextManager[None]],
) -> None:
    """Third step: embed every minibatch again and send its cached gradient through the model."""
    work = []
    for side, gradient in zip(sides, gradients):
        sizes = [len(minibatch.tokens) for minibatch in side.minibatches]
        bounds = accumulate(sizes, initial=0)
        ordered = gradient[side.order]
        work += [(m, ordered[a:b].values) for m, (a, b) in zip(side.minibatches, pairwise(bounds))]
    afterwards = Minibatch.of(work[0][0].tokens)
    for number, (minibatch, gradient_values) in enumerate(work, 1):
        minibatch.restore_rng()
        with no_sync() if number < len(work) else nullcontext():
            encode(minibatch.tokens).values.backward(gradient_values)
    afterwards.restore_rng()
