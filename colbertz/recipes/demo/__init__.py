"""The demo: index and search the Python code that every machine already has, perhaps with a model trained on it.

corpus.py      functions and their docstrings, from the installed packages
tokenizer.py   a byte-pair tokenizer for code, trained on them
run.py         `colbertz demo` from top to bottom
compare.py     the closing table: the model and BM25 on functions that no model was trained on
terminal.py    what the demo prints between its results: titles, times, colours
"""
