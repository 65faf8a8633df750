"""Recall of a search against brute force over the decoded vectors, for texts of one token to hundreds, and effort.

More effort must not lose a hit: not on average, but query by query. Its hits have at least the scores, rank by rank, of
those with less effort, because it scores a superset of the documents exactly.
"""

import itertools
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from colbertz import Hit, Index, Ragged
from colbertz.index import SearchOptions
from colbertz.index.search.plan import Limits
from colbertz.index.search.refine import Scored, refine
from colbertz.index.search.search import search_maxsim

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


def assert_no_hit_lost(less: list[list[Hit]], more: list[list[Hit]]) -> None:
    for hits, others in zip(less, more, strict=True):
        assert len(hits) == len(others)
        assert all(hit.score <= other.score for hit, other in zip(hits, others))


@pytest.mark.parametrize(("count", "num_tokens", "dim", "nbits", "cone"), COLLECTIONS)
def test_recall(count: int, num_tokens: int, dim: int, nbits: int, cone: float, tmp_path: Path) -> None:
    index = Index.build(tmp_path / "index", texts(count, num_tokens, dim, cone, 0), nbits=nbits)
    queries = texts(25, 8, dim, cone, 3)
    exact = index.search(queries, K, exact=True)
    default = index.search(queries, K)
    assert overlap(default, exact) >= 0.98
    assert_no_hit_lost(index.search(queries, K, n_ivf_probe=1, n_full_scores=1), default)
    for n_ivf_probe, n_full_scores in ((8, 4096), (16, 2048), (index.num_cells, count - 1)):
        more = index.search(queries, K, n_ivf_probe=n_ivf_probe, n_full_scores=n_full_scores)
        assert_no_hit_lost(default, more)
    assert index.search(queries, K, n_ivf_probe=index.num_cells + 1, n_full_scores=count) == exact


@settings(max_examples=6)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([48, 64, 128]),
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from([1, 3, 20]),
    st.sampled_from([0.0, 0.9]),
    st.sampled_from([None, "year < 350", "year < 100"]),
)
def test_more_effort_loses_no_hit(
    seed: int, dim: int, nbits: int, most_tokens: int, cone: float, where: str | None
) -> None:
    generator = torch.Generator().manual_seed(seed)
    count, k = 400, 5
    lengths = torch.randint(1, most_tokens + 1, (count,), generator=generator)
    values = texts(count, most_tokens, dim, cone, seed).values[: int(lengths.sum())]
    limits = Limits(
        all_exact=10, base=20, budget_tokens=1
    )  # a search of so few documents still goes through all stages
    queries = texts(4, 5, dim, cone, seed + 1)
    with TemporaryDirectory() as folder:
        documents = Ragged.from_lengths(values, lengths)
        index = Index.build(
            Path(folder) / "index", documents, nbits=nbits, metadata=({"year": i} for i in range(count))
        )
        efforts = list(itertools.product((1, 12, 33, 10**9), (1, 60, 399, 400)))
        found = {
            (p, n): search_maxsim(
                index.snapshot, queries, k, SearchOptions(n_ivf_probe=p, n_full_scores=n, where=where), limits=limits
            )
            for p, n in efforts
        }
        exact = index.search(queries, k, exact=True, where=where)
    for less, more in itertools.permutations(efforts[:-1], 2):
        if less[0] <= more[0] and less[1] <= more[1] and more[1] < 400:
            assert_no_hit_lost(found[less], found[more])
    assert found[10**9, 400] == exact


def of_everything(doc_idx: np.ndarray, scores: np.ndarray) -> Scored:
    return Scored(doc_idx, scores.astype(np.float32), np.ones(len(doc_idx), bool))


def test_refining_scores_nearly_everything_where_approximate_scores_say_nothing() -> None:
    rng = np.random.default_rng(0)
    scores = rng.standard_normal(1000).astype(np.float32)
    candidates = of_everything(np.arange(1000), rng.standard_normal(1000))
    refined = refine(candidates, 10, lambda doc_idx: scores[doc_idx], 50, 0.05)
    assert len(refined.doc_idx) >= 990 and (refined.scores == scores[refined.doc_idx]).all()
    close = of_everything(np.arange(1000), scores + rng.normal(0, 1e-3, 1000))
    refined = refine(close, 10, lambda doc_idx: scores[doc_idx], 50, 0.05)
    assert len(refined.doc_idx) == 50 and set(np.argsort(-scores)[:10]) <= set(refined.doc_idx)


@pytest.mark.parametrize("noise", [0.01, 0.3, 2.0])
def test_refining_misses_about_as_many_as_it_may(noise: float) -> None:
    """Over many draws, with errors that are normally distributed: fewer than 0.5 % of the best ten."""
    missed = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        before = rng.standard_normal(2000)
        scores = (before + rng.normal(0, noise, 2000)).astype(np.float32)
        refined = refine(of_everything(np.arange(2000), before), 10, scores.__getitem__, 50, 0.05)
        missed += len(set(np.argsort(-scores)[:10]) - set(refined.doc_idx))
    assert missed <= 0.005 * 10 * 100


@pytest.mark.parametrize("seed", range(5))
def test_refining_more_candidates_scores_a_superset(seed: int) -> None:
    """Whatever the candidates outside the base, and whatever their scores."""
    rng = np.random.default_rng(seed)
    before, error = rng.standard_normal(2000), rng.normal(0, 0.4, 2000)
    better = (before + error).astype(np.float32)
    base = rng.permutation(2000)[:300]
    scored: set[int] = set()
    for count in (0, 200, 700, 1700):
        doc_idx = np.sort(np.concatenate([base, np.setdiff1d(np.arange(2000), base)[:count]]))
        candidates = Scored(doc_idx, before[doc_idx].astype(np.float32), np.isin(doc_idx, base))
        once = refine(candidates, 10, lambda doc_idx: better[doc_idx], 50, 0.05)
        twice = refine(once, 10, lambda doc_idx: better[doc_idx] + np.float32(0.01), 15, 0.05)
        assert scored <= set(twice.doc_idx.tolist())
        scored = set(twice.doc_idx.tolist())


def test_short_queries_probe_more_cells_whatever_else_is_in_the_batch(tmp_path: Path) -> None:
    index = Index.build(tmp_path / "index", texts(400, 20, 48, 0.0, 0), nbits=4)
    limits = Limits(all_exact=10, base=20, budget_tokens=1)
    queries = Ragged.cat([texts(6, length, 48, 0.0, length) for length in (8, 9)])

    def found(queries: Ragged, n_ivf_probe: int | None) -> list[list[Hit]]:
        options = SearchOptions(n_ivf_probe=n_ivf_probe, n_full_scores=20)
        return search_maxsim(index.snapshot, queries, 5, options, limits=limits)

    batch = found(queries, None)
    assert batch == [found(queries[i : i + 1], None)[0] for i in range(12)]
    assert batch == found(queries[:6], 32) + found(queries[6:], 16)
    assert found(queries, 32) != found(queries, 16)  # so that the line above can tell them apart
