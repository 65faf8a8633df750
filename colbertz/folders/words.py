"""The words by which BM25 finds chunks: those of identifiers too, and of a path and a heading.

An identifier gives itself and its parts without their endings, so that `parse dates` finds `parseDate` and
`parsed_date`.
"""

import re
from collections.abc import Iterable

from colbertz.text.stopwords import QUESTION_WORDS
from colbertz.text.words import split_identifiers

# Different words of a query: a pasted page would ask for thousands.
_MOST_WORDS = 64
_SUFFIX = re.compile(r"\.\w+$")


def indexed_words(text: str) -> str:
    """The words of a text, with blanks between them, as the full-text table stores them."""
    return " ".join(split_identifiers(text))


def path_words(path: str) -> str:
    """The words of a file's path, without its suffix."""
    return indexed_words(_SUFFIX.sub("", path))


def query_words(query: str) -> list[str]:
    """The different words of a query in their order; those of questions only if there are no others."""
    words = list(dict.fromkeys(split_identifiers(query)))
    return ([word for word in words if word not in QUESTION_WORDS] or words)[:_MOST_WORDS]


def match_expression(words: Iterable[str]) -> str:
    """FTS5's expression for texts with any of the words."""
    return " OR ".join('"' + word.replace('"', '""') + '"' for word in words)
