"""Searching an index against brute force over the decoded vectors, and what hits, filters and bad queries do."""

import tempfile
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
import torch
from embeddings import unit_texts
from hypothesis import given, settings
from hypothesis import strategies as st

from colbertz import Document, Hit, Index, Ragged, SearchOptions
from colbertz.index import BuildKeywords
from colbertz.index.search.plan import Limits
from colbertz.index.search.search import search_maxsim
from colbertz.index.store.snapshot import open_snapshot
from colbertz.index.write.build import build
from colbertz.kernels import reference

DIM = 16


def brute_force(index: Index, queries: Ragged) -> list[dict[str, float]]:
    """The score of each document that is not deleted for each query, over decoded vectors, in float64."""
    snapshot = open_snapshot(index.path)
    scores: list[dict[str, float]] = [{} for _ in range(len(queries))]
    for segment in snapshot.segments:
        for local_idx in range(len(segment)):
            if segment.live is not None and not segment.live[local_idx]:
                continue
            decoded = segment.decode(snapshot.codec, np.array([local_idx])).values
            for query, of_query in zip(queries, scores):
                score = float(reference.maxsim_pair(query.double(), decoded.double()))
                of_query[segment.documents[local_idx].id] = score
    return scores


def check(hits: list[Hit], scores: dict[str, float], k: int) -> None:
    """The k best, best first, with their scores; which of nearly equal ones come is left to rounding."""
    best = sorted(scores.values(), reverse=True)[:k]
    assert [hit.score for hit in hits] == pytest.approx(best, abs=1e-4)
    assert [scores[hit.id] for hit in hits] == pytest.approx(best, abs=1e-4)
    assert len({hit.id for hit in hits}) == len(hits)


@pytest.fixture
def documents() -> Ragged:
    return unit_texts([3, 1, 12, 7, 30, 5, 2, 9] * 5)


@pytest.fixture
def queries() -> Ragged:
    return unit_texts([4, 1, 8, 40], seed=1)


@given(
    st.sampled_from([(1, 8), (1, 24), (2, 16), (4, 16), (4, 96), (8, 24), (2, 128)]),
    st.lists(st.lists(st.integers(1, 9) | st.just(70), min_size=1, max_size=30), min_size=1, max_size=3),
    st.sampled_from([[1], [40], [1, 33, 5]]),
    st.integers(0, 2**16),
)
@settings(max_examples=20, deadline=None)
def test_search_equals_brute_force_when_it_looks_at_everything(
    codec: tuple[int, int], segments: list[list[int]], query_lengths: list[int], seed: int
) -> None:
    """Several segments, texts of one token, deleted documents; every cell is probed, every candidate scored."""
    nbits, dim = codec
    with tempfile.TemporaryDirectory() as folder:
        index = Index.build(Path(folder) / "index", unit_texts(segments[0], dim, seed), nbits=nbits)
        for segment_idx, lengths in enumerate(segments[1:], start=1):
            index.add(unit_texts(lengths, dim, seed + segment_idx))
        total = sum(map(len, segments))
        index.delete([str(doc_idx) for doc_idx in range(total) if doc_idx % 5 == seed % 5][: total - 1])
        queries = unit_texts(query_lengths, dim, seed + 9)
        expected = brute_force(index, queries)
        cells = len(open_snapshot(index.path).codec.centroids)
        for k in (1, 3, total + 1):
            for exact in (False, True):
                everything = SearchOptions(n_ivf_probe=cells, n_full_scores=4 * total)
                rankings = index.search(queries, k, SearchOptions(exact=True) if exact else everything)
                for hits, scores in zip(rankings, expected, strict=True):
                    check(hits, scores, k)


@pytest.mark.parametrize("block_tokens", [1, 20, 131_072])
@pytest.mark.parametrize("options", [SearchOptions(exact=True), SearchOptions(once=True)])
def test_exact_search_in_blocks(
    documents: Ragged, queries: Ragged, options: SearchOptions, block_tokens: int, tmp_path: Path
) -> None:
    limits = Limits(block_tokens=block_tokens, query_tokens=5)
    index = Index.build(tmp_path / "index", documents)
    for k in (1, 7, len(documents)):
        rankings = search_maxsim(index.snapshot, queries, k, options, limits=limits)
        for hits, scores in zip(rankings, brute_force(index, queries), strict=True):
            check(hits, scores, k)


