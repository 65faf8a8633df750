"""Answering a request from one state of a folder's index.

Filters say first which chunks count; MaxSim and BM25 each rank those; the rankings are fused and looked at once more
(`ranking.py`); then copies of a chunk and more than a few hits of one file are left out.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from colbertz.errors import UserError, check_integer
from colbertz.folders.messages import Answer, FolderHit, QueryHits, SearchRequest
from colbertz.folders.passages import best_lines, passage
from colbertz.folders.ranking import COLUMN_WEIGHTS, TEXT_WEIGHT, Candidate, fused, reranked
from colbertz.folders.state import State, as_bytes
from colbertz.folders.view import View
from colbertz.folders.words import match_expression, query_words
from colbertz.index import SearchOptions
from colbertz.index.search.search import search_maxsim
from colbertz.models import ColBERT
from colbertz.ragged import Ragged

# Hits of each ranking that are fused, unless k is larger.
_DEPTH = 100
# Tokens of a chunk that `related` searches with: the scores of more than these hardly change the order.
_RELATED_TOKENS = 128


@dataclass(frozen=True)
class _Query:
    """A query as it is searched for: its text, for BM25 and passages, and its embeddings; None without a model."""

    text: str
    shown: str
    embeddings: Tensor | None
    by_words: bool = True
    without: str | None = None


@dataclass(frozen=True)
class _Row:
    """A row of `refs`, with the path of its file."""

    chunk: str
    path: str
    start: int
    end: int
    page: int | None
    heading: str
    kind: str
    body_line: int


def answer(
    state: State, view: View, model: ColBERT | None, request: SearchRequest, pending: int, note: str, *, once: bool
) -> Answer:
    """Answer a request.

    Args:
        state: open for reading.
        view: of the state.
        model: encodes the queries; None while nothing is encoded, and words decide alone.
        request: what to search for.
        pending, note: see `Answer`.
        once: as in `SearchOptions`.

    Raises:
        UserError: for an empty query, a bad regular expression or pattern, or a FILE:LINE that is not in the index.
    """
    check_integer("k", request.k, 1)
    _check_queries(request)
    weight = TEXT_WEIGHT if request.text_weight is None else request.text_weight
    model = model if view.snapshot is not None and weight < 1 else None
    allowed = view.allowed(request)
    if request.regex is not None:
        allowed = view.matching(allowed, request.regex, dict(state.rows("SELECT chunk, text FROM pending")))
    if request.related is not None:
        queries = [_related_query(state, view, request.related)]
    else:
        queries = [_Query(text, text, embeddings) for text, embeddings in _encoded(model, request.queries)]
    results = [_results(state, view, model, query, allowed, request, weight, once) for query in queries]
    return Answer(request.root, tuple(results), view.generation, pending, len(view.paths), len(view.refs), note)


def _check_queries(request: SearchRequest) -> None:
    if not request.queries and request.related is None:
        raise UserError("there is no query")
    for query in request.queries:
        if not query.strip():
            raise UserError(f"the query {query!r} is empty; give it words")
    if request.text_weight is not None and not 0 <= request.text_weight <= 1:
        raise UserError(f"text_weight must be between 0 and 1, got {request.text_weight!r}")


def _encoded(model: ColBERT | None, queries: tuple[str, ...]) -> list[tuple[str, Tensor | None]]:
    if model is None:
        return [(query, None) for query in queries]
    return list(zip(queries, model.encode_query(list(queries), show_progress=False)))


def _results(
    state: State,
    view: View,
    model: ColBERT | None,
    query: _Query,
    allowed: np.ndarray,
    request: SearchRequest,
    weight: float,
    once: bool,
) -> QueryHits:
    """The hits of one query; `weight` is that of BM25."""
    depth = max(_DEPTH, 2 * request.k)
    by_maxsim = _by_maxsim(view, query, allowed, depth, once) if query.embeddings is not None else []
    by_words = _by_words(state, view, query.text, allowed, depth) if query.by_words and weight > 0 else []
    first = dict.fromkeys(ref for ref, _ in (*by_maxsim, *by_words))
    rows = _rows(state, list(first))
    # A chunk that several files have is one candidate: the row that MaxSim found.
    ref_of: dict[str, int] = {}
    for ref in first:
        ref_of.setdefault(rows[ref].chunk, ref)
    merged = [(ref_of[rows[ref].chunk], score) for ref, score in by_words]
    maxsim, bm25 = dict(by_maxsim), dict(reversed(merged))
    found = {ref: Candidate(ref, rows[ref].heading, rows[ref].kind) for ref in ref_of.values()}
    ranking = reranked(fused(by_maxsim, list(dict.fromkeys(merged)), weight), found, query.text)
    ranking = [(ref, score) for ref, score in ranking if rows[ref].chunk != query.without]
    kept, more = _capped([(ref, score, rows[ref].path) for ref, score in ranking], request.k, request.per_file)
    texts = _texts(state, view, [rows[ref].chunk for ref, _ in kept])
    hits = []
    for ref, score in kept:
        row = rows[ref]
        hits.append(_hit(view, model, query, row, texts[row.chunk], score, maxsim.get(ref), bm25.get(ref), request))
    return QueryHits(query.shown, tuple(hits), more)


def _by_maxsim(view: View, query: _Query, allowed: np.ndarray, depth: int, once: bool) -> list[tuple[int, float]]:
    """(ref, MaxSim) of the best allowed chunks that are encoded, each with its first allowed row."""
    assert view.snapshot is not None and query.embeddings is not None
    if not (view.doc_idx[allowed] >= 0).any():
        return []
    queries = Ragged.from_list([query.embeddings])
    [hits] = search_maxsim(view.snapshot, queries, depth, SearchOptions(once=once), within=view.masks(allowed))
    places = view.rows_of([hit.id for hit in hits], allowed)
    return [(places[hit.id], hit.score) for hit in hits]


def _by_words(state: State, view: View, query: str, allowed: np.ndarray, depth: int) -> list[tuple[int, float]]:
    """(ref, BM25) of the best allowed chunks with any of the words."""
    words = query_words(query)
    if not words:
        return []
    weights = ", ".join(map(str, COLUMN_WEIGHTS))
    statement = f"SELECT rowid, -bm25(words, {weights}) AS score FROM words WHERE words MATCH ? ORDER BY score DESC"
    found = np.array(state.rows(statement, (match_expression(words),)), float).reshape(-1, 2)
    places = np.searchsorted(view.refs, found[:, 0])
    # Rows that another process has added since the view was made are not in it.
    known = places < len(view.refs)
    known[known] = view.refs[places[known]] == found[known, 0]
    good = known.copy()
    good[known] = allowed[places[known]]
    return [(int(ref), float(score)) for ref, score in found[good][:depth]]


def _rows(state: State, refs: list[int]) -> dict[int, _Row]:
    marks = ", ".join("?" * len(refs))
    rows = state.rows(
        'SELECT refs.id, chunk, path, "start", "end", page, heading, kind, body_line FROM refs JOIN files'
        f" ON files.id = refs.file WHERE refs.id IN ({marks})",
        refs,
    )
    return {ref: _Row(chunk, path_text(path), *rest) for ref, chunk, path, *rest in rows}


def path_text(path: bytes) -> str:
    """A stored path as text that every output can hold; a name that is not UTF-8 has escapes."""
    return path.decode(errors="backslashreplace")


def _capped(
    ranking: list[tuple[int, float, str]], k: int, per_file: int
) -> tuple[list[tuple[int, float]], dict[str, int]]:
    """The best `k`, with at most `per_file` of one file, and how many more of each file were as good as the last."""
    counts: Counter[str] = Counter()
    kept: list[tuple[int, float]] = []
    for ref, score, path in ranking:
        if len(kept) == k:
            break
        counts[path] += 1
        if not per_file or counts[path] <= per_file:
            kept.append((ref, score))
    return kept, {path: count - per_file for path, count in counts.items() if per_file and count > per_file}


def _texts(state: State, view: View, chunks: list[str]) -> dict[str, str]:
    """The texts of chunks, from the index or from those that are pending."""
    texts = {}
    if view.snapshot is not None:
        known = view.snapshot.find(chunks)
        documents = view.snapshot.documents(list(known.values()))
        texts = {document.id: document.text or "" for document in documents}
    for chunk in chunks:
        if chunk not in texts:
            rows = state.rows("SELECT text FROM pending WHERE chunk = ?", (chunk,))
            texts[chunk] = rows[0][0] if rows else ""
    return texts


def _hit(
    view: View, model: ColBERT | None, query: _Query, row: _Row, text: str, score: float,
    maxsim: float | None, bm25: float | None, request: SearchRequest,
) -> FolderHit:  # fmt: skip
    encoded = model if maxsim is not None else None
    first, last = best_lines(
        encoded, view.index, query.embeddings, query.text, row.chunk, text, row.body_line, max(request.lines, 1)
    )
    body = "\n".join(text.split("\n")[row.body_line :])
    lines = passage(text, row.body_line, row.start, row.end, first, last, query.text)
    return FolderHit(
        row.path, row.start, row.end, lines[0].number if lines else row.start, score, row.heading, row.kind, row.page,
        maxsim, bm25, lines, body if request.content else None,
    )  # fmt: skip


def _related_query(state: State, view: View, place: str) -> _Query:
    """The chunk at FILE:LINE as a query."""
    path, _, line = place.rpartition(":")
    if not path or not line.isdecimal():
        raise UserError(f"related wants FILE:LINE, got {place!r}")
    rows = state.rows(
        'SELECT chunk FROM refs JOIN files ON files.id = refs.file WHERE path = ? AND "start" <= ?'
        ' ORDER BY "end" >= ? DESC, "start" DESC LIMIT 1',
        (as_bytes(path), int(line), int(line)),
    )
    if not rows:
        raise UserError(f"{path} is not among the files of the index, or has no line {line}")
    chunk = rows[0][0]
    text = _texts(state, view, [chunk])[chunk]
    known = view.snapshot.find([chunk]) if view.snapshot is not None else {}
    if not known or view.snapshot is None:
        return _Query(text, place, None, without=chunk)
    embeddings = view.snapshot.decode(np.array([known[chunk]])).values[:_RELATED_TOKENS]
    return _Query(text, place, embeddings, by_words=False, without=chunk)
