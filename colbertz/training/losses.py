"""Losses: pure functions of scores, which know nothing of models, texts or processes.

Legend: B queries, A documents.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def contrastive(scores: Tensor, positives: Tensor, temperature: float) -> Tensor:
    """InfoNCE (van den Oord et al. 2018, arXiv 1807.03748, equation 4) with in-batch negatives.

    Args:
        scores: (B, A) of every query with every document.
        positives: (B,) int64, the column of each query's own document; all other columns are its negatives.
        temperature: scores are divided by it.

    Returns:
        The mean over the queries of -log softmax(scores / temperature)[positive], a float32 scalar.
    """
    return F.cross_entropy(scores.float() / temperature, positives)


def accuracy(scores: Tensor, positives: Tensor) -> Tensor:
    """Share of the queries whose own document scores highest, a float32 scalar."""
    return (scores.detach().argmax(1) == positives).to(torch.float32).mean()
