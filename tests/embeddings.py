"""Random embeddings, their scores by the reference, and gradients of scores."""

import torch
from torch import Tensor

from colbertz.kernels import reference
from colbertz.kernels.arrays import Candidates, Texts
from colbertz.ragged import Ragged


def random_texts(lengths: list[int], dim: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Ragged:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(sum(lengths), dim, generator=generator, dtype=torch.float64)
    return Ragged.from_lengths(values.to(dtype).requires_grad_(), lengths)


def arrays_of(texts: Ragged) -> Texts:
    """The texts in the form that launchers of kernels take."""
    return Texts(texts.values, texts.offsets)


def unit_texts(lengths: list[int], dim: int = 16, seed: int = 0) -> Ragged:
    """Random vectors of norm 1."""
    values = torch.randn(sum(lengths), dim, generator=torch.Generator().manual_seed(seed))
    return Ragged.from_lengths(torch.nn.functional.normalize(values, dim=1), lengths)


def texts_in_cells(count: int, num_cells: int, seed: int, dim: int = 32) -> Ragged:
    """Texts of 4 to 23 vectors of norm 1 around so few directions, the same for all seeds, that lists are long."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(4, 24, (count,), generator=generator).tolist()
    directions = torch.randn(num_cells, dim, generator=torch.Generator().manual_seed(0))
    values = directions[torch.randint(num_cells, (sum(lengths),), generator=generator)]
    values = values + 0.5 * torch.randn(sum(lengths), dim, generator=generator)
    return Ragged.from_lengths(torch.nn.functional.normalize(values, dim=1), lengths)


def reference_scores(queries: Ragged, documents: Ragged, lists: Ragged | None = None) -> Tensor:
    """(B, A), or (P,) for lists of candidates."""
    if lists is None:
        return reference.maxsim(arrays_of(queries), arrays_of(documents))
    return reference.maxsim_candidates(
        arrays_of(queries), arrays_of(documents), Candidates(lists.values, lists.offsets)
    )


def gradients(scores: Tensor, *texts: Ragged, weights: Tensor | None = None) -> tuple[Tensor, ...]:
    """The gradients of all texts, with `weights` as the gradients of the scores."""
    if weights is None:
        weights = torch.linspace(-1, 1, scores.numel(), dtype=torch.float64).view_as(scores)
    weights = weights.to(scores)
    return torch.autograd.grad(scores, [text.values for text in texts], weights, materialize_grads=True)
