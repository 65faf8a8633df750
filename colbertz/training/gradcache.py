"""Gradient caching (Gao et al. 2021, arXiv 2101.06983): a contrastive batch far larger than memory.

A step has three parts. `embed` runs the model over the batch in minibatches and keeps no activations;
`cache_gradients` computes the loss of all embeddings at once and its gradient with respect to each of them; `replay`
runs the minibatches again, with activations, and passes the cached gradients through the model. Dropout draws the same
numbers both times. The gradients of the parameters equal those of one big batch, scale included, for any number of
processes.

One process on the CPU computes a minibatch on each core, instead of each minibatch on all cores: PyTorch's operators on
several cores wait for the slowest one, and a step has thousands of them. The gradients of the minibatches are added in
the order of the minibatches, and dropout goes by the seeds of the texts, so the result does not depend on the threads'
timing.

docs/training.md says how much memory that takes.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from colbertz.kernels.cpu.threads import TRAINING, in_order
from colbertz.models.encoders.packing import draw_seeds
from colbertz.models.tokenizer import Tokens
from colbertz.ragged import Ragged
from colbertz.training import distributed
from colbertz.training.objective import Labels, Objective

Encode = Callable[[Tokens], Ragged]

# Bytes that MaxSim may keep for one chunk of queries: exactly this on a CPU, and at least this on a GPU.
_MIN_CHUNK_BYTES = 1 << 30
# Share of a GPU's free memory that one chunk of queries may take.
_FREE_SHARE = 0.5
# Tokens that a core computes at once where `minibatch_tokens` sets no limit, as many as fit in its cache.
_TOKENS_OF_A_CORE = 2048
# Bytes of gradients that may wait to be added; with more, a minibatch is computed on all cores.
_MOST_WAITING = 4 << 30


@dataclass(frozen=True)
class Minibatch:
    """Texts that the model sees at once.

    Attributes:
        positions: int64, their positions in the batch.
        tokens: the texts.
        cpu_rng, cuda_rng: states of the random number generators before the model first saw the texts.
        embeddings: of the texts, with activations, if these are kept.
    """

    positions: Tensor
    tokens: Tokens
    cpu_rng: Tensor
    cuda_rng: Tensor | None
    embeddings: Ragged | None = None

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
    parameters: Sequence[nn.Parameter] | None = None,
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
        minibatch_tokens: approximate number of tokens that the model sees at once; 0 to keep the activations of all
            texts, which needs `parameters`.
        parameters: those of the model, to compute a minibatch on each core; None to compute each on all cores.
        share: gradients are multiplied by it; less than 1 for a part of a larger batch.
        no_sync: the context in which a backward pass does not exchange gradients between processes; all backward
            passes but the last run in it.
        chunk_bytes: as for `cache_gradients`.

    Returns:
        The loss and the accuracy of this process, as `Objective` gives them, without gradient.
    """
    on_cores = parameters is not None
    query_embeddings, query_minibatches = embed(encode, queries, minibatch_tokens, on_cores=on_cores)
    document_embeddings, document_minibatches = embed(encode, documents, minibatch_tokens, on_cores=on_cores)
    measured, gradients = cache_gradients(
        objective, query_embeddings, document_embeddings, labels, share, chunk_bytes=chunk_bytes
    )
    del query_embeddings, document_embeddings
    sides = [query_minibatches, document_minibatches]
    if parameters is None:
        replay(encode, sides, gradients, no_sync)
    else:
        replay_on_cores(encode, sides, gradients, parameters)
    return measured


