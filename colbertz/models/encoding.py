"""Encoding texts: what `ColBERT.encode` returns, how texts are put into batches, and how dropout is kept out.

Nothing here knows the model class: the functions take token ids, results and any `nn.Module`.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict, TypeVar

import torch
from torch import Tensor, nn

from colbertz.errors import UserError
from colbertz.kernels.cpu.threads import ENCODING, KERNELS, in_order
from colbertz.models.pooling import Pooling
from colbertz.models.tokenizer import Tokens
from colbertz.models.workers import Embedder, encode_on_devices
from colbertz.progress import progress
from colbertz.ragged import Ragged
from colbertz.text.counted import counted

# Tokens in one forward pass, by device type: as many as fit in a CPU's cache, or keep a GPU busy.
_BATCH_TOKENS = {"cpu": 2048, "cuda": 65536}
_BATCH_TOKENS_ELSEWHERE = 16384
# A few texts on a CPU make about this many batches, so that all cores have work, down to batches of this many tokens.
_BATCHES = 8
_SMALL_BATCH_TOKENS = 512
# Fewer tokens than this are computed on one core: several would gain a millisecond.
_ONE_CORE_TOKENS = 256

logger = logging.getLogger(__name__)

Module = TypeVar("Module", bound=nn.Module)


class QueryOptions(TypedDict, total=False):
    """The keyword arguments of `ColBERT.encode_query`, which explains them."""

    prompt: str | None
    prompt_name: str | None
    batch_tokens: int | None
    normalize: bool
    show_progress: bool | None
    devices: Sequence[str] | None


class DocumentOptions(QueryOptions, total=False):
    """The keyword arguments of `ColBERT.encode_document`."""

    pool_factor: int
    protected_tokens: int | None
    pooling: Pooling


@dataclass(frozen=True)
class Encoded:
    """The embeddings of texts, and what has to be told about them.

    Attributes:
        embeddings: float32 (num_tokens_i, E) of each text, on the CPU.
        num_truncated: how many of the texts had more tokens than their side allows, and were cut.
    """

    embeddings: Ragged
    num_truncated: int


def in_evaluation_mode(module: Module) -> Module:
    """The module as it computes in evaluation mode, without changing the mode of `module` itself.

    Another thread may be training the same module or encoding with it, so `module.eval()` is no way to switch dropout
    off for a while.

    Returns:
        `module` itself if all of it is in evaluation mode. Otherwise a copy of the tree of modules that shares
        parameters, buffers and hooks with `module`, so it is cheap and always has the current weights. A part that
        `nn.Module.compile` compiled runs uncompiled in the copy.
    """
    if not any(part.training for part in module.modules()):
        return module
    copy = module.__new__(type(module))
    attributes = {name: value for name, value in module.__dict__.items() if name != "_compiled_call_impl"}
    children = {name: None if child is None else in_evaluation_mode(child) for name, child in module._modules.items()}
    copy.__dict__ = {**attributes, "_modules": children, "training": False}
    return copy


def batches_by_length(ids: Ragged, device: torch.device, batch_tokens: int | None) -> list[Tensor]:
    """Put texts of similar length into one batch; the longest come first, so memory peaks in the first batch.

    Args:
        ids: the token ids of each text.
        device: where the batches will be embedded.
        batch_tokens: tokens in one batch; None for a size that suits the device.

    Returns:
        The positions of the texts of each batch, int64.

    Raises:
        UserError: if `batch_tokens` is below 1.
    """
    if batch_tokens is not None and batch_tokens < 1:
        raise UserError(f"batch_tokens must be at least 1, got {batch_tokens}")
    if not len(ids):
        return []
    order = ids.lengths.argsort(stable=True)
    budget = batch_tokens or _BATCH_TOKENS.get(device.type, _BATCH_TOKENS_ELSEWHERE)
    if batch_tokens is None and device.type == "cpu":
        # Not by the number of cores: a text is embedded the same on every machine, and a batch's size has its rounding.
        budget = min(budget, max(_SMALL_BATCH_TOKENS, len(ids.values) // _BATCHES))
    sizes = [len(batch) for batch in ids[order].split(budget)]
    return list(reversed(order.split(sizes)))


def require_finite(embeddings: Ragged) -> Ragged:
    """Return the embeddings of a batch.

    Raises:
        UserError: if one is NaN or infinite, as damaged weights make them.
    """
    if not bool(embeddings.values.isfinite().all()):
        raise UserError(
            "the model makes embeddings that are NaN or infinite: its weights are damaged, which copying the checkpoint"
            " again would mend, or their dtype is too small; load the model in float32"
        )
    return embeddings


def embedded(
    model: Embedder, batches: Sequence[Tokens], normalize: bool, devices: Sequence[str] | None, on_cpu: bool
) -> Iterator[Ragged]:
    """Embed batches.

    On the CPU each batch is computed on one core if there are enough batches, or if they are short. PyTorch's operators
    on several cores wait for the slowest core each time, and a forward pass has hundreds of them: on a machine with
    other work a query took ten times as long (docs/log.md).

    Args:
        model: in evaluation mode.
        batches: tokenised texts on the CPU.
        normalize: whether embeddings get unit length.
        devices: one process for each of these; None for this process.
        on_cpu: whether the model computes in PyTorch on the CPU.

    Returns:
        The embeddings of each batch on the CPU, in the order of the batches, computed while they are taken; UserError
        is raised there if an embedding is not finite.
    """
    if devices:
        return map(require_finite, encode_on_devices(model, batches, normalize, devices))
    jobs = [lambda batch=batch: require_finite(model.embed(batch, normalize)) for batch in batches]
    num_tokens = sum(len(batch.ids.values) for batch in batches)
    enough = 2 * len(batches) > torch.get_num_threads() or num_tokens < _ONE_CORE_TOKENS
    if not (on_cpu and enough):
        return (job() for job in jobs)
    # A short text does not wait for the documents that another thread encodes.
    return in_order(jobs, KERNELS if num_tokens < _ONE_CORE_TOKENS else ENCODING)


def in_order_of_texts(
    batches: Sequence[Tensor], results: Iterable[Ragged], embedding_dim: int, what: str, show_progress: bool | None
) -> Ragged:
    """Collect the embeddings of all batches and put them in the order of the texts.

    Args:
        batches: the positions of the texts of each batch; together every position once.
        results: the embeddings of each batch, computed while they are collected.
        embedding_dim: E, which an empty result needs.
        what: the job, for the progress.
        show_progress: as for `colbertz.progress.progress`.
    """
    num_texts = sum(map(len, batches))
    embeddings: list[Tensor] = [torch.empty(0)] * num_texts
    with progress(what, num_texts, "texts", show_progress) as bar:
        for batch, result in zip(batches, results):
            for position, embedding in zip(batch.tolist(), result):
                embeddings[position] = embedding
            bar.update(len(batch))
    return Ragged.from_list(embeddings) if embeddings else Ragged.from_lengths(torch.empty(0, embedding_dim), [])


def warn_truncated(num_truncated: int, side: str, length: int, num_texts: int | None) -> None:
    """What `ColBERT.warn_truncated` does; `length` is the number of tokens that a text of this side may have."""
    if num_truncated:
        cut = counted(num_truncated, "text") if num_texts is None else f"{num_truncated:,} of {num_texts:,} texts"
        verb = "was" if num_truncated == 1 else "were"
        logger.warning("%s %s cut to %d tokens (%s_length)", cut, verb, length, side)
