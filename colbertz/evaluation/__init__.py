"""Judging how well documents are found.

collections.py   queries, documents and which of them answer which, from BEIR directories or held-out pairs
exact.py         metrics of a model on a collection, searched exhaustively
"""

from colbertz.evaluation.collections import Collection, from_pairs, read_beir
from colbertz.evaluation.exact import evaluate

__all__ = ["Collection", "evaluate", "from_pairs", "read_beir"]
