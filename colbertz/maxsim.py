"""MaxSim, the score of late interaction: each query token counts with the document token nearest to it.

The public operator over `Ragged`, its gradient, and the choice of kernel by device. kernels/reference.py defines the
score. There is no mask argument: remove a token that must not count with `Ragged.select`, which has the same effect as
a mask of minus infinity.

Legend: B queries, A documents, S query tokens, T document tokens, E embedding dim, P pairs.
"""

from importlib.util import find_spec
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from colbertz.errors import UserError, check_type
from colbertz.kernels import cpu
from colbertz.kernels.arrays import Candidates, Longest, Pairs, Texts
from colbertz.ragged import Ragged

# Implementations: "cpu" is numba and oneDNN, for tensors on the CPU; "triton" is for CUDA and every dtype but float64;
# "torch" is plain PyTorch operators, for every device and dtype.
Backend = Literal["cpu", "triton", "torch"]

# Scores that the PyTorch implementation holds at a time.
_TORCH_BLOCK = 1 << 26
# The dtypes that documents can be quantised to, and the largest value that is used of each.
_LARGEST_VALUE = {torch.int8: 127, torch.float8_e4m3fn: 448}


def maxsim(
    queries: Ragged, documents: Ragged, *, scales: Tensor | None = None, backend: Backend | None = None
) -> Tensor:
    """Score every document for every query: the sum over query tokens of the largest dot product.

    Memory beyond inputs and outputs is one small integer per pair and query token if a gradient is needed, and a block
    of scores that fits the cache. A query or document without tokens scores 0 and gets no gradient.

    Args:
        queries: B texts of embeddings (S, E), floating-point.
        documents: A texts of embeddings (T, E), on the same device and of the same dtype; or `quantised`.
        scales: for quantised documents, the factor of each token, (document tokens,) float32. There is no gradient
            then.
        backend: the implementation; by default the fastest for the device and dtype (`default_backend`).

    Returns:
        (B, A) scores, float32 (float64 for float64), differentiable with respect to both.

    Raises:
        TypeError: if the embeddings are not floating-point or their dtypes differ.
        UserError: if they are not (tokens, E) with the same E, are on different devices, or there is not one scale
            for each token.
    """
    _check(queries, documents, scales)
    backend = _checked_backend(backend, queries)
    with torch.autocast(queries.device.type, enabled=False):
        if backend == "triton":
            # Triton launches on the current device, which need not be the device of the arguments.
            with torch.cuda.device_of(queries.values):
                return _all_pairs_in_triton(queries, documents, scales)
        if scales is not None:
            queries, documents = queries.detach(), _dequantised(documents, scales, queries.dtype)
        if backend == "torch":
            max_rows = _TORCH_BLOCK // max(1, len(queries.values))
            return torch.cat([_all_pairs_in_torch(queries, part) for part in documents.split(max_rows)], dim=1)
        if _needs_gradient(queries, documents):
            scores: Tensor = _MaxSim.apply(*_texts(queries), *_texts(documents))
            return scores
        return cpu.maxsim.maxsim(_texts(queries.detach()), _texts(documents.detach()))[0]


def maxsim_candidates(
    queries: Ragged,
    documents: Ragged,
    candidates: Ragged,
    *,
    scales: Tensor | None = None,
    backend: Backend | None = None,
) -> Ragged:
    """Score each query with the documents of its own list, for distillation and for reranking.

    Args:
        queries: B texts of embeddings (S, E), floating-point.
        documents: A texts of embeddings (T, E), on the same device and of the same dtype; or `quantised`.
        candidates: B lists of document indices (places in `documents`), values (P,) int64. A document may be in several
            lists. Lists of consecutive documents are read in place; others are copied, a block at a time.
        scales: as for `maxsim`.
        backend: as for `maxsim`.

    Returns:
        A score in the place of each index: values (P,) float32 (float64 for float64), differentiable.

    Raises:
        TypeError: as for `maxsim`, or if the candidates are not int64.
        UserError: as for `maxsim`, or if there is not one list for each query.
        IndexError: if an index is not in `documents`.
    """
    _check(queries, documents, scales)
    _check_candidates(queries, documents, candidates)
    backend = _checked_backend(backend, queries)
    with torch.autocast(queries.device.type, enabled=False):
        if backend == "triton":
            with torch.cuda.device_of(queries.values):
                return candidates.with_values(_candidates_in_triton(queries, documents, candidates, scales))
        if scales is not None:
            queries, documents = queries.detach(), _dequantised(documents, scales, queries.dtype)
        if backend == "torch":
            max_rows = _TORCH_BLOCK // max(1, int(queries.lengths.max()))
            scores = [
                _all_pairs_in_torch(queries[b : b + 1], part)[0]
                for b in range(len(queries))
                for part in documents[candidates[b]].split(max_rows)
            ]
            return candidates.with_values(torch.cat(scores))
        lists = Candidates(candidates.values, candidates.offsets)
        if _needs_gradient(queries, documents):
            return candidates.with_values(_MaxSim.apply(*_texts(queries), *_texts(documents), *lists))
        return candidates.with_values(
            cpu.maxsim.maxsim_candidates(_texts(queries.detach()), _texts(documents.detach()), lists)[0]
        )


