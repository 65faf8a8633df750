"""Questions for texts that nobody asked about: some words of one of a text's own sentences.

The inverse cloze task (Lee et al. 2019, arXiv 1906.00300, section 4). A title asks for what all of a text is about; a
sentence asks for one thing in it, as questions and claims do. In half of the pairs the sentence is cut out of the text,
so that words alone do not find it; in the others it stays, so that words are worth something.
"""

import random
import re
from collections.abc import Iterable, Iterator

_BETWEEN_SENTENCES = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(])")
# Shorter sentences say too little, and longer ones are mostly lists.
_FEWEST_WORDS, _MOST_WORDS = 5, 50
_CUT_OUT = 0.5
# Up to this share of a sentence's words is dropped: questions are not whole sentences.
_MOST_DROPPED = 0.5


def cloze_pairs(texts: Iterable[str], seed: int = 0) -> Iterator[tuple[str, str]]:
    """(words of a sentence, its text with or without it), one of each different text of two or more sentences."""
    chance = random.Random(seed)
    for text in dict.fromkeys(texts):
        sentences = _BETWEEN_SENTENCES.split(text)
        usable = [i for i, one in enumerate(sentences) if _FEWEST_WORDS <= len(one.split()) <= _MOST_WORDS]
        if len(sentences) < 2 or not usable:
            continue
        chosen = chance.choice(usable)
        dropped = chance.uniform(0, _MOST_DROPPED)
        words = [word for word in sentences[chosen].split() if chance.random() >= dropped]
        rest = " ".join(sentences[:chosen] + sentences[chosen + 1 :])
        if words:
            yield " ".join(words), rest if chance.random() < _CUT_OUT else text