def test_a_query_that_is_too_long_for_the_tables(documents: Ragged, tmp_path: Path) -> None:
    index = Index.build(tmp_path / "index", documents)
    queries = unit_texts([1100, 2], seed=2)
    for hits, scores in zip(index.search(queries, k=5), brute_force(index, queries), strict=True):
        check(hits, scores, 5)


def test_the_default_effort_finds_nearly_all_of_the_best(tmp_path: Path) -> None:
    """On texts of related tokens, the defaults find what brute force finds, nearly always."""
    generator = torch.Generator().manual_seed(0)
    topics = torch.nn.functional.normalize(torch.randn(200, 32, generator=generator), dim=1)

    def texts(lengths: list[int]) -> Ragged:
        of = torch.repeat_interleave(torch.randint(200, (len(lengths),), generator=generator), torch.tensor(lengths))
        values = topics[of] + 0.15 * torch.randn(sum(lengths), 32, generator=generator)
        return Ragged.from_lengths(torch.nn.functional.normalize(values, dim=1), lengths)

    index = Index.build(tmp_path / "index", texts([20] * 3000))
    queries = texts([8] * 40)
    rankings, best = index.search(queries, k=10), index.search(queries, k=10, exact=True)
    shared = [len({h.id for h in hits} & {h.id for h in others}) for hits, others in zip(rankings, best, strict=True)]
    assert np.mean(shared) > 9.5
    for hits, others in zip(rankings, best, strict=True):
        scores = {hit.id: hit.score for hit in others}
        for hit in hits:
            assert hit.score == pytest.approx(scores.get(hit.id, hit.score), abs=1e-4)


def test_equal_scores_come_in_order_of_insertion(tmp_path: Path) -> None:
    same = unit_texts([3])
    index = Index.build(tmp_path / "index", Ragged.cat([same] * 50), ids=[f"d{i}" for i in range(50)])
    index.add(Ragged.cat([same] * 10), ids=[f"e{i}" for i in range(10)])
    index.delete(["d4"])
    expected = [f"d{i}" for i in range(50) if i != 4] + [f"e{i}" for i in range(10)]
    for k in (12, 55):
        for exact in (False, True):
            options = SearchOptions(exact=exact)
            [hits] = search_maxsim(index.snapshot, same, k, options, limits=Limits(block_tokens=8))
            assert [hit.id for hit in hits] == expected[:k]


def test_hits_carry_ids_texts_and_metadata(tmp_path: Path) -> None:
    documents = unit_texts([3, 4])
    metadata = [{"path": "a.py", "line": 3}, {"tags": ["é", None, 1.5], "nested": {"x": True}}]
    index = Index.build(
        tmp_path / "index",
        documents,
        nbits=8,
        ids=["first", "日本"],
        texts=["one", "two 🙂"],
        metadata=metadata,
        model="./m",
    )
    hits = index.search(documents[1:2], k=2)[0]
    assert hits[0] == Hit("日本", hits[0].score, "two 🙂", metadata[1])
    assert hits[1] == Hit("first", hits[1].score, "one", metadata[0])
    assert (len(index), index.embedding_dim, index.num_tokens, index.model) == (2, DIM, 7, "./m")


# -- filters, words, both ------------------------------------------------------------------------------------------


@pytest.fixture
def described(documents: Ragged, tmp_path: Path) -> Index:
    """Two segments; metadata with the document's number, texts with its parity."""
    index = Index.build(
        tmp_path / "index",
        documents[:25],
        texts=["even" if n % 2 == 0 else "odd odd" for n in range(25)],
        metadata=[{"n": n} for n in range(25)],
    )
    index.add(
        documents[25:],
        texts=["even" if n % 2 == 0 else "odd odd" for n in range(25, 40)],
        metadata=[{"n": n} for n in range(25, 40)],
    )
    index.delete(["5", "30"])
    return index


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"where": "n < ?", "parameters": [37]}, lambda n: n < 37),
        ({"where": "n IN (3, 30, 33)"}, lambda n: n in (3, 33)),
        ({"where": "text = 'even' AND n > 20"}, lambda n: n % 2 == 0 and n > 20),
        ({"subset": ["7", "39", "7"]}, lambda n: n in (7, 39)),
        ({"subset": [str(n) for n in range(40) if n not in (5, 30)]}, lambda n: True),
        ({"subset": ["7", "8", "39"], "where": "n > 7"}, lambda n: n in (8, 39)),
        ({"where": "n = 5"}, lambda n: False),
        ({"subset": []}, lambda n: False),
    ],
)
def test_filters(options: dict, kept: object, exact: bool, described: Index, queries: Ragged) -> None:
    expected = brute_force(described, queries)
    for k in (1, 100):
        for hits, scores in zip(described.search(queries, k, exact=exact, **options), expected, strict=True):
            check(hits, {id: score for id, score in scores.items() if kept(int(id))}, k)  # type: ignore[operator]