def default_backend(queries: Ragged) -> Backend:
    """The fastest implementation for the queries' device and dtype."""
    if queries.device.type == "cpu":
        return "cpu"
    # PyTorch installs Triton on the platforms that Triton supports.
    if queries.device.type == "cuda" and queries.dtype != torch.float64 and find_spec("triton") is not None:
        return "triton"
    return "torch"


def quantised(documents: Ragged, dtype: torch.dtype = torch.int8) -> tuple[Ragged, Tensor]:
    """Store embeddings in one byte per value, for searching and reranking: half the memory of bf16, and half to read.

    Args:
        documents: texts of embeddings (T, E), floating-point.
        dtype: torch.int8, or torch.float8_e4m3fn (on GPUs of compute capability 8.9 and above).

    Returns:
        The documents in that dtype, and the factor of each token, (document tokens,) float32: `scales` of `maxsim`.

    Raises:
        TypeError: if `dtype` is another one.
    """
    check_type("documents", documents, Ragged, "a Ragged; make one with Ragged.from_list")
    if dtype not in _LARGEST_VALUE:
        raise TypeError(f"dtype must be one of {', '.join(map(str, _LARGEST_VALUE))}, got {dtype}")
    values = documents.values.float()
    # The minimum keeps a token of zeros from a division by 0.
    scales = values.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / _LARGEST_VALUE[dtype]
    values = values / scales[:, None]
    return documents.with_values((values.round() if dtype == torch.int8 else values).to(dtype)), scales


class _MaxSim(torch.autograd.Function):
    """MaxSim of all pairs or of lists on the CPU. Between the passes it keeps the places of the maxima, no scores."""

    @staticmethod
    def forward(
        ctx: Any,
        query_values: Tensor,
        query_offsets: Tensor,
        document_values: Tensor,
        document_offsets: Tensor,
        doc_idx: Tensor | None = None,
        candidate_offsets: Tensor | None = None,
    ) -> Tensor:
        queries, documents = Texts(query_values, query_offsets), Texts(document_values, document_offsets)
        if doc_idx is None or candidate_offsets is None:
            scores, argmax = cpu.maxsim.maxsim(queries, documents, argmax=True)
        else:
            scores, argmax = cpu.maxsim.maxsim_candidates(
                queries, documents, Candidates(doc_idx, candidate_offsets), argmax=True
            )
        ctx.save_for_backward(*queries, *documents, doc_idx, candidate_offsets, argmax)
        return scores

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grads: Tensor) -> tuple[Tensor | None, ...]:
        *arrays, doc_idx, candidate_offsets, argmax = ctx.saved_tensors
        queries, documents = Texts(*arrays[:2]), Texts(*arrays[2:])
        if doc_idx is None:
            num_queries, num_documents = grads.shape
            doc_idx = torch.arange(num_documents).repeat(num_queries)
            candidate_offsets = torch.arange(num_queries + 1) * num_documents
        needs = (ctx.needs_input_grad[0], ctx.needs_input_grad[2])
        candidates = Candidates(doc_idx, candidate_offsets)
        dqueries, ddocuments = cpu.maxsim.maxsim_backward(
            grads.reshape(-1), queries, documents, candidates, argmax, needs
        )
        return dqueries, None, ddocuments, None, None, None


def _all_pairs_in_triton(queries: Ragged, documents: Ragged, scales: Tensor | None) -> Tensor:
    from colbertz.kernels.triton.maxsim import differentiable_maxsim, maxsim

    if scales is None and _needs_gradient(queries, documents):
        return differentiable_maxsim(_texts(queries), _texts(documents), _longest(queries, documents))
    return maxsim(_texts(queries.detach()), _texts(documents.detach()), scales=scales)[0]


