"""Frequent English words that say nothing about the subject of a text."""

# Lucene's list for English, and "from".
STOPWORDS = frozenset(
    "a an and are as at be but by for from if in into is it its no not of on or such that the their then there these "
    "they this to was will with".split()
)
# Words of questions. BM25 counts them, as Lucene does, but snippets do not highlight them.
QUESTION_WORDS = frozenset("do does how what when where which who why".split())
