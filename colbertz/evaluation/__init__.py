"""Judging how well documents are found.

collections.py    queries, documents and which of them answer which, from BEIR directories or held-out pairs
layouts.py        directories in other layouts: MS MARCO, LongEmbed, NanoBEIR
named.py          collections by name, from the hub
exact.py          metrics of a model on a collection, searched exhaustively, as training looks at them
runs.py           TREC runs
measures.py       the field's measures of a run, by ir_measures
significance.py   intervals, and whether two runs differ
"""

from colbertz.evaluation.collections import Collection, from_pairs, read_beir
from colbertz.evaluation.exact import evaluate

__all__ = ["Collection", "evaluate", "from_pairs", "read_beir"]
