"""BM25 over the words of the documents' texts, with statistics of all segments together.

FTS5 has a bm25() of its own, but takes the statistics from one table: in a segment of three documents every word would
be common. Here document frequencies, the number of documents and their average length are summed over the segments
first, so that a document's score does not depend on which segment it is in. The formula is FTS5's:

    score(D) = Σ_w idf(w) · tf · (k1 + 1) / (tf + k1 · (1 − b + b · |D| / average length))
    idf(w) = log((N − df + ½) / (df + ½)), or 1e-6 where that is not positive
"""

import math
from collections.abc import Sequence

import numpy as np

from colbertz.index.store.documents import Documents, find_words

K1 = 1.2
B = 0.75
# So that a word in more than half of the documents adds next to nothing, but does not count against them.
LEAST_IDF = 1e-6


def search_text(
    segments: Sequence[Documents], query: str, k: int, allowed: Sequence[np.ndarray | None]
) -> list[tuple[int, int, float]]:
    """The `k` documents with the highest BM25 for the words of a query.

    Any word may match. The query is plain text and is split into words as the documents were; a word that it repeats
    counts that often. Documents that are not allowed still count in the statistics, as do deleted ones until their
    segment is rewritten; documents without any word do not.

    Args:
        segments: documents that are searched together.
        query: any text.
        k: hits at most; fewer come back if fewer documents hold any of the words.
        allowed: for each segment the (num_documents,) bool mask of documents that may be found, or None for all.

    Returns:
        (segment, number, score) of each hit, best first, equal scores by segment and number.
    """
    lengths = [segment.lengths for segment in segments]
    num_texts = sum(int(np.count_nonzero(each)) for each in lengths)
    if not num_texts:
        return []
    average = sum(int(each.sum(dtype=np.int64)) for each in lengths) / num_texts
    scores = [np.zeros(len(each)) for each in lengths]
    # What is no Unicode is no part of a word.
    text = query.encode(errors="replace").decode()
    for word, repeats in find_words([(0, text)]):
        postings = [np.unique(segment.occurrences(word), return_counts=True) for segment in segments]
        weight = len(repeats) * _idf(sum(len(numbers) for numbers, _ in postings), num_texts)
        for (numbers, tf), words, score in zip(postings, lengths, scores):
            score[numbers] += weight * tf * (K1 + 1) / (tf + K1 * (1 - B + B * words[numbers] / average))
    return _best(scores, k, allowed)


def _idf(df: int, num_texts: int) -> float:
    idf = math.log((num_texts - df + 0.5) / (df + 0.5))
    return idf if idf > 0 else LEAST_IDF


def _best(scores: list[np.ndarray], k: int, allowed: Sequence[np.ndarray | None]) -> list[tuple[int, int, float]]:
    found = [np.flatnonzero(s > 0 if mask is None else (s > 0) & mask) for s, mask in zip(scores, allowed)]
    segments = np.repeat(np.arange(len(found)), [len(numbers) for numbers in found])
    numbers = np.concatenate(found)
    values = np.concatenate([s[n] for s, n in zip(scores, found)])
    # Sorting only what can be among the best; a stable sort leaves equal scores as they stand.
    if len(values) > k:
        candidates = np.flatnonzero(values >= np.partition(values, -k)[-k])
    else:
        candidates = np.arange(len(values))
    best = candidates[np.argsort(-values[candidates], kind="stable")[:k]]
    return list(zip(segments[best].tolist(), numbers[best].tolist(), values[best].tolist()))
