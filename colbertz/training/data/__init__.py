"""Training data, from files to tokenised batches.

examples.py     one query with its documents, read from a row; what makes a row bad
rows.py         what is asked of rows by index; those of text files are `colbertz.corpus.indexed`
tables.py       rows of what `datasets` opens: Parquet, saved directories, the hub, and streams
csv_tables.py   CSV files that `datasets` finds, with the rows that our reader gives
json_tables.py  JSON files that `datasets` finds, with the rows that our reader gives
hub_files.py    the place of a file that `datasets` has found
lookup.py       rows by id, and lists of ids with the texts put in
sources.py      a data set of the mixture, opened from its settings
permutation.py  a shuffled order that takes no memory
mixture.py      which source and which rows each step draws
batches.py      tokenised batches by step, and the loader
check.py        all rows read once, for the dry run
pairs.py        held-out pairs
"""

from colbertz.training.data.batches import Batch, StepBatches, document_keys, loader, open_batches
from colbertz.training.data.check import Report, check
from colbertz.training.data.examples import Example, read_example
from colbertz.training.data.mixture import Schedule, num_steps, rows_of, schedule
from colbertz.training.data.pairs import Pairs, read_pairs
from colbertz.training.data.permutation import permuted
from colbertz.training.data.sources import Source, open_mixture, open_sources

__all__ = [
    "Batch",
    "Example",
    "Pairs",
    "Report",
    "Schedule",
    "Source",
    "StepBatches",
    "check",
    "document_keys",
    "loader",
    "num_steps",
    "open_batches",
    "open_mixture",
    "open_sources",
    "permuted",
    "read_example",
    "read_pairs",
    "rows_of",
    "schedule",
]
