"""Preparing data for training: hard negatives, and a teacher's scores for distillation.

negatives.py   mining: search the training data with a model, and choose negatives from what it finds
teachers.py    scoring: models and BM25 that score the candidates of each query
lists.py       the files: pairs, mined rows, candidate lists, scores
"""

from colbertz.distillation.negatives import Candidate, Filters, choose, mine
from colbertz.distillation.teachers import bm25_teacher, fuse, load_teacher, score_lists

__all__ = ["Candidate", "Filters", "bm25_teacher", "choose", "fuse", "load_teacher", "mine", "score_lists"]
