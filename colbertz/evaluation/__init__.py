"""Judging how well documents are found.

| file            | what it does                                                                            |
|-----------------|-----------------------------------------------------------------------------------------|
| collections.py  | a test collection: queries, documents, and which document answers which query           |
| layouts.py      | reads collections from directories as BEIR, MS MARCO, LongEmbed and NanoBEIR have them  |
| named.py        | collections by name from the Hugging Face hub, and the text lengths that belong to them |
| retrieve.py     | searches a collection with a model: exactly, with an index, or ranking another run anew |
| runs.py         | reads and writes TREC runs, and reads TREC judgements (qrels)                           |
| metrics.py      | nDCG, MRR and recall in plain Python, for training and the demo: these need no extra    |
| measures.py     | every measure of the field, query by query, by ir_measures: for figures and comparisons |
| significance.py | confidence intervals, and whether two runs differ by more than chance                   |

The two sets of measures differ on purpose. `metrics` averages over queries that have a relevant document; `measures`
counts the others as 0, as trec_eval does. Where every query has one, both give the same values (there is a test).
"""

from colbertz.evaluation.collections import Collection, from_pairs
from colbertz.evaluation.layouts import read_beir
from colbertz.evaluation.metrics import mrr, ndcg, recall
from colbertz.evaluation.retrieve import evaluate, rerank, retrieve

__all__ = ["Collection", "evaluate", "from_pairs", "mrr", "ndcg", "read_beir", "recall", "rerank", "retrieve"]
