"""MaxSim, the score of late interaction: each query token counts with the document token nearest to it.

The public operator over `Ragged`, its gradient, and the choice of kernel by device. What the score means stands in
kernels/reference.py. There is no mask argument: a token that must not count is dropped (`Ragged.select`), which is
what a mask of minus infinity amounts to.

Legend: B queries, A documents, S query tokens, T document tokens, E embedding dim, P pairs.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from colbertz.kernels import cpu
from colbertz.ragged import Ragged

# Scores that the plain version for devices without a kernel holds at a time.
_PLAIN_BLOCK = 1 << 26


def maxsim(queries: Ragged, documents: Ragged) -> Tensor:
    """Score every document for every query: the sum over query tokens of the largest dot product.

    Memory beyond inputs and outputs is one small integer per pair and query token if a gradient is wanted, and a block
    of scores that fits the cache. A query or document without tokens scores 0 and gets no gradient.

    Args:
        queries: B texts of embeddings (S, E), floating-point.
        documents: A texts of embeddings (T, E), on the same device and of the same dtype.

    Returns:
        (B, A) scores, float32 (float64 for float64), differentiable with respect to both.

    Raises:
        TypeError: if the embeddings are not floating-point or their dtypes differ.
        ValueError: if they are not (tokens, E) with the same E, or are on different devices.
    """
    _check(queries, documents)
    with torch.autocast(queries.device.type, enabled=False):
        if queries.device.type != "cpu":
            return torch.cat(
                [_plain(queries, part) for part in documents.split(_PLAIN_BLOCK // max(1, len(queries.values)))], dim=1
            )
        if _needs_gradient(queries, documents):
            scores: Tensor = _MaxSim.apply(queries.values, queries.offsets, documents.values, documents.offsets)
            return scores
        return cpu.maxsim(
            queries.values.detach(), queries.offsets, documents.values.detach(), documents.offsets, argmax=False
        )[0]


def maxsim_candidates(queries: Ragged, documents: Ragged, candidates: Ragged) -> Ragged:
    """Score each query with the documents of its own list, as for distillation and for ranking again.

    Args:
        queries: B texts of embeddings (S, E), floating-point.
        documents: A texts of embeddings (T, E), on the same device and of the same dtype.
        candidates: B lists of document numbers, values (P,) int64. A document may stand in several lists. Lists of
            documents that follow one another are read in place; others are copied, a block at a time.

    Returns:
        The scores in the places of the numbers: values (P,) float32 (float64 for float64), differentiable.

    Raises:
        TypeError: as for `maxsim`, or if the candidates are not int64.
        ValueError: as for `maxsim`, or if there is not one list for each query.
        IndexError: if there is no document of that number.
    """
    _check(queries, documents)
    _check_candidates(queries, documents, candidates)
    args = (queries.values, queries.offsets, documents.values, documents.offsets, candidates.values, candidates.offsets)
    with torch.autocast(queries.device.type, enabled=False):
        if queries.device.type != "cpu":
            max_rows = _PLAIN_BLOCK // max(1, int(queries.lengths.max()))
            scores = [
                _plain(queries[b : b + 1], part)[0]
                for b in range(len(queries))
                for part in documents[candidates[b]].split(max_rows)
            ]
            return candidates.with_values(torch.cat(scores))
        if _needs_gradient(queries, documents):
            return candidates.with_values(_MaxSim.apply(*args))
        return candidates.with_values(cpu.maxsim_candidates(*[arg.detach() for arg in args])[0])


class _MaxSim(torch.autograd.Function):
    """Both forms on the CPU. The forward pass keeps the places of the maxima, never the scores of the tokens."""

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        query_offsets: Tensor,
        documents: Tensor,
        document_offsets: Tensor,
        candidates: Tensor | None = None,
        candidate_offsets: Tensor | None = None,
    ) -> Tensor:
        texts = (queries, query_offsets, documents, document_offsets)
        if candidates is None or candidate_offsets is None:
            scores, argmax = cpu.maxsim(*texts, argmax=True)
        else:
            scores, argmax = cpu.maxsim_candidates(*texts, candidates, candidate_offsets, argmax=True)
        ctx.save_for_backward(*texts, candidates, candidate_offsets, argmax)
        return scores

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grads: Tensor) -> tuple[Tensor | None, ...]:
        queries, query_offsets, documents, document_offsets, candidates, candidate_offsets, argmax = ctx.saved_tensors
        if candidates is None:
            num_queries, num_documents = grads.shape
            candidates = torch.arange(num_documents).repeat(num_queries)
            candidate_offsets = torch.arange(num_queries + 1) * num_documents
        needs = (ctx.needs_input_grad[0], ctx.needs_input_grad[2])
        dqueries, ddocuments = cpu.maxsim_backward(
            grads.reshape(-1),
            queries,
            query_offsets,
            documents,
            document_offsets,
            candidates,
            candidate_offsets,
            argmax,
            needs,
        )
        return dqueries, None, ddocuments, None, None, None


def _plain(queries: Ragged, documents: Ragged) -> Tensor:
    """(B, A) scores in PyTorch operators, for devices without a kernel: computed again in the backward pass."""

    def score(query_values: Tensor, document_values: Tensor) -> Tensor:
        dtype = torch.promote_types(query_values.dtype, torch.float32)
        padded, mask = documents.with_values(document_values.to(dtype)).padded()
        out = query_values.new_zeros(len(queries), len(documents), dtype=dtype)
        if mask.numel() == 0 or len(query_values) == 0:
            return out
        scores = (query_values.to(dtype) @ padded.flatten(0, 1).T).unflatten(1, mask.shape)
        best = scores.masked_fill(~mask, -torch.inf).max(2).values.masked_fill(~mask.any(1), 0)
        text = torch.arange(len(queries), device=queries.device).repeat_interleave(queries.lengths)
        return out.index_add(0, text, best)

    scores: Tensor = checkpoint(score, queries.values, documents.values, use_reentrant=False, preserve_rng_state=False)
    return scores


def _needs_gradient(*texts: Ragged) -> bool:
    return torch.is_grad_enabled() and any(text.values.requires_grad for text in texts)


def _check(queries: Ragged, documents: Ragged) -> None:
    for name, texts in (("queries", queries), ("documents", documents)):
        if not texts.dtype.is_floating_point:
            raise TypeError(f"{name} are {texts.dtype}; MaxSim takes floating-point embeddings")
        if texts.values.dim() != 2:
            raise ValueError(f"{name} must have values of shape (tokens, dim), got {tuple(texts.values.shape)}")
    if queries.dtype != documents.dtype:
        raise TypeError(f"queries are {queries.dtype} and documents {documents.dtype}; convert one with .to(dtype)")
    if queries.device != documents.device:
        raise ValueError(f"queries are on {queries.device} and documents on {documents.device}; move one with .to()")
    if queries.values.shape[1] != documents.values.shape[1]:
        raise ValueError(
            f"queries have {queries.values.shape[1]} dimensions and documents {documents.values.shape[1]}: "
            "they must come from the same model"
        )


def _check_candidates(queries: Ragged, documents: Ragged, candidates: Ragged) -> None:
    numbers = candidates.values
    if numbers.dtype != torch.int64 or numbers.dim() != 1:
        raise TypeError(
            f"candidates must be int64 document numbers, got {numbers.dtype} of shape {tuple(numbers.shape)}"
        )
    if len(candidates) != len(queries):
        raise ValueError(
            f"there are {len(candidates)} lists of candidates for {len(queries)} queries; give one for each"
        )
    if candidates.device != queries.device:
        raise ValueError(f"candidates are on {candidates.device} and queries on {queries.device}; move one with .to()")
    wrong = numbers[(numbers < 0) | (numbers >= len(documents))]
    if len(wrong):
        raise IndexError(f"candidate {int(wrong[0])} does not exist: there are {len(documents)} documents, from 0")
