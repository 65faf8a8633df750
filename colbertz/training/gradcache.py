"""Gradient caching (Gao et al. 2021, arXiv 2101.06983): a contrastive batch far larger than memory.

A step has three parts. `embed` runs the model over the batch in minibatches and keeps no activations;
`cache_gradients` computes the loss of all embeddings at once and its gradient with respect to each of them; `replay`
runs the minibatches again, with activations, and passes the cached gradients through the model. Dropout draws the same
numbers both times. The gradients of the parameters equal those of one big batch, scale included, for any number of
processes.

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
from colbertz.training.objective import Labels, Objective

Encode = Callable[[Tokens], Ragged]

# Bytes that MaxSim may keep for one chunk of queries: exactly this on a CPU, and at least this on a GPU.
_MIN_CHUNK_BYTES = 1 << 30
# Share of a GPU's free memory that one chunk of queries may take.
_FREE_SHARE = 0.5


@dataclass(frozen=True)
class Minibatch:
    """Texts that the model sees at once.

    Attributes:
        positions: int64, their positions in the batch.
        tokens: the texts.
        cpu_rng, cuda_rng: states of the random number generators before the model first saw the texts.
    """

    positions: Tensor
    tokens: Tokens
    cpu_rng: Tensor
    cuda_rng: Tensor | None

    def restore_rng(self) -> None:
        """Reset the random number generators, so that dropout drops the same values again."""
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
    chunk_bytes: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Add the gradient of a step's loss to every parameter's `.grad`, in the memory of one minibatch.

    Args:
        encode: the model, possibly wrapped for several processes and autocast.
        objective: the loss; its own parameters get the gradients of this process alone.
        queries, documents: this process's texts, on the model's device.
        labels: which documents are the candidates of which query.
        minibatch_tokens: approximate number of tokens that the model sees at once.
        share: gradients are multiplied by it; less than 1 for a part of a larger batch.
        no_sync: the context in which a backward pass does not exchange gradients between processes; all backward
            passes but the last run in it.
        chunk_bytes: as for `cache_gradients`.

    Returns:
        The loss and the accuracy of this process, as `Objective` gives them, without gradient.
    """
    query_embeddings, query_minibatches = embed(encode, queries, minibatch_tokens)
    document_embeddings, document_minibatches = embed(encode, documents, minibatch_tokens)
    measured, gradients = cache_gradients(
        objective, query_embeddings, document_embeddings, labels, share, chunk_bytes=chunk_bytes
    )
    del query_embeddings, document_embeddings
    replay(encode, [query_minibatches, document_minibatches], gradients, no_sync)
    return measured


