"""Questions made of a text itself: some words of one of its sentences.

The inverse cloze task (Lee et al. 2019, arXiv 1906.00300, section 4). A title asks about a whole text; a sentence asks
about one thing in it, as questions and claims do. In half of the pairs the sentence is removed from the text, so that
matching words alone does not find it; in the other half it stays, so that matching words is still useful.
"""

import random
import re
from collections.abc import Iterable, Iterator

_BETWEEN_SENTENCES = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(])")
# Words of a sentence that becomes a question: shorter ones say too little, longer ones are mostly lists.
_MIN_WORDS = 5
_MAX_WORDS = 50
# Share of the pairs whose sentence is removed from the text.
_REMOVED = 0.5
# Share of a sentence's words that is dropped at most: questions are not whole sentences.
_MAX_DROPPED = 0.5


def cloze_pairs(texts: Iterable[str], seed: int = 0) -> Iterator[tuple[str, str]]:
    """Yield (words of a sentence, its text with or without it), one for each different text of several sentences."""
    rng = random.Random(seed)
    for text in dict.fromkeys(texts):
        sentences = _BETWEEN_SENTENCES.split(text)
        usable = [i for i, sentence in enumerate(sentences) if _MIN_WORDS <= len(sentence.split()) <= _MAX_WORDS]
        if len(sentences) < 2 or not usable:
            continue
        chosen = rng.choice(usable)
        drop_rate = rng.uniform(0, _MAX_DROPPED)
        words = [word for word in sentences[chosen].split() if rng.random() >= drop_rate]
        rest = " ".join(sentences[:chosen] + sentences[chosen + 1 :])
        if words:
            yield " ".join(words), rest if rng.random() < _REMOVED else text
