"""Splitting texts of scripts that a search for letters between blanks would not split.

Chinese, Japanese, Thai, Lao, Khmer and Burmese are written without blanks between words, and Korean joins particles to
its words. Where a word ends there only a dictionary can tell, one for each language; and with another edition of a
dictionary a query would be split into other words than the documents of an index. Such text is therefore split into
overlapping pairs of neighbouring characters (bigrams), as Lucene's CJKAnalyzer does. A character is a letter with the
marks that belong to it, such as the vowel signs of Thai.

The last character of a run stands alone too. So each character is the first one of exactly one word, and a query of
one character finds all words that begin with it.

In all other scripts a word is a run of letters, digits and marks, as in Unicode's text segmentation (UAX 29).
Characters without a form of their own, such as joiners, variation selectors and soft hyphens, do not end a word.
"""

import re
import unicodedata
from collections.abc import Iterator
from itertools import pairwise

# Han, kana, bopomofo and Hangul, with half-width and other compatible forms.
_EAST_ASIAN = (
    "\u1100-\u11ff\u2e80-\u2e99\u2e9b-\u2ef3\u2f00-\u2fd5\u3005-\u3007\u3021-\u302f\u3031-\u3035\u3038-\u303c"
    "\u3041-\u3096\u3099\u309a\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3105-\u312f\u3131-\u318e\u31a0-\u31bf"
    "\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97c\uac00-\ud7a3\ud7b0-\ud7fb\uf900-\ufaff\uff66-\uffbe"
    "\uffc2-\uffc7\uffca-\uffcf\uffd2-\uffd7\uffda-\uffdc\U0001aff0-\U0001b16f\U00020000-\U0003fffd"
)
# Letters and marks of the scripts that UAX 14 calls South East Asian, "complex context dependent": Thai, Lao, Burmese,
# Khmer, Tai Le, New Tai Lue, Tai Tham, Tai Viet, Ahom. Their digits and punctuation are not among these.
_SOUTH_EAST_ASIAN = (
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ec6\u0ec8-\u0ece\u0edc-\u0edf\u1000-\u103f\u1050-\u108f\u109a-\u109d"
    "\u1780-\u17d3\u17d7\u17dc\u17dd\u1950-\u1974\u1980-\u19c9\u1a20-\u1a7c\u1aa7\ua9e0-\ua9ef\ua9fa-\ua9fe"
    "\uaa60-\uaa7f\uaa80-\uaadd\U00011700-\U0001172b"
)
_UNSPACED = _EAST_ASIAN + _SOUTH_EAST_ASIAN
# Soft hyphen, joiners, byte order mark, marks around a symbol, variation selectors.
_INVISIBLE = "\u00ad\u034f\u200c\u200d\u2060\u20d0-\u20f0\ufe00-\ufe0f\ufeff\U000e0100-\U000e01ef"
# The vowel signs of Hebrew and Arabic, which most texts leave out, and the stroke that lengthens an Arabic word.
_OPTIONAL = (
    "\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7"
    "\u0610-\u061a\u0640\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e8\u06ea-\u06ed"
)
_FULL_WIDTH = "\uff01-\uff5e"


def _marks() -> str:
    """The marks of all scripts in the basic plane, and Ahom's, as the inside of a character class."""
    blocks = ((0x300, 0x20F1), (0x302A, 0x309B), (0xA66F, 0xABEE))
    marks = (chr(c) for first, end in blocks for c in range(first, end) if unicodedata.category(chr(c))[0] == "M")
    return "".join(marks) + "\U0001171d-\U0001172b"


MARKS = _marks()
_RUN = re.compile(
    f"(?P<unspaced>[{_UNSPACED}][{_UNSPACED}{_INVISIBLE}]*)|(?P<full_width>[{_FULL_WIDTH}]+)|[{_INVISIBLE}{_OPTIONAL}]+"
)
_INVISIBLE_RUN = re.compile(f"[{_INVISIBLE}]+")
_CHARACTER = re.compile(f".[{MARKS}]*", re.DOTALL)
_ONE_CHARACTER = re.compile(f"[{_UNSPACED}][{MARKS}]*")
UNSPACED_RUN = re.compile(f"[{_UNSPACED}]+")


def separate_bigrams(text: str, *, query: bool = False) -> str:
    """A text in which the words of scripts without blanks are separated by blanks.

    Full-width letters become ordinary ones, and invisible characters and optional vowel signs are left out. Everything
    else stays, so that an ASCII text is returned as it is.

    Args:
        text: any text.
        query: leave out the last character of a run, which stands alone, unless it is all of the run.
    """
    if text.isascii():
        return text
    return _RUN.sub(lambda match: _separated(match, query), text)


def _separated(match: re.Match[str], query: bool) -> str:
    if match["unspaced"]:
        return f" {' '.join(bigrams(match['unspaced'], query=query))} "
    return unicodedata.normalize("NFKC", match["full_width"]) if match["full_width"] else ""


def bigrams(run: str, *, query: bool = False) -> Iterator[str]:
    """The words of a run of characters of scripts without blanks; `query` as for `separate_bigrams`."""
    characters = characters_of(run)
    for character, following in pairwise(characters):
        yield character + following
    if not query or len(characters) == 1:
        yield characters[-1]


def characters_of(run: str) -> list[str]:
    """The characters of such a run with their marks, in their ordinary forms."""
    return _CHARACTER.findall(unicodedata.normalize("NFKC", _INVISIBLE_RUN.sub("", run)))


def is_one_character(word: str) -> bool:
    """Whether a word is a single character of a script without blanks."""
    return _ONE_CHARACTER.fullmatch(word) is not None
