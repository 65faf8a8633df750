"""The words by which full-text search finds documents, and the splitters that make them.

A segment's file says which splitter made its words (`user_version` of SQLite), because a query must be split in the
same way:

    0  UNICODE61   FTS5's unicode61: runs of letters and digits, without case and diacritics. Text without blanks, such
                   as Chinese, is one long word, and vowel signs, as in Hindi, end a word.
    1  BIGRAMS     the same with marks as parts of words, after `colbertz.text.segmentation` has separated the words of
                   scripts without blanks. New segments have this. It differs from 0 in no word of ASCII.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing

import numpy as np

from colbertz.text.segmentation import is_one_character, separate_bigrams

UNICODE61 = 0
BIGRAMS = 1

# No stemming: embeddings match inflected forms already. What words add in hybrid search is the exact name, code or
# identifier, in any language, and FTS5's stemmer (Porter's) is for English only.
_TOKENIZERS = {
    UNICODE61: "unicode61 remove_diacritics 2",
    BIGRAMS: "unicode61 remove_diacritics 2 categories 'L* N* Co M*'",
}


def find_words(
    texts: Iterable[tuple[int, str]], splitter: int = BIGRAMS, *, separated: bool = False
) -> Iterator[tuple[bytes, np.ndarray]]:
    """Split numbered texts into words, without case and diacritics.

    Args:
        texts: their numbers and the texts.
        splitter: UNICODE61 or BIGRAMS.
        separated: whether `separate` has prepared the texts already.

    Yields:
        Each different word, and the numbers of the texts in which it occurs, ascending, once for each occurrence.
        Words are bytes, because FTS5 cuts them after 32 KiB, even in the middle of a character.
    """
    if not separated:
        texts = ((number, separate(text, splitter)) for number, text in texts)
    with closing(sqlite3.connect(":memory:")) as scratch:
        scratch.execute("PRAGMA temp_store = MEMORY")
        tokenizer = _TOKENIZERS[splitter]
        scratch.execute(f"CREATE VIRTUAL TABLE texts USING fts5(text, content = '', tokenize = \"{tokenizer}\")")
        scratch.execute("CREATE VIRTUAL TABLE words USING fts5vocab(texts, instance)")
        scratch.executemany("INSERT INTO texts (rowid, text) VALUES (?, ?)", texts)
        # Each word is one row, with its occurrences as a string: a row for each occurrence would take most of the time.
        for word, numbers in scratch.execute("SELECT CAST(term AS BLOB), group_concat(doc) FROM words GROUP BY term"):
            yield word, np.sort(np.fromstring(numbers, dtype="<i4", sep=","))


def separate(text: str, splitter: int, *, query: bool = False) -> str:
    """The text as FTS5 is to read it; `query` as for `separate_bigrams`."""
    return separate_bigrams(text, query=query) if splitter == BIGRAMS else text


def query_words(query: str, splitter: int) -> dict[bytes, int]:
    """The different words of a query, and how often each occurs in it."""
    # A lone surrogate is not valid Unicode, and SQLite would refuse it; no word can contain one.
    text = separate(query.encode(errors="replace").decode(), splitter, query=True)
    return {word: len(numbers) for word, numbers in find_words([(0, text)], splitter, separated=True)}


def is_prefix(word: bytes, splitter: int) -> bool:
    """Whether a word of a query stands for all words that begin with it: a single character of a bigram."""
    return splitter == BIGRAMS and is_one_character(word.decode(errors="replace"))
