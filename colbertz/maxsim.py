"""MaxSim, the score of late interaction: each query token counts with the document token nearest to it.

The public operator over `Ragged`, its gradient, and the choice of kernel by device. What the score means stands in
kernels/reference.py. There is no mask argument: a token that must not count is dropped (`Ragged.select`), which is
what a mask of minus infinity amounts to.

Legend: B queries, A documents, S query tokens, T document tokens, E embedding dim, P pairs.
"""

from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from colbertz.errors import UserError
from colbertz.kernels.cpu import maxsim as cpu
from colbertz.ragged import Ragged

# Scores that the plain version for devices without a kernel holds at a time.
_PLAIN_BLOCK = 1 << 26
# What documents can be quantised to, and the largest number of each.
_BYTES = {torch.int8: 127, torch.float8_e4m3fn: 448}


def maxsim(queries: Ragged, documents: Ragged, *, scales: Tensor | None = None) -> Tensor:
    """Score every document for every query: the sum over query tokens of the largest dot product.

    Memory beyond inputs and outputs is one small integer per pair and query token if a gradient is wanted, and a block
    of scores that fits the cache. A query or document without tokens scores 0 and gets no gradient.

    Args:
        queries: B texts of embeddings (S, E), floating-point.
        documents: A texts of embeddings (T, E), on the same device and of the same dtype; or `quantised`.
        scales: for quantised documents, what each token is to be multiplied with, (document tokens,) float32. There is
            no gradient then.

    Returns:
        (B, A) scores, float32 (float64 for float64), differentiable with respect to both.

    Raises:
        TypeError: if the embeddings are not floating-point or their dtypes differ.
        ValueError: if they are not (tokens, E) with the same E, are on different devices, or there is not one scale
            for each token.
    """
    _check(queries, documents, scales)
    with torch.autocast(queries.device.type, enabled=False):
        if _has_kernels(queries):
            # Triton launches on the current device, wherever its arguments are.
            with torch.cuda.device_of(queries.values):
                return _all_pairs_on_gpu(queries, documents, scales)
        if scales is not None:
            queries, documents = queries.detach(), _dequantised(documents, scales, queries.dtype)
        if queries.device.type != "cpu":
            return torch.cat(
                [_plain(queries, part) for part in documents.split(_PLAIN_BLOCK // max(1, len(queries.values)))], dim=1
            )
        texts = (queries.values, queries.offsets, documents.values, documents.offsets)
        if _needs_gradient(queries, documents):
            scores: Tensor = _MaxSim.apply(*texts)
            return scores
        return cpu.maxsim(*_detached(*texts), argmax=False)[0]


def maxsim_candidates(
    queries: Ragged, documents: Ragged, candidates: Ragged, *, scales: Tensor | None = None
) -> Ragged:
    """Score each query with the documents of its own list, as for distillation and for ranking again.

    Args:
        queries: B texts of embeddings (S, E), floating-point.
        documents: A texts of embeddings (T, E), on the same device and of the same dtype; or `quantised`.
        candidates: B lists of document numbers, values (P,) int64. A document may stand in several lists. Lists of
            documents that follow one another are read in place; others are copied, a block at a time.
        scales: as for `maxsim`.

    Returns:
        The scores in the places of the numbers: values (P,) float32 (float64 for float64), differentiable.

    Raises:
        TypeError: as for `maxsim`, or if the candidates are not int64.
        ValueError: as for `maxsim`, or if there is not one list for each query.
        IndexError: if there is no document of that number.
    """
    _check(queries, documents, scales)
    _check_candidates(queries, documents, candidates)
    with torch.autocast(queries.device.type, enabled=False):
        if _has_kernels(queries):
            with torch.cuda.device_of(queries.values):
                return candidates.with_values(_candidates_on_gpu(queries, documents, candidates, scales))
        if scales is not None:
            queries, documents = queries.detach(), _dequantised(documents, scales, queries.dtype)
        if queries.device.type != "cpu":
            max_rows = _PLAIN_BLOCK // max(1, int(queries.lengths.max()))
            scores = [
                _plain(queries[b : b + 1], part)[0]
                for b in range(len(queries))
                for part in documents[candidates[b]].split(max_rows)
            ]
            return candidates.with_values(torch.cat(scores))
        texts = (queries.values, queries.offsets, documents.values, documents.offsets)
        lists = (candidates.values, candidates.offsets)
        if _needs_gradient(queries, documents):
            return candidates.with_values(_MaxSim.apply(*texts, *lists))
        return candidates.with_values(cpu.maxsim_candidates(*_detached(*texts), *lists)[0])


def quantised(documents: Ragged, dtype: torch.dtype = torch.int8) -> tuple[Ragged, Tensor]:
    """Embeddings in a byte a number, for searching and ranking: half the memory of bf16, and half the time to read it.

    Args:
        documents: texts of embeddings (T, E), floating-point.
        dtype: torch.int8, or torch.float8_e4m3fn (on GPUs of compute capability 8.9 and above).

    Returns:
        The documents in that dtype, and what each token is to be multiplied with, (document tokens,) float32: the
        `scales` of `maxsim`.

    Raises:
        TypeError: for another dtype.
    """
    if dtype not in _BYTES:
        raise TypeError(f"dtype must be one of {', '.join(map(str, _BYTES))}, got {dtype}")
    values = documents.values.float()
    # A token of zeros stays one.
    scales = values.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / _BYTES[dtype]
    values = values / scales[:, None]
    return documents.with_values((values.round() if dtype == torch.int8 else values).to(dtype)), scales


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


def _has_kernels(queries: Ragged) -> bool:
    """Whether MaxSim runs in Triton, which PyTorch brings along where it supports it."""
    return queries.device.type == "cuda" and queries.dtype != torch.float64 and find_spec("triton") is not None


def _all_pairs_on_gpu(queries: Ragged, documents: Ragged, scales: Tensor | None) -> Tensor:
    from colbertz.kernels.triton import maxsim as gpu

    texts = (queries.values, queries.offsets, documents.values, documents.offsets)
    if scales is None and _needs_gradient(queries, documents):
        scores: Tensor = gpu.MaxSim.apply(*texts, _longest(queries, documents))
        return scores
    return gpu.maxsim(*_detached(*texts), scales=scales)[0]


def _candidates_on_gpu(queries: Ragged, documents: Ragged, candidates: Ragged, scales: Tensor | None) -> Tensor:
    from colbertz.kernels.triton import maxsim_candidates as gpu
    from colbertz.kernels.triton.maxsim import text_of_row

    texts = (queries.values, queries.offsets, documents.values, documents.offsets)
    longest = _longest(queries, documents)
    if scales is None and _needs_gradient(queries, documents):
        scores: Tensor = gpu.MaxSimCandidates.apply(*texts, candidates.values, candidates.offsets, longest)
        return scores
    query_of_pair = text_of_row(candidates.offsets, len(candidates.values))
    lists = (candidates.values, query_of_pair)
    return gpu.maxsim_candidates(*_detached(*texts), *lists, longest[0], scales=scales)[0]


def _longest(queries: Ragged, documents: Ragged) -> tuple[int, int]:
    """Tokens of the longest query and the longest document. Waits for the device, as checking candidates does."""
    query, document = torch.stack([F.pad(texts.lengths, (0, 1)).amax() for texts in (queries, documents)]).tolist()
    return query, document


def _dequantised(documents: Ragged, scales: Tensor, dtype: torch.dtype) -> Ragged:
    return documents.map(lambda values: (values.float() * scales[:, None]).to(dtype))


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


def _detached(
    queries: Tensor, query_offsets: Tensor, documents: Tensor, document_offsets: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return queries.detach(), query_offsets, documents.detach(), document_offsets


def _needs_gradient(*texts: Ragged) -> bool:
    return torch.is_grad_enabled() and any(text.values.requires_grad for text in texts)


def _check(queries: Ragged, documents: Ragged, scales: Tensor | None) -> None:
    for name, texts in (("queries", queries), ("documents", documents)):
        if not texts.dtype.is_floating_point and (scales is None or texts is queries):
            raise TypeError(f"{name} are {texts.dtype}; MaxSim takes floating-point embeddings")
        if texts.values.dim() != 2:
            raise UserError(f"{name} must have values of shape (tokens, dim), got {tuple(texts.values.shape)}")
    if scales is not None and (documents.dtype not in _BYTES or scales.shape != documents.values.shape[:1]):
        raise UserError(
            f"scales of shape {tuple(scales.shape)} do not belong to documents of {documents.dtype} with"
            f" {len(documents.values)} tokens; take both from colbertz.quantised"
        )
    if scales is None and queries.dtype != documents.dtype:
        raise TypeError(f"queries are {queries.dtype} and documents {documents.dtype}; convert one with .to(dtype)")
    if queries.device != documents.device:
        raise UserError(f"queries are on {queries.device} and documents on {documents.device}; move one with .to()")
    if queries.values.shape[1] != documents.values.shape[1]:
        raise UserError(
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
        raise UserError(
            f"there are {len(candidates)} lists of candidates for {len(queries)} queries; give one for each"
        )
    if candidates.device != queries.device:
        raise UserError(f"candidates are on {candidates.device} and queries on {queries.device}; move one with .to()")
    wrong = numbers[(numbers < 0) | (numbers >= len(documents))]
    if len(wrong):
        raise IndexError(f"candidate {int(wrong[0])} does not exist: there are {len(documents)} documents, from 0")
