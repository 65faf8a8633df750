"""Text without models.

normalize.py    the form in which texts are compared with each other
segmentation.py splitting of scripts without blanks, such as Chinese and Thai
words.py        two ways to split a text into words, and a stemmer
printable.py    texts as a terminal may show them
stopwords.py    words that are ignored
bm25.py         BM25 over such words, by the library bm25s
"""
