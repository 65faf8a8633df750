"""The contrastive loss against a version written out by hand in float64, values and gradients."""

import pytest
import torch

from colbertz.training.losses import accuracy, contrastive


def by_hand(scores: torch.Tensor, positives: torch.Tensor, temperature: float) -> torch.Tensor:
    total = scores.new_zeros(())
    for row, positive in zip(scores, positives.tolist()):
        exponentials = [torch.exp((score - row.max()) / temperature) for score in row]
        total = total - torch.log(exponentials[positive] / sum(exponentials))
    return total / len(scores)


@pytest.mark.parametrize(("num_queries", "num_documents"), [(1, 2), (5, 5), (3, 12)])
@pytest.mark.parametrize("temperature", [0.02, 0.3, 1.0])
def test_equals_the_definition(num_queries: int, num_documents: int, temperature: float) -> None:
    scores = torch.randn(num_queries, num_documents, dtype=torch.float64).requires_grad_()
    positives = torch.randint(num_documents, (num_queries,))
    expected = by_hand(scores, positives, temperature)
    (gradient,) = torch.autograd.grad(expected, scores)
    single = scores.detach().float().requires_grad_()
    loss = contrastive(single, positives, temperature)
    loss.backward()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(single.grad.double(), gradient, rtol=1e-4, atol=1e-5)


def test_half_precision_scores_are_summed_in_single() -> None:
    scores = (torch.randn(64, 64) * 10).bfloat16()
    positives = torch.arange(64)
    torch.testing.assert_close(contrastive(scores, positives, 0.1), contrastive(scores.float(), positives, 0.1))


def test_accuracy_counts_the_queries_whose_own_document_wins() -> None:
    scores = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 5.0], [0.0, 1.0, 5.0], [0.0, 0.0, 1.0]])
    assert accuracy(scores, torch.tensor([0, 1, 2, 0])) == 0.5