def embed(
    encode: Encode, tokens: Tokens, minibatch_tokens: int, *, on_cores: bool = False
) -> tuple[Ragged, list[Minibatch]]:
    """First step: the embeddings of all texts without activations, and the minibatches, to embed them again.

    Args:
        encode: the model.
        tokens: the texts.
        minibatch_tokens: approximate number of tokens that the model sees at once, on all cores together; 0 to keep
            the activations of all texts in the minibatches.
        on_cores: whether to compute a minibatch on each core.
    """
    keep = not minibatch_tokens
    if tokens.ids.device.type == "cpu" and tokens.seeds is None:
        tokens = replace(tokens, seeds=draw_seeds(len(tokens)))
    size = minibatch_tokens or _TOKENS_OF_A_CORE
    if on_cores and minibatch_tokens:
        size = max(1, minibatch_tokens // torch.get_num_threads())
    minibatches: list[Minibatch] = []
    embeddings: list[Ragged] = []

    def embedded(minibatch: Minibatch) -> Ragged:
        with torch.set_grad_enabled(keep):
            return encode(minibatch.tokens)

    def jobs() -> Iterator[Callable[[], Ragged]]:
        for minibatch in _minibatches(tokens, size):
            minibatches.append(minibatch)
            yield partial(embedded, minibatch)

    for result in in_order(jobs(), TRAINING) if on_cores else (job() for job in jobs()):
        if keep:
            minibatches[len(embeddings)] = replace(minibatches[len(embeddings)], embeddings=result)
        embeddings.append(result.map(Tensor.detach))
    order = torch.cat([minibatch.positions for minibatch in minibatches])
    return Ragged.cat(embeddings)[order.argsort()], minibatches


def _minibatches(tokens: Tokens, size: int) -> Iterator[Minibatch]:
    """The texts in minibatches of about `size` tokens.

    Where the model draws from PyTorch's generators, it must embed each minibatch before the next is taken.
    """
    # Texts of similar lengths share a minibatch, so the encoder computes on few different shapes. All processes make
    # the same number of minibatches, because sharded weights are gathered for each of them.
    order = tokens.ids.lengths.argsort(stable=True)
    ends = tokens.ids.lengths[order].cumsum(0)
    num_minibatches = distributed.maximum(-(-len(tokens.ids.values) // size))
    targets = torch.linspace(0, len(tokens.ids.values), num_minibatches + 1, device=ends.device).long()
    bounds = torch.searchsorted(ends, targets, right=True).tolist()
    cuda = tokens.ids.device.type == "cuda"
    for start, end in pairwise([0, *bounds[1:-1], len(order)]):
        positions = order[start:end]
        cpu_rng = torch.get_rng_state()
        cuda_rng = torch.cuda.get_rng_state(tokens.ids.device) if cuda else None
        yield Minibatch(positions, tokens[positions], cpu_rng, cuda_rng)


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


def replay_on_cores(
    encode: Encode,
    sides: Sequence[Sequence[Minibatch]],
    gradients: Sequence[Ragged],
    parameters: Sequence[nn.Parameter],
) -> None:
    """Third step, on one process on the CPU: a minibatch on each core.

    The gradients are added in the order of the minibatches, as `replay` adds them.
    """

    def gradients_of(minibatch: Minibatch, gradient: Ragged) -> tuple[Tensor | None, ...]:
        embeddings = encode(minibatch.tokens) if minibatch.embeddings is None else minibatch.embeddings
        given = gradient[minibatch.positions].values
        return torch.autograd.grad(embeddings.values, parameters, given, allow_unused=True)

    work = [(minibatch, gradient) for side, gradient in zip(sides, gradients) for minibatch in side]
    for parts in in_order((partial(gradients_of, *item) for item in work), TRAINING):
        for parameter, part in zip(parameters, parts):
            if part is None:
                continue
            if parameter.grad is None:
                parameter.grad = part
            else:
                # By NumPy on one core: the others compute the next minibatches, and PyTorch would wait for them.
                np.add(parameter.grad.numpy(), part.numpy(), out=parameter.grad.numpy())


def fits_on_cores(parameters: Sequence[nn.Parameter]) -> bool:
    """Whether there is room for the gradients that wait to be added, two sets for each core."""
    size = sum(parameter.nbytes for parameter in parameters)
    return 2 * torch.get_num_threads() * size <= _MOST_WAITING
