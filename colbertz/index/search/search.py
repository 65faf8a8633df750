"""The three searches of one snapshot: by MaxSim, by the words of the texts, and by both."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from colbertz.errors import UserError
from colbertz.index.search import fulltext, fusion
from colbertz.index.search.allowed import Group, groups_of
from colbertz.index.search.brute_force import exact_search
from colbertz.index.search.checks import check_texts, checked_queries
from colbertz.index.search.hits import NO_DOCUMENTS, Hit, Ranking, hits_of
from colbertz.index.search.options import SearchOptions, check_count
from colbertz.index.search.placement import Placed
from colbertz.index.search.plan import DEFAULT_LIMITS, Effort, Limits, effort_for
from colbertz.index.store.snapshot import Masks, Snapshot
from colbertz.ragged import Ragged

_FUSIONS = {"reciprocal_rank": fusion.reciprocal_rank, "weighted": fusion.weighted}
# Hits of each ranking that a hybrid search fuses, unless k is larger or the options say another number.
_FUSION_DEPTH = 100


def search_maxsim(
    snapshot: Snapshot,
    queries: Ragged,
    k: int,
    options: SearchOptions,
    placed: Placed | None = None,
    limits: Limits = DEFAULT_LIMITS,
    within: Masks | None = None,
) -> list[list[Hit]]:
    """The `k` documents with the highest MaxSim for each query; see `Index.search`.

    Args:
        snapshot: what to search.
        queries: (num_tokens, E) embeddings.
        k: hits for each query.
        options: how far to look, and which documents may be found; its `device` is not read.
        placed: the snapshot on GPUs, to search there; None for the CPU.
        limits: see `Limits`.
        within: see `groups_of`.
    """
    check_count("k", k)
    queries = _on_device(snapshot, queries, placed)
    groups = groups_of(snapshot, options, len(queries), within)
    rankings = _rank_by_maxsim(snapshot, queries, k, options, groups, placed, limits)
    return [hits_of(snapshot, ranking) for ranking in rankings]


def search_words(snapshot: Snapshot, texts: Sequence[str], k: int, options: SearchOptions) -> list[list[Hit]]:
    """The `k` documents whose texts have the highest BM25 for each query; see `Index.search_text`."""
    check_count("k", k)
    check_texts(texts)
    rankings = _rank_by_words(snapshot, texts, k, groups_of(snapshot, options, len(texts)))
    return [hits_of(snapshot, ranking) for ranking in rankings]


def search_both(
    snapshot: Snapshot,
    queries: Ragged,
    texts: Sequence[str],
    k: int,
    options: SearchOptions,
    placed: Placed | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> list[list[Hit]]:
    """The `k` best documents by MaxSim and BM25 together; see `Index.search_hybrid`.

    Args:
        snapshot: what to search.
        queries: (num_tokens, E) embeddings.
        texts: the same queries as text.
        k: hits for each query.
        options: how to search and to fuse, and which documents may be found; its `device` is not read.
        placed: the snapshot on GPUs, to search there; None for the CPU.
        limits: see `Limits`.
    """
    check_texts(texts)
    check_count("k", k)
    depth = max(k, options.fusion_depth or _FUSION_DEPTH)
    queries = _on_device(snapshot, queries, placed)
    if len(texts) != len(queries):
        raise UserError(f"there are {len(texts)} texts for {len(queries)} queries; give one for each")
    groups = groups_of(snapshot, options, len(queries))
    by_maxsim = _rank_by_maxsim(snapshot, queries, depth, options, groups, placed, limits)
    by_words = _rank_by_words(snapshot, texts, depth, groups)
    hits = []
    for rankings in zip(by_maxsim, by_words):
        scored = [list(zip(ranking.doc_idx.tolist(), ranking.scores.tolist())) for ranking in rankings]
        fused = _FUSIONS[options.fusion](scored, [1 - options.text_weight, options.text_weight])[:k]
        doc_idx = np.array([idx for idx, _ in fused], np.int64)
        fused_hits = hits_of(snapshot, Ranking(doc_idx, np.array([score for _, score in fused])))
        scores_by_part = {name: dict(ranking) for name, ranking in zip(("maxsim", "bm25"), scored)}
        hits.append(
            [
                replace(hit, parts={name: scores[idx] for name, scores in scores_by_part.items() if idx in scores})
                for hit, (idx, _) in zip(fused_hits, fused)
            ]
        )
    return hits


def _on_device(snapshot: Snapshot, queries: Ragged, placed: Placed | None) -> Ragged:
    return checked_queries(queries, snapshot.codec.embedding_dim, placed.devices[0] if placed else "cpu")


def _rank_by_maxsim(
    snapshot: Snapshot,
    queries: Ragged,
    k: int,
    options: SearchOptions,
    groups: Sequence[Group],
    placed: Placed | None,
    limits: Limits,
) -> list[Ranking]:
    snapshot.require_untouched()
    num_cells, lengths = len(snapshot.codec.centroids), queries.lengths.tolist()
    in_torch = placed is None and not options.exact and _brute_force_is_faster(snapshot, options, limits)
    rankings = [NO_DOCUMENTS] * len(queries)
    for positions, allowed in groups:
        # Brute force reads all documents for each batch, so it gets one batch, without an effort.
        by_effort: dict[Effort | None, list[int]] = {}
        for position in positions:
            brute_force = options.exact or in_torch
            effort = None if brute_force else effort_for(k, options, num_cells, lengths[position])
            by_effort.setdefault(effort, []).append(position)
        for effort, same in by_effort.items():
            batch = queries if len(same) == len(queries) else queries[same]
            if placed is not None:
                from colbertz.index.search import gpu  # imports Triton

                ranked = gpu.search(placed, batch, k, effort, allowed, limits)
            elif effort is None:
                ranked = exact_search(snapshot, batch, k, allowed, limits, "torch" if in_torch else None)
            else:
                from colbertz.index.search import cascade  # loads numba

                ranked = cascade.search(snapshot, batch, k, effort, allowed, limits)
            for position, ranking in zip(same, ranked):
                rankings[position] = ranking
    return rankings


def _brute_force_is_faster(snapshot: Snapshot, options: SearchOptions, limits: Limits) -> bool:
    """Whether a process that searches once finishes earlier by brute force than with compiled kernels."""
    default_effort = options.n_ivf_probe is None and options.n_full_scores is None
    return options.once and default_effort and snapshot.manifest.num_tokens <= limits.once_tokens


def _rank_by_words(snapshot: Snapshot, texts: Sequence[str], k: int, groups: Sequence[Group]) -> list[Ranking]:
    segments = [segment.documents for segment in snapshot.segments]
    rankings = [NO_DOCUMENTS] * len(texts)
    for positions, allowed in groups:
        for position in positions:
            scored = fulltext.search_text(segments, texts[position], k, allowed)
            doc_idx = np.array([snapshot.first_doc_idx[segment] + idx for segment, idx, _ in scored], np.int64)
            rankings[position] = Ranking(doc_idx, np.array([score for _, _, score in scored]))
    return rankings