def test_filters_that_are_wrong(described: Index, queries: Ragged) -> None:
    with pytest.raises(KeyError, match="no document '5'"):
        described.search(queries, subset=["5"])
    with pytest.raises(ValueError, match="nonsense"):
        described.search(queries, where="nonsense = 1")
    with pytest.raises(ValueError, match="1 parameters and no where"):
        described.search(queries, parameters=[1])
    with pytest.raises(TypeError, match="got the string '7'"):
        described.search(queries, subset="7")


def test_words(described: Index) -> None:
    hits, none = described.search_text(["ODD", "missing"], k=100)
    assert [int(hit.id) for hit in hits] == [n for n in range(1, 40, 2) if n != 5]
    assert none == []
    filtered = described.search_text(["odd"], k=100, where="n < 10", subset=["1", "2", "11"])[0]
    assert [hit.id for hit in filtered] == ["1"]
    assert filtered[0].score == hits[0].score, "a filter changes no score"


def test_hybrid(described: Index, queries: Ragged) -> None:
    query = queries[:1]
    by_vectors = [hit.id for hit in described.search(query, k=100)[0]]
    assert [hit.id for hit in described.search_hybrid(query, ["odd"], k=38, text_weight=0)[0]] == by_vectors
    for fusion in ("reciprocal_rank", "weighted"):
        hits = described.search_hybrid(query, ["odd"], k=5, text_weight=1, fusion=fusion, where="n > 3")[0]
        assert len(hits) == 5
        assert all(hit.metadata["n"] in range(7, 40, 2) for hit in hits)
        assert all(hit.metadata == {"n": int(hit.id)} for hit in hits)
    with pytest.raises(ValueError, match="text_weight must be between 0 and 1, got 2"):
        described.search_hybrid(query, ["odd"], text_weight=2)
    with pytest.raises(ValueError, match="2 texts for 1 queries"):
        described.search_hybrid(query, ["odd", "even"])
    with pytest.raises(ValueError, match="fusion must be one of"):
        described.search_hybrid(query, ["odd"], fusion="sum")  # type: ignore[arg-type]


def test_a_subset_for_each_query(described: Index, queries: Ragged) -> None:
    subsets = [["7", "39"], None, ["7", "39"], []]
    texts = ["odd", "even", "odd even", "odd"]
    for exact in (False, True):
        options = SearchOptions(subset=subsets, exact=exact, where="n != 7")
        together = described.search(queries, 100, options)
        hybrid = described.search_hybrid(queries, texts, 100, options)
        by_words = described.search_text(texts, 100, options)
        assert [len(hits) for hits in together] == [1, 37, 1, 0]
        for query_idx, subset in enumerate(subsets):
            alone = slice(query_idx, query_idx + 1)
            assert described.search(queries[alone], 100, options, subset=subset) == together[alone]
            assert described.search_text(texts[alone], 100, options, subset=subset) == by_words[alone]
            assert described.search_hybrid(queries[alone], texts[alone], 100, options, subset=subset) == hybrid[alone]


def test_subsets_that_are_wrong(described: Index, queries: Ragged) -> None:
    with pytest.raises(ValueError, match="there are 2 subsets for 4 queries; give one for each"):
        described.search(queries, subset=[["1"], None])
    with pytest.raises(KeyError, match="no document '5'"):
        described.search(queries, subset=[["1"], None, ["5"], []])
    with pytest.raises(KeyError, match="no document 'nobody'"):
        described.search_text(["odd"], subset=["nobody"])


def test_keywords_replace_fields_of_the_options(described: Index, queries: Ragged) -> None:
    options = SearchOptions(where="n < 10", exact=True)
    assert described.search(queries, 5, options) == described.search(queries, 5, where="n < 10", exact=True)
    [hits] = described.search(queries[:1], 100, options, where="n > ?", parameters=[36])
    assert sorted(hit.id for hit in hits) == ["37", "38", "39"]
    assert described.search(queries, 5, options, where=None) == described.search(queries, 5, exact=True)
    with pytest.raises(TypeError, match="unexpected keyword argument 'probes'"):
        described.search(queries, 5, options, probes=3)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="call search_hybrid"):
        described.search(queries, 5, hybrid=True)


