"""Exact search: every document is scored with MaxSim, a block of documents at a time, and the best k are kept.

Letters: B queries, A documents of a block, K hits kept.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from colbertz.maxsim import maxsim
from colbertz.ragged import Ragged

# Tokens a block: 128 dimensions of float32 take 64 MB. Queries are scored as many at a time.
BLOCK_TOKENS = 131_072
QUERY_TOKENS = 16_384


def exact_search(queries: Ragged, embeddings: np.ndarray, offsets: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The best `k` documents for each query, by score and then by document number.

    Args:
        queries: B texts of (num_tokens, E) float32 rows; the scoring runs on their device.
        embeddings: (num_tokens, E) float16, usually memory-mapped: a block is read when its turn comes.
        offsets: (num_documents + 1,) int64, where each document begins in `embeddings`.
        k: hits a query, at most the number of documents.

    Returns:
        Scores (B, k) float32 and document numbers (B, k) int64, on the CPU.
    """
    results = [_search_some(part, embeddings, offsets, k) for part in queries.split(QUERY_TOKENS)]
    return torch.cat([scores for scores, _ in results]), torch.cat([numbers for _, numbers in results])


@torch.no_grad()
def _search_some(queries: Ragged, embeddings: np.ndarray, offsets: Tensor, k: int) -> tuple[Tensor, Tensor]:
    best = queries.values.new_empty(len(queries), 0)
    numbers = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    for first, last in _blocks(offsets):
        rows = torch.from_numpy(embeddings[offsets[first] : offsets[last]])
        block = Ragged(rows, offsets[first : last + 1] - offsets[first]).to(queries.device, torch.float32)
        scores = torch.cat([best, maxsim(queries, block)], 1)  # (B, K + A)
        documents = torch.arange(first, last, device=queries.device).expand(len(queries), -1)
        # A stable sort keeps equal scores in the order of the documents, which topk does not promise.
        best, order = (part[:, :k] for part in scores.sort(dim=1, descending=True, stable=True))
        numbers = torch.cat([numbers, documents], 1).gather(1, order)
    return best.cpu(), numbers.cpu()


def _blocks(offsets: Tensor) -> Iterator[tuple[int, int]]:
    """Ranges of documents with at most BLOCK_TOKENS tokens together; a longer document is alone."""
    first, num_documents = 0, len(offsets) - 1
    while first < num_documents:
        last = int(torch.searchsorted(offsets, offsets[first] + BLOCK_TOKENS, right=True)) - 1
        last = max(last, first + 1)
        yield first, last
        first = last
