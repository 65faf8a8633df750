"""One ranking of chunks from MaxSim, BM25 and what chunks are: definitions before uses, tests after code.

Ranks are fused, as scores of the two are not comparable. `benchmarks/folder.py` has the measurements behind the
numbers here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from colbertz.folders.words import query_words
from colbertz.index.search.fusion import reciprocal_rank
from colbertz.text.words import split_identifiers

# How much BM25 counts beside MaxSim.
TEXT_WEIGHT = 0.6
# BM25 weights of the words of a path, of a heading, and of the text.
COLUMN_WEIGHTS = (1.0, 2.0, 1.0)
# What a score is multiplied with if the query names what the chunk defines, or has all words of its name.
_NAMED, _SAME_WORDS = 1.5, 1.15
# What the score of a part of code that defines nothing, such as imports, is multiplied with.
_NO_DEFINITION = 0.85
# What the score of a test is multiplied with, unless the query is about tests.
_TEST = 0.85
_TEST_WORDS = frozenset(["test", "tests", "testing", "spec", "pytest", "unittest"])


@dataclass(frozen=True)
class Candidate:
    """A chunk of a file that a ranking found.

    Attributes:
        ref: its row of `refs`.
        heading, kind: of the chunk.
    """

    ref: int
    heading: str
    kind: str


def fused(
    maxsim: Sequence[tuple[int, float]], bm25: Sequence[tuple[int, float]], text_weight: float
) -> list[tuple[int, float]]:
    """Both rankings of refs as one, best first. Without one of the two, the other one's order."""
    return reciprocal_rank([maxsim, bm25], [1 - text_weight, text_weight], constant=20)


def _named(heading: str, names: set[str], words: set[str]) -> float:
    """What a definition is worth for a query with these names and words."""
    last = heading.replace("::", ".").rpartition(".")[2]
    if last in names or heading in names:
        return _NAMED
    parts = split_identifiers(last)
    return _SAME_WORDS if len(parts) > 1 and set(parts[1:]) <= words else 1.0


def reranked(ranking: Sequence[tuple[int, float]], found: dict[int, Candidate], query: str) -> list[tuple[int, float]]:
    """The ranking after looking at what the chunks are, best first."""
    names = set(query.split()) | {word.rstrip("()") for word in query.split()}
    words = set(query_words(query))
    about_tests = bool(words & _TEST_WORDS or names & _TEST_WORDS)

    def factor(candidate: Candidate) -> float:
        value = _TEST if candidate.kind == "test" and not about_tests else 1.0
        if candidate.kind not in ("code", "test"):
            return value
        if not candidate.heading:
            return value * _NO_DEFINITION
        # A chunk of several short functions has the names of all.
        return value * max(_named(heading, names, words) for heading in candidate.heading.split(", "))

    scored = [(ref, score * factor(found[ref])) for ref, score in ranking]
    return sorted(scored, key=lambda item: -item[1])
