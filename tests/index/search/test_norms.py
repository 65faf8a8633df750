"""Embeddings that are not of unit length: scores are MaxSim of the vectors that were given, not of their directions."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from colbertz import Index, Ragged, maxsim
from colbertz.index.search.plan import norms_matter
from colbertz.index.write.segment_writer import SegmentWriter


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


@pytest.mark.parametrize("of_a_whole_document", [False, True])
@pytest.mark.parametrize("sigma", [0.2, 0.6, 1.2])
def test_recall_where_norms_differ(sigma: float, of_a_whole_document: bool, tmp_path: Path) -> None:
    """In a narrow cone the scores of documents differ by a few percent, so that norms decide."""
    generator = torch.Generator().manual_seed(0)
    cone = F.normalize(torch.randn(32, generator=generator), dim=0)
    words = F.normalize(cone + 0.05 * torch.randn(400, 32, generator=generator), dim=1)
    count, length = 3000, 6
    values = words[torch.randint(400, (count * length,), generator=generator)]
    values = F.normalize(values + 0.005 * torch.randn(values.shape, generator=generator), dim=1)
    norms = torch.exp(sigma * torch.randn(count if of_a_whole_document else len(values), generator=generator))
    norms = norms.repeat_interleave(len(values) // len(norms))
    index = Index.build(tmp_path / "index", Ragged.from_lengths(values * norms[:, None], [length] * count), nbits=4)
    assert norms_matter(index.snapshot)
    queries = Ragged.from_list([words[torch.randint(400, (4,), generator=generator)] for _ in range(20)])
    best = [{hit.id for hit in hits} for hits in index.search(queries, 10, exact=True)]
    for effort in ({}, {"n_ivf_probe": 1, "n_full_scores": 1}):
        found = [{hit.id for hit in hits} for hits in index.search(queries, 10, **effort)]
        assert np.mean([len(ids & others) / 10 for ids, others in zip(found, best, strict=True)]) >= 0.98


def test_which_norms_matter(tmp_path: Path) -> None:
    """Those of one document in one segment are enough, also after changes; lengths of a few percent of 1 are not."""
    generator = torch.Generator().manual_seed(0)
    values = F.normalize(torch.randn(2000, 32, generator=generator), dim=1)
    slightly = values * (1 + 0.02 * torch.rand(2000, 1, generator=generator))
    index = Index.build(tmp_path / "index", Ragged.from_lengths(slightly, [5] * 400), nbits=4)
    expected = slightly.norm(dim=1).log().square().view(400, 5).mean(1).sqrt().max()
    assert index.manifest.segments[0].norm_deviation == pytest.approx(float(expected), rel=0.01)
    assert not norms_matter(index.snapshot)
    index.add(Ragged.from_list([values[:5], 5 * values[5:10]]), ids=["unit", "long"])
    assert norms_matter(index.snapshot)
    index.delete(["long"])
    index.compact()
    assert not norms_matter(index.snapshot)


def test_norms_of_chunks_that_an_interrupted_build_has_coded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = F.normalize(torch.randn(2000, 32, generator=torch.Generator().manual_seed(0)), dim=1)
    values[:5] *= 5
    documents = [Ragged.from_lengths(part, [5] * 100) for part in values.split(500)]
    Index.build(tmp_path / "whole", documents, chunk_tokens=500)
    sync, calls = SegmentWriter.sync, []

    def interrupted_later(writer: SegmentWriter) -> None:
        calls.append(writer)
        if len(calls) == 3:
            raise KeyboardInterrupt
        sync(writer)

    monkeypatch.setattr(SegmentWriter, "sync", interrupted_later)
    with pytest.raises(KeyboardInterrupt):
        Index.build(tmp_path / "index", documents, chunk_tokens=500)
    Index.build(tmp_path / "index", documents, chunk_tokens=500)
    assert len(calls) == 5, "two of four chunks were kept"
    found, expected = (Index.open(tmp_path / name).manifest.segments for name in ("index", "whole"))
    assert found == expected
    assert found[0].norm_deviation > 1
