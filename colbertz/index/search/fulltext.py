"""BM25 over the words of the documents' texts, with statistics of all segments together.

SQLite's FTS5 has a bm25() of its own, but takes the statistics from one table: in a segment of three documents every
word would be common. Here document frequencies, the number of documents and their average length are summed over the
segments first, so that a document's score does not depend on the segment that it is in. The formula is FTS5's:

    score(D) = Σ_w idf(w) · tf · (k1 + 1) / (tf + k1 · (1 − b + b · |D| / average length))
    idf(w) = log((N − df + ½) / (df + ½)), or 1e-6 where that is not positive

Segments that an older colbertz wrote have words of another splitter (see `colbertz.index.store.words`). A query is
split once by each splitter. A word counts in the segments whose splitter gives it; N and the average length are those
of all segments, so that a few new documents beside many old ones have the statistics of a large index.
"""

import math
from collections.abc import Sequence

import numpy as np

from colbertz.errors import UserError
from colbertz.index.store.documents import Documents
from colbertz.index.store.snapshot import Masks
from colbertz.index.store.words import query_words

K1 = 1.2
B = 0.75
# The idf of a word that more than half of the documents have: it adds next to nothing, and is not negative.
LEAST_IDF = 1e-6
# Characters of a query, which are split into words before these can be counted.
MAX_CHARACTERS = 1_000_000
# Different words of a query: each is looked up in every segment, which takes 20 to 40 µs.
MAX_WORDS = 10_000


def search_text(segments: Sequence[Documents], query: str, k: int, allowed: Masks) -> list[tuple[int, int, float]]:
    """The `k` documents with the highest BM25 for the words of a query.

    Any word may match. The query is plain text and is split into words as the documents of each segment were; a word
    that occurs twice in it counts twice. Documents that are not allowed still count in the statistics, and deleted ones
    do until their segment is rewritten; documents without any word do not.

    Args:
        segments: documents that are searched together.
        query: any text.
        k: hits at most; fewer come back if fewer documents have any of the words.
        allowed: which documents may be found.

    Returns:
        (segment_idx, local_idx, score) of each hit, best first; of equal scores the document added first.

    Raises:
        UserError: for a query of more than MAX_CHARACTERS characters or MAX_WORDS different words.
    """
    if len(query) > MAX_CHARACTERS:
        raise UserError(f"{_begin(query)} has {len(query):,} characters and may have {MAX_CHARACTERS:,}; shorten it")
    doclens = [segment.lengths for segment in segments]
    num_texts = sum(int(np.count_nonzero(words)) for words in doclens)
    if not num_texts:
        return []
    average = sum(int(words.sum(dtype=np.int64)) for words in doclens) / num_texts
    scores = [np.zeros(len(words)) for words in doclens]
    words_by = {splitter: query_words(query, splitter) for splitter in sorted({s.splitter for s in segments})}
    different = dict.fromkeys(word for words in words_by.values() for word in words)
    if len(different) > MAX_WORDS:
        raise UserError(
            f"{_begin(query)} has {len(different):,} different words and may have {MAX_WORDS:,}; shorten it"
        )
    for word in different:
        # How often the query has the word, if it is split as the documents of the segment were.
        counts = [words_by[segment.splitter].get(word, 0) for segment in segments]
        postings = [
            np.unique(segment.occurrences(word) if count else np.empty(0, np.int32), return_counts=True)
            for segment, count in zip(segments, counts)
        ]
        idf = _idf(sum(len(local_idx) for local_idx, _ in postings), num_texts)
        for (local_idx, tf), count, words, score in zip(postings, counts, doclens, scores):
            score[local_idx] += count * idf * tf * (K1 + 1) / (tf + K1 * (1 - B + B * words[local_idx] / average))
    return _best(scores, k, allowed)


def _begin(query: str) -> str:
    return f"the query that begins with {query[:40]!r}"


def _idf(df: int, num_texts: int) -> float:
    idf = math.log((num_texts - df + 0.5) / (df + 0.5))
    return idf if idf > 0 else LEAST_IDF


def _best(scores: list[np.ndarray], k: int, allowed: Masks) -> list[tuple[int, int, float]]:
    """The `k` highest scores above 0 of allowed documents, as `search_text` returns them."""
    matches = [np.flatnonzero(s > 0 if mask is None else (s > 0) & mask) for s, mask in zip(scores, allowed)]
    segment_idx = np.repeat(np.arange(len(matches)), [len(local_idx) for local_idx in matches])
    local_idx = np.concatenate(matches)
    values = np.concatenate([s[match] for s, match in zip(scores, matches)])
    # Sort only what can be among the best. A stable sort keeps equal scores in order.
    if len(values) > k:
        candidates = np.flatnonzero(values >= np.partition(values, -k)[-k])
    else:
        candidates = np.arange(len(values))
    best = candidates[np.argsort(-values[candidates], kind="stable")[:k]]
    return list(zip(segment_idx[best].tolist(), local_idx[best].tolist(), values[best].tolist()))