# -- what it holds -------------------------------------------------------------------------------------------------


def test_an_index_answers_what_it_holds(described: Index) -> None:
    ids = [str(n) for n in range(40) if n not in (5, 30)]
    assert len(described) == described.count() == 38
    assert "7" in described and "39" in described
    assert "5" not in described and "40" not in described and 7 not in described
    assert described.ids() == ids
    assert [document.id for document in described] == ids
    assert described.ids("text = 'even' AND n > ?", [30]) == ["32", "34", "36", "38"]
    assert described.ids(where="n < 0") == [] and described.count("n < 0") == 0
    assert described.count("n BETWEEN :low AND :high", {"low": 4, "high": 6}) == 2
    with pytest.raises(ValueError, match="nonsense"):
        described.count("nonsense = 1")
    with pytest.raises(ValueError, match="1 parameters and no where"):
        described.ids(parameters=[1])


def test_build_keywords_are_the_parameters_of_build() -> None:
    hints = get_type_hints(build)
    keywords = get_type_hints(BuildKeywords)
    assert keywords == {name: hints[name] for name in keywords}
    assert set(hints) - set(keywords) == {"root", "batches", "max_sample", "applied", "return"}


def test_documents_come_back_one_or_many(described: Index) -> None:
    assert described.get("26") == Document("26", "even", {"n": 26})
    many = described.get(["39", "0", "26", "0"])
    assert many == [described.get("39"), described.get("0"), described.get("26"), described.get("0")]
    assert described.get([]) == []
    with pytest.raises(KeyError, match="no document '5', 'nobody'"):
        described.get(["1", "5", "nobody"])


def test_token_scores_explain_the_score(described: Index, queries: Ragged) -> None:
    hit = described.search(queries[:1], k=1)[0][0]
    scores = described.token_scores(queries[0], hit.id)
    assert scores.shape == (4, [3, 1, 12, 7, 30, 5, 2, 9][int(hit.id) % 8])
    assert float(scores.max(1).values.sum()) == pytest.approx(hit.score, abs=1e-4)
    with pytest.raises(KeyError, match="no document '5'"):
        described.token_scores(queries[0], "5")


# -- queries that are wrong ----------------------------------------------------------------------------------------


def test_no_queries_no_answers(documents: Ragged, tmp_path: Path) -> None:
    index = Index.build(tmp_path / "index", documents)
    for exact in (False, True):
        assert index.search(Ragged.from_lengths(torch.zeros(0, DIM), []), exact=exact) == []


@pytest.mark.parametrize(
    ("queries", "options", "message"),
    [
        (unit_texts([3], dim=8), {}, r"shape \(3, 8\) do not fit an index of dimension 16"),
        (unit_texts([3, 0]), {}, "query 1 has no tokens"),
        (unit_texts([3]).map(lambda v: v * float("nan")), {}, "NaN or infinite"),
        (unit_texts([3]), {"k": 0}, "k must be an integer of at least 1, got 0"),
        (unit_texts([3]), {"k": 2.0}, "k must be an integer of at least 1, got 2.0"),
        (unit_texts([3]), {"n_ivf_probe": 0}, "n_ivf_probe must be an integer of at least 1, got 0"),
        (unit_texts([3]), {"n_full_scores": 0.5}, "n_full_scores must be an integer of at least 1, got 0.5"),
    ],
)
def test_bad_queries(queries: Ragged, options: dict, message: str, documents: Ragged, tmp_path: Path) -> None:
    index = Index.build(tmp_path / "index", documents)
    with pytest.raises(ValueError, match=message):
        index.search(queries, **options)


def test_queries_must_be_ragged(documents: Ragged, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="queries must be a Ragged of embeddings, got list"):
        Index.build(tmp_path / "index", documents).search(["a text"])  # type: ignore[arg-type]


@pytest.mark.gpu
def test_embeddings_and_queries_may_be_on_another_device(documents: Ragged, queries: Ragged, tmp_path: Path) -> None:
    index = Index.build(tmp_path / "index", documents.to("cuda"))
    for hits, others in zip(index.search(queries.to("cuda")), index.search(queries), strict=True):
        assert hits == others
