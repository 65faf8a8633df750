"""Two ways to split a text into words: as a text search engine does by default, and as a code search engine would.

Split identifiers are the strong baseline: `parse_dateString` is found under parse, date and string as well as under
itself, and plurals and endings are cut off.
"""

import re

from colbertz.text.stopwords import STOPWORDS

# The parts of an identifier: parseDate, parse_date and HTTPError have two each.
IDENTIFIER_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_a-zA-Z]+")


def plain_words(text: str) -> list[str]:
    """Lower-case words of at least two characters without stop words; an identifier is one word."""
    return [word for word in re.findall(r"\w\w+", text.lower()) if word not in STOPWORDS]


def split_identifiers(text: str) -> list[str]:
    """Identifiers whole and in parts, the parts stemmed, without stop words."""
    words = []
    for identifier in re.findall(r"\w+", text):
        parts = [part.lower() for part in IDENTIFIER_PART.findall(identifier)]
        words += [identifier.lower()] * (len(parts) > 1) + [stem(part) for part in parts]
    return [word for word in words if word not in STOPWORDS]


def stem(word: str) -> str:
    """Cut off one English ending: plural, -ed, -ing, and a final e.

    parse, parses, parsed and parsing are then one word.
    """
    for ending, replacement in (("ies", "y"), ("ing", ""), ("ed", ""), ("es", ""), ("s", ""), ("e", "")):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            return word[: -len(ending)] + replacement
    return word
