"""Embeddings that are not of unit length: scores are MaxSim of the vectors that were given, not of their directions."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from colbertz import Index, Ragged, maxsim


def given(num_documents: int, seed: int) -> Ragged:
    """Five tokens for each document, with norms from 0.2 to 5."""
    generator = torch.Generator().manual_seed(seed)
    values = F.normalize(torch.randn(num_documents * 5, 32, generator=generator), dim=1)
    norms = torch.rand(len(values), 1, generator=generator) * 4.8 + 0.2
    return Ragged.from_lengths(values * norms, [5] * num_documents)


@pytest.mark.parametrize("count", [300, 1500])
def test_scores_are_those_of_what_was_given(count: int, tmp_path: Path) -> None:
    documents, queries = given(count, 0), given(10, 1)
    index = Index.build(tmp_path / "index", documents[: count - 100], nbits=8)
    index.add(documents[count - 100 :])
    truth = maxsim(queries, documents)
    for options in ({"exact": True}, {}):
        shared = 0
        for hits, scores in zip(index.search(queries, 10, **options), truth, strict=True):
            for hit in hits:
                assert hit.score == pytest.approx(float(scores[int(hit.id)]), rel=0.03)
            shared += len({int(hit.id) for hit in hits} & set(scores.topk(10).indices.tolist()))
        assert shared >= 93, options
    index.compact(retrain=True)
    [hits] = index.search(queries[:1], 10)
    assert hits[0].score == pytest.approx(float(truth[0].max()), rel=0.03)


def test_norms_near_one_are_not_kept(tmp_path: Path) -> None:
    """Rounding of unit vectors must not change the bytes of an index."""
    values = F.normalize(torch.randn(1000, 32, generator=torch.Generator().manual_seed(0)), dim=1).half()
    index = Index.build(tmp_path / "index", Ragged.from_lengths(values, [5] * 200))
    snapshot = index.snapshot
    arrays = snapshot.segments[0].arrays
    expected = snapshot.codec.inverse_norms(arrays.codes, arrays.residuals)
    np.testing.assert_allclose(arrays.inverse_norms, expected, rtol=1e-6)
