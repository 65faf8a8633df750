"""The reference itself, against numbers worked out by hand and the formula that PyLate uses."""

import pytest
import torch
from embeddings import arrays_of

from colbertz.kernels import reference
from colbertz.kernels.arrays import Candidates
from colbertz.ragged import Ragged


def test_by_hand() -> None:
    queries = Ragged.from_list([torch.tensor([[1.0, 0], [0, 1]]), torch.zeros(0, 2), torch.tensor([[2.0, 1]])])
    documents = Ragged.from_list([torch.tensor([[1.0, 2], [3, -1]]), torch.tensor([[-1.0, -1]]), torch.zeros(0, 2)])
    scores = reference.maxsim(arrays_of(queries), arrays_of(documents))
    assert scores.tolist() == [[3 + 2, -1 - 1, 0], [0, 0, 0], [5, -3, 0]]
    candidates = Candidates(torch.tensor([1, 0, 1, 2]), torch.tensor([0, 2, 2, 4]))
    pairs = reference.maxsim_candidates(arrays_of(queries), arrays_of(documents), candidates)
    assert pairs.tolist() == [-2, 5, -3, 0]


def test_the_first_of_equally_near_tokens_gets_the_gradient() -> None:
    document = torch.ones(3, 2, requires_grad=True)
    reference.maxsim_pair(torch.ones(1, 2), document).backward()
    assert document.grad is not None
    assert document.grad.tolist() == [[1, 1], [0, 0], [0, 0]]


@pytest.mark.parametrize("masked", [False, True])
def test_equals_pylates_formula(masked: bool) -> None:
    """PyLate's `colbert_scores` multiplies by the mask, so padding counts as 0: equal where no maximum is below 0."""
    torch.manual_seed(0)
    Q, D = torch.rand(3, 4, 8), torch.rand(5, 6, 8)
    q_mask = torch.rand(3, 4) < 0.7 if masked else torch.ones(3, 4, dtype=torch.bool)
    d_mask = torch.rand(5, 6) < 0.7 if masked else torch.ones(5, 6, dtype=torch.bool)
    scores = torch.einsum("ash,bth->abst", Q, D) * q_mask[:, None, :, None] * d_mask[None, :, None]
    queries, documents = Ragged.from_padded(Q, q_mask), Ragged.from_padded(D, d_mask)
    ours = reference.maxsim(arrays_of(queries), arrays_of(documents))
    torch.testing.assert_close(ours, scores.max(-1).values.sum(-1))
