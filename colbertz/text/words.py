"""Two ways to split a text into words: as a text search engine does by default, and as a code search engine does.

Splitting identifiers makes the stronger baseline for code: `parse_dateString` is found by parse, date, string and by
itself, and endings such as the plural are cut off. Both split scripts without blanks, such as Chinese, into pairs of
characters, see `colbertz.text.segmentation`.
"""

import re

from colbertz.text.segmentation import MARKS, UNSPACED_RUN, separate_bigrams
from colbertz.text.stopwords import STOPWORDS

# Matches the parts of an identifier: parseDate, parse_date and HTTPError have two parts each.
IDENTIFIER_PART = re.compile(rf"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|(?:[^\W\d_a-zA-Z][{MARKS}]*)+")
_WORD = re.compile(rf"\w[\w{MARKS}]*")


def plain_words(text: str) -> list[str]:
    """The words of at least two characters, in lower case, without stop words; an identifier is one word."""
    words = _WORD.findall(separate_bigrams(text.lower()))
    return [word for word in words if len(word) > 1 and word not in STOPWORDS]


def split_identifiers(text: str) -> list[str]:
    """The identifiers of a text and their stemmed parts, in lower case, without stop words.

    An identifier of one part is only given as its stem.
    """
    words = []
    for identifier in _WORD.findall(separate_bigrams(text)):
        if UNSPACED_RUN.fullmatch(identifier):
            words.append(identifier)
            continue
        parts = [part.lower() for part in IDENTIFIER_PART.findall(identifier)]
        words += [identifier.lower()] * (len(parts) > 1) + [stem(part) for part in parts]
    return [word for word in words if word not in STOPWORDS]


def stem(word: str) -> str:
    """Cut off one English ending: the plural, -ed, -ing, or a final e. At least three letters stay.

    So parse, parses, parsed and parsing have the same stem.
    """
    for ending, replacement in (("ies", "y"), ("ing", ""), ("ed", ""), ("es", ""), ("s", ""), ("e", "")):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            return word[: -len(ending)] + replacement
    return word
