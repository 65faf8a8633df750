"""Everything that can be read as documents, queries or pairs: one reader for indexing, training and evaluation.

rows.py        a row and its place in its file; the error for a row that cannot be used
lines.py       the lines of a text file, gzipped or not, or of stdin
jsonl.py       JSON lines
delimited.py   CSV and TSV
parquet.py     Parquet
formats.py     the format of each file name; the rows of any file, in order or by index
indexed.py     how rows of a text file are read by index
documents.py   documents, queries and texts, made of rows

A new format is one file with a function `read` and a line in `formats.FORMATS`. Nothing here imports numpy or pyarrow
until rows are read, because the command line imports it to parse its options.
"""