def embed(encode: Encode, tokens: Tokens, minibatch_tokens: int) -> tuple[Ragged, list[Minibatch]]:
    """First step: the embeddings of all texts without activations, and the minibatches, to embed them again."""
    # Texts of similar lengths share a minibatch, so the encoder computes on few different shapes. All processes make
    # the same number of minibatches, because sharded weights are gathered for each of them.
    order = tokens.ids.lengths.argsort(stable=True)
    ends = tokens.ids.lengths[order].cumsum(0)
    num_minibatches = distributed.maximum(-(-len(tokens.ids.values) // minibatch_tokens))
    targets = torch.linspace(0, len(tokens.ids.values), num_minibatches + 1, device=ends.device).long()
    bounds = torch.searchsorted(ends, targets, right=True).tolist()
    cuda = tokens.ids.device.type == "cuda"
    minibatches, embeddings = [], []
    with torch.no_grad():
        for start, end in pairwise([0, *bounds[1:-1], len(order)]):
            positions = order[start:end]
            cpu_rng = torch.get_rng_state()
            cuda_rng = torch.cuda.get_rng_state(tokens.ids.device) if cuda else None
            minibatches.append(Minibatch(positions, tokens[positions], cpu_rng, cuda_rng))
            embeddings.append(encode(minibatches[-1].tokens))
    return Ragged.cat(embeddings)[order.argsort()], minibatches


def cache_gradients(
    objective: Objective,
    queries: Ragged,
    documents: Ragged,
    labels: Labels,
    share: float = 1.0,
    *,
    chunk_bytes: int | None = None,
) -> tuple[tuple[Tensor, Tensor], tuple[Ragged, Ragged]]:
    """Second step: the loss and the accuracy, and the loss's gradient with respect to every embedding.

    Args:
        objective: the loss.
        queries, documents: this process's embeddings; the documents of the others are gathered if the loss needs them.
        labels: which documents are the candidates of which query.
        share: gradients are multiplied by it.
        chunk_bytes: bytes that MaxSim may keep for one chunk of queries; None for a size that suits the device.

    Returns:
        The loss and the accuracy, then the gradients of the queries and of this process's documents.
    """
    local = documents.map(lambda values: values.detach().requires_grad_())
    with torch.enable_grad():
        gathered = distributed.gather(local) if objective.config.needs_whole_batch else local
    # The gradients of all chunks add up in this leaf tensor, so that processes exchange them once.
    leaf = gathered.map(lambda values: values.detach().requires_grad_())
    totals = torch.zeros(2, device=documents.device)
    gradients = []
    start = 0
    for chunk in query_chunks(objective, queries, leaf, chunk_bytes or default_chunk_bytes(leaf.device)):
        chunk_leaf = chunk.map(lambda values: values.detach().requires_grad_())
        with torch.enable_grad():
            loss, accuracy = objective(chunk_leaf, leaf, labels[start : start + len(chunk)])
            weight = len(chunk) / len(queries)
            (loss * weight * share).backward()
        totals += weight * torch.stack([loss.detach(), accuracy])
        gradients.append(_gradient(chunk_leaf))
        start += len(chunk)
    gathered.values.backward(leaf.values.grad)
    return (totals[0], totals[1]), (queries.with_values(torch.cat(gradients)), local.with_values(_gradient(local)))


def _gradient(leaf: Ragged) -> Tensor:
    assert leaf.values.grad is not None
    return leaf.values.grad


def query_chunks(objective: Objective, queries: Ragged, documents: Ragged, chunk_bytes: int) -> list[Ragged]:
    """The queries in parts that fit in memory.

    For each pair of a query and a document MaxSim keeps, per query token, the position of the most similar document
    token, in 1, 2 or 4 bytes; and about eight float32 numbers are kept per pair.
    """
    if objective.config.symmetric:
        return [queries]  # the softmax over the queries needs all of them
    longest = int(documents.lengths.max())
    position_bytes = 1 if longest <= 1 << 8 else 2 if longest <= 1 << 15 else 4
    bytes_per_token = position_bytes + 32 * len(queries) / max(1, len(queries.values))
    return queries.split(max(1, int(chunk_bytes / (bytes_per_token * len(documents)))))


def default_chunk_bytes(device: torch.device) -> int:
    """Bytes that MaxSim may keep for one chunk of queries.

    A power of two: free memory varies a little between runs, and equal runs must have equal chunks, and with them the
    same order of additions.
    """
    if device.type != "cuda":
        return _MIN_CHUNK_BYTES
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = torch.cuda.mem_get_info(device)[0] + cached
    return max(_MIN_CHUNK_BYTES, 1 << (int(free * _FREE_SHARE).bit_length() - 1))


def replay(
    encode: Encode,
    sides: Sequence[Sequence[Minibatch]],
    gradients: Sequence[Ragged],
    no_sync: Callable[[], AbstractContextManager[None]],
) -> None:
    """Third step: embed every minibatch again and pass its cached gradient through the model.

    Afterwards the random number generators are in the state in which the first step left them.
    """
    work = [(minibatch, gradient) for side, gradient in zip(sides, gradients) for minibatch in side]
    for count, (minibatch, gradient) in enumerate(work, 1):
        minibatch.restore_rng()
        with no_sync() if count < len(work) else nullcontext():
            encode(minibatch.tokens).values.backward(gradient[minibatch.positions].values)