def _candidates_in_triton(queries: Ragged, documents: Ragged, candidates: Ragged, scales: Tensor | None) -> Tensor:
    from colbertz.kernels.triton.maxsim import text_of_row
    from colbertz.kernels.triton.maxsim_candidates import differentiable_maxsim_candidates, maxsim_candidates

    longest = _longest(queries, documents)
    if scales is None and _needs_gradient(queries, documents):
        lists = Candidates(candidates.values, candidates.offsets)
        return differentiable_maxsim_candidates(_texts(queries), _texts(documents), lists, longest)
    pairs = Pairs(candidates.values, text_of_row(candidates.offsets, len(candidates.values)))
    texts = (_texts(queries.detach()), _texts(documents.detach()))
    return maxsim_candidates(*texts, pairs, longest.query, scales=scales)[0]


def _texts(texts: Ragged) -> Texts:
    return Texts(texts.values, texts.offsets)


def _longest(queries: Ragged, documents: Ragged) -> Longest:
    """Tokens of the longest query and the longest document. Waits for the device, as the check of candidates does."""
    query, document = torch.stack([F.pad(texts.lengths, (0, 1)).amax() for texts in (queries, documents)]).tolist()
    return Longest(query, document)


def _dequantised(documents: Ragged, scales: Tensor, dtype: torch.dtype) -> Ragged:
    return documents.map(lambda values: (values.float() * scales[:, None]).to(dtype))


def _all_pairs_in_torch(queries: Ragged, documents: Ragged) -> Tensor:
    """(B, A) scores in PyTorch operators; the backward pass computes them again instead of keeping them."""
    query_idx = torch.arange(len(queries), device=queries.device).repeat_interleave(queries.lengths)
    dtype = torch.promote_types(queries.dtype, torch.float32)

    def score(query_values: Tensor, document_values: Tensor) -> Tensor:
        padded, mask = documents.with_values(document_values.to(dtype)).padded()
        out = query_values.new_zeros(len(queries), len(documents), dtype=dtype)
        if mask.numel() == 0 or len(query_values) == 0:
            return out
        scores = (query_values.to(dtype) @ padded.flatten(0, 1).T).unflatten(1, mask.shape)
        best = scores.masked_fill(~mask, -torch.inf).max(2).values.masked_fill(~mask.any(1), 0)
        return out.index_add(0, query_idx, best)

    if not _needs_gradient(queries, documents):
        scores = documents.values.to(dtype) @ queries.values.to(dtype).T
        best = torch.segment_reduce(scores, "max", offsets=documents.offsets)
        best = best.masked_fill((documents.lengths == 0)[:, None], 0)
        return best.new_zeros(len(documents), len(queries)).index_add(1, query_idx, best).T
    from torch.utils.checkpoint import checkpoint  # its first call imports torch._dynamo

    with_gradient: Tensor = checkpoint(
        score, queries.values, documents.values, use_reentrant=False, preserve_rng_state=False
    )
    return with_gradient


def _needs_gradient(*texts: Ragged) -> bool:
    return torch.is_grad_enabled() and any(text.values.requires_grad for text in texts)


def _checked_backend(backend: Backend | None, queries: Ragged) -> Backend:
    if backend is None:
        return default_backend(queries)
    if backend not in get_args(Backend):
        raise UserError(f"backend must be one of {', '.join(get_args(Backend))}, got {backend!r}")
    return backend


def _check(queries: Ragged, documents: Ragged, scales: Tensor | None) -> None:
    if scales is not None:
        check_type("scales", scales, Tensor, "a tensor")
    for name, texts in (("queries", queries), ("documents", documents)):
        check_type(name, texts, Ragged, "a Ragged; make one with Ragged.from_list")
        texts.check_offsets()
        if not texts.dtype.is_floating_point and (scales is None or texts is queries):
            raise TypeError(f"{name} are {texts.dtype}; MaxSim takes floating-point embeddings")
        if texts.values.dim() != 2:
            raise UserError(f"{name} must have values of shape (tokens, dim), got {tuple(texts.values.shape)}")
    if scales is not None and (documents.dtype not in _LARGEST_VALUE or scales.shape != documents.values.shape[:1]):
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
    check_type("candidates", candidates, Ragged, "a Ragged; make one with Ragged.from_lengths")
    candidates.check_offsets()
    doc_idx = candidates.values
    if doc_idx.dtype != torch.int64 or doc_idx.dim() != 1:
        raise TypeError(
            f"candidates must be int64 document indices, got {doc_idx.dtype} of shape {tuple(doc_idx.shape)}"
        )
    if len(candidates) != len(queries):
        raise UserError(
            f"there are {len(candidates)} lists of candidates for {len(queries)} queries; give one list per query"
        )
    if candidates.device != queries.device:
        raise UserError(f"candidates are on {candidates.device} and queries on {queries.device}; move one with .to()")
    missing = doc_idx[(doc_idx < 0) | (doc_idx >= len(documents))]
    if len(missing):
        raise IndexError(f"candidate {int(missing[0])} does not exist: there are {len(documents)} documents, from 0")
