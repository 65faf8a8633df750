"""Preparing data for training: hard negatives, and a teacher's scores for distillation.

negatives.py   mining: search the training data with a model, and choose negatives from what it finds
teachers.py    scoring: models and BM25 that score the candidates of each query
lists.py       the files: pairs, mined rows, candidate lists, scores
"""
