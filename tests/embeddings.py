"""Random embeddings, and the gradients of their scores."""

import torch
from torch import Tensor

from colbertz.kernels import reference
from colbertz.ragged import Ragged


def random_texts(lengths: list[int], dim: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Ragged:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(sum(lengths), dim, generator=generator, dtype=torch.float64)
    return Ragged.from_lengths(values.to(dtype).requires_grad_(), lengths)


def reference_scores(queries: Ragged, documents: Ragged, lists: Ragged | None = None) -> Tensor:
    """(B, A), or (P,) for lists of candidates."""
    texts = (queries.values, queries.offsets, documents.values, documents.offsets)
    if lists is None:
        return reference.maxsim(*texts)
    return reference.maxsim_candidates(*texts, lists.values, lists.offsets)


def gradients(scores: Tensor, *texts: Ragged, weights: Tensor | None = None) -> tuple[Tensor, ...]:
    """Of all texts, with `weights` as the gradients of the scores."""
    if weights is None:
        weights = torch.linspace(-1, 1, scores.numel(), dtype=torch.float64).view_as(scores)
    weights = weights.to(scores)
    return torch.autograd.grad(scores, [text.values for text in texts], weights, materialize_grads=True)
