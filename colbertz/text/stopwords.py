"""Words that say nothing about what a text is about."""

# Lucene's list for English, and "from".
STOPWORDS = frozenset(
    "a an and are as at be but by for from if in into is it its no not of on or such that the their then there these "
    "they this to was will with".split()
)
# Words of questions. They count in BM25, as they do in Lucene, but a snippet does not highlight them.
QUESTION_WORDS = frozenset("do does how what when where which who why".split())
