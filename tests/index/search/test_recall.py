"""Recall of a search against brute force over the decoded vectors, for texts of one token to hundreds."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from colbertz import Hit, Index, Ragged
from colbertz.index.search.refine import Scored, refine

K = 10
# Documents, tokens of each, dimension, bits, and how much all vectors have in common (0.97 is a narrow cone).
COLLECTIONS = [
    (4000, 1, 48, 4, 0.0),
    (3000, 10, 96, 4, 0.97),
    (3000, 10, 96, 1, 0.97),
    (2000, 12, 128, 2, 0.5),
    (1500, 40, 64, 8, 0.9),
    (700, 150, 768, 1, 0.3),
    (600, 300, 48, 4, 0.97),
]


def texts(count: int, num_tokens: int, dim: int, cone: float, seed: int) -> Ragged:
    """Texts on topics, with words that are more or less frequent: most tokens are near one of them, a few are not."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randn(500, dim, generator=torch.Generator().manual_seed(1))
    common = F.normalize(torch.randn(dim, generator=torch.Generator().manual_seed(2)), dim=0)
    frequencies = 1 / torch.arange(1, 501).float()
    tokens = words[torch.multinomial(frequencies, count * num_tokens, replacement=True, generator=generator)]
    topic = torch.randn(count, dim, generator=generator).repeat_interleave(num_tokens, 0)
    noise = torch.randn(tokens.shape, generator=generator)
    values = F.normalize(tokens + 0.5 * topic + 0.5 * noise, dim=1)
    values = F.normalize((1 - cone**2) ** 0.5 * values + cone * common, dim=1)
    return Ragged.from_lengths(values, [num_tokens] * count)


def overlap(found: list[list[Hit]], best: list[list[Hit]]) -> float:
    """The share of the best that was found; a document whose score equals that of the last counts as one of them."""
    shares = [
        np.mean([hit.score >= others[-1].score - 1e-4 for hit in hits])
        for hits, others in zip(found, best, strict=True)
    ]
    return float(np.mean(shares))


@pytest.mark.parametrize(("count", "num_tokens", "dim", "nbits", "cone"), COLLECTIONS)
def test_recall(count: int, num_tokens: int, dim: int, nbits: int, cone: float, tmp_path: Path) -> None:
    index = Index.build(tmp_path / "index", texts(count, num_tokens, dim, cone, 0), nbits=nbits)
    queries = texts(25, 8, dim, cone, 3)
    exact = index.search(queries, K, exact=True)
    default = overlap(index.search(queries, K), exact)
    assert default >= 0.98
    efforts = [(8, 4096), (16, 2048), (10**9, 2048)]
    more = [overlap(index.search(queries, K, n_ivf_probe=p, n_full_scores=n), exact) for p, n in efforts]
    assert min(more) >= default - 1e-3
    assert index.search(queries, K, n_ivf_probe=10**9, n_full_scores=count) == exact


def test_refining_scores_everything_where_approximate_scores_say_nothing() -> None:
    rng = np.random.default_rng(0)
    scores = rng.standard_normal(1000).astype(np.float32)
    candidates = Scored(np.arange(1000), rng.standard_normal(1000).astype(np.float32))
    refined = refine(candidates, 10, lambda doc_idx: scores[doc_idx], 50, 1000, 0.05)
    assert len(refined.doc_idx) == 1000 and (refined.scores == scores[refined.doc_idx]).all()
    close = Scored(np.arange(1000), scores + rng.normal(0, 1e-3, 1000).astype(np.float32))
    refined = refine(close, 10, lambda doc_idx: scores[doc_idx], 50, 1000, 0.05)
    assert len(refined.doc_idx) == 50 and set(np.argsort(-scores)[:10]) <= set(refined.doc_idx)
    assert len(refine(candidates, 10, lambda doc_idx: scores[doc_idx], 50, 200, 0.05).doc_idx) == 200
