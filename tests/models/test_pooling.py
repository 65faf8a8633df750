"""Token pooling: what is clustered, what stands for a cluster, and what it costs on a collection."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from colbertz import ColBERT, Ragged, maxsim
from colbertz.evaluation import metrics
from colbertz.evaluation.named import load
from colbertz.models.pooling import pool_tokens

SQUAD = Path("/work/shared/data/squad")


def unit_vectors(*sizes: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(*sizes, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_pooling_tokens_that_are_equal() -> None:
    """Rounding gives equal tokens a distance below zero, which made scipy's linkage fail."""
    token = unit_vectors(1, 48)
    document = Ragged.from_list([(token * (1 + 1e-7)).repeat(9, 1)])
    for pooling in ("ward", "pylate"):
        [pooled] = pool_tokens(document, pool_factor=2, pooling=pooling)
        torch.testing.assert_close(pooled[-1:], token, rtol=1e-5, atol=1e-5)


def reference(tokens: np.ndarray, num_clusters: int, pool_factor: int, center: np.ndarray) -> np.ndarray:
    """What "ward" makes of unit vectors (num_tokens, E), one cluster after the other in float64."""
    from scipy.cluster import hierarchy

    if len(tokens) == 1:
        return tokens
    labels = hierarchy.fcluster(hierarchy.linkage(tokens, "ward"), num_clusters, "maxclust")
    means = []
    for label in np.unique(labels):
        members = tokens[labels == label]
        weights = np.maximum(1 - members @ center / np.linalg.norm(center), 1e-3) ** 2
        plain = np.average(members, axis=0, weights=weights)
        far = np.average(np.linalg.norm(members - center, axis=1), weights=weights)
        stretch = far / max(np.linalg.norm(plain - center), 1e-3)
        mean = center + min(max(stretch, 1), 3) * (plain - center)
        means.append(mean / np.linalg.norm(mean) * np.linalg.norm(plain) ** (-1 / pool_factor))
    return np.stack(means)


@pytest.mark.parametrize("pool_factor", [2, 3, 4])
@pytest.mark.parametrize("num_tokens", [1, 2, 3, 4, 5, 41, 300])
def test_clusters_become_the_means_of_a_plain_reference(num_tokens: int, pool_factor: int) -> None:
    document = F.normalize(unit_vectors(num_tokens + 5, 16) + 0.5 * unit_vectors(16, seed=1), dim=1)
    [pooled] = pool_tokens(Ragged.from_list([document]), pool_factor, protected_tokens=3, protected_at_end=2)
    assert torch.equal(pooled[:3], document[:3])
    assert torch.equal(pooled[-2:], document[-2:])
    rest = document[3:-2].double().numpy()
    expected = reference(rest, max(num_tokens // pool_factor, 1), pool_factor, rest.mean(0))
    np.testing.assert_allclose(pooled[3:-2].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("pool_factor", "bounds"), [(2, [0, 938, 1876, 2815]), (3, [0, 938, 1876, 2815]), (1400, [0, 1407, 2815])]
)
def test_a_long_document_is_clustered_in_parts_of_neighbours(pool_factor: int, bounds: list[int]) -> None:
    """Parts share the mean of the document and one number of clusters; each has as many tokens as the factor."""
    document = F.normalize(unit_vectors(2815, 8) + unit_vectors(8, seed=1), dim=1)
    [pooled] = pool_tokens(Ragged.from_list([document]), pool_factor, protected_tokens=0)
    assert len(pooled) == 2815 // pool_factor
    tokens = document.double().numpy()
    expected = [
        reference(tokens[start:end], end // pool_factor - start // pool_factor, pool_factor, tokens.mean(0))
        for start, end in pairwise(bounds)
    ]
    np.testing.assert_allclose(pooled.numpy(), np.concatenate(expected), atol=1e-4)


def test_means_are_longer_than_their_tokens() -> None:
    """By what averaging loses; a copy is as long as its token. Clusters depend on directions only."""
    document = unit_vectors(30, 16)
    [pooled] = pool_tokens(Ragged.from_list([document]), 3)
    assert bool((pooled.norm(dim=1) > 1 - 1e-5).all()) and bool((pooled[1:].norm(dim=1) > 1.01).any())
    [copies] = pool_tokens(Ragged.from_list([document.repeat(2, 1)]), 2, protected_tokens=0)
    torch.testing.assert_close(copies.norm(dim=1), torch.ones(30))
    [scaled] = pool_tokens(Ragged.from_list([document * 7]), 3)
    torch.testing.assert_close(scaled, pooled * 7)


@pytest.mark.parametrize("document", [torch.tensor([[1.0, 0], [-1.0, 0]]), torch.zeros(4, 2), torch.zeros(0, 2)])
def test_no_mean_is_a_rounding_error(document: torch.Tensor) -> None:
    """Opposite tokens have no mean direction, so one of them is kept; zeros stay zeros, and nothing becomes NaN."""
    [pooled] = pool_tokens(Ragged.from_list([document]), 4, protected_tokens=0)
    assert len(pooled) == min(len(document), 1)
    assert torch.equal(pooled.norm(dim=1), document[: len(pooled)].norm(dim=1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_short_documents_and_protected_tokens_are_kept(dtype: torch.dtype) -> None:
    documents = Ragged.from_list([unit_vectors(length, 8).to(dtype) for length in (0, 1, 2, 3, 5, 6, 12)])
    pooled = pool_tokens(documents, 2, protected_tokens=4, protected_at_end=1)
    assert pooled.dtype == dtype
    assert pooled.lengths.tolist() == [0, 1, 2, 3, 5, 6, 8]
    for before, after in zip(list(documents)[:6], pooled):
        assert torch.equal(before, after)


@pytest.mark.slow
@pytest.mark.skipif(not SQUAD.is_dir(), reason="shared/data is not on this machine")
def test_factor_2_costs_little_quality() -> None:
    """The limit is 0.02. PyLate's pooling loses 0.13. benchmarks/pooling.py measures more."""
    collection = load(str(SQUAD), "dev").some_queries(400)
    model = ColBERT.from_pretrained("colbertz/nano", "cpu")
    queries = model.encode_query(collection.queries)
    whole = model.encode_document(collection.documents)
    pooled = pool_tokens(whole, 2, *model.tokenizer.tokens_of_every_document())

    def quality(documents: Ragged) -> float:
        best = maxsim(queries, documents).topk(10, dim=1).indices.tolist()
        rankings = [[collection.document_ids[i] for i in row] for row in best]
        return metrics.ndcg(rankings, collection.relevant, 10)

    assert len(pooled.values) < 0.53 * len(whole.values)
    loss = quality(whole) - quality(pooled)
    assert loss < 0.02
    assert loss < (quality(whole) - quality(pool_tokens(whole, 2, pooling="pylate"))) / 3
