"""Settings of the data sets that a run trains on."""

import math
from dataclasses import dataclass, field
from typing import Literal

from colbertz.training.config.checks import require


@dataclass(frozen=True)
class SourceConfig:
    """One data set to train on.

    Attributes:
        path: a .jsonl, .csv, .tsv (each perhaps .gz) or .parquet file, a directory that `datasets` saved or that has
            the layout of a hub repository, or the id of a data set on the Hugging Face hub; null for the published one
            of `layout`.
        layout: what the rows contain. `columns`: what the settings below say. The others name published data sets:
            `nomic-unsupervised` (pairs), `nomic-supervised` (pairs and hard negatives), `ms-marco-scores` (lists of
            document ids with a teacher's scores; the texts are in separate data sets).
        subset: configuration of a hub data set that has several.
        split: its split; for the nomic layouts one or more of their splits, each a data set of its own, null for all.
        query: column of the query.
        document: column of the document that answers the query, or of a list of documents that starts with it.
        negatives: columns of hard negatives, each a text or a list of texts.
        max_negatives: number of hard negatives used from each row, the first ones; null for all.
        scores: column of the teacher's scores, one for each document of a row; null for rows without scores.
        max_documents: number of scored documents used from each row, the first ones; null for all.
        document_id: column of the document's id or ids; documents with the same id or the same text are duplicates.
        weight: how often this data set is drawn, relative to the others; null for its number of rows.
        streaming: read a hub data set over the network, without a local copy; needs max_steps.
    """

    path: str | None = None
    layout: Literal["columns", "nomic-unsupervised", "nomic-supervised", "ms-marco-scores"] = "columns"
    subset: str | None = None
    split: str | list[str] | None = None
    query: str = "query"
    document: str = "document"
    negatives: list[str] = field(default_factory=list)
    max_negatives: int | None = None
    scores: str | None = None
    max_documents: int | None = None
    document_id: str | None = None
    weight: float | None = None
    streaming: bool = False

    def __post_init__(self) -> None:
        require(
            self.path is not None or self.layout != "columns",
            "a data set with layout 'columns' needs a path: a file, a directory or a hub id",
        )
        require(
            self.max_negatives is None or self.max_negatives >= 0,
            f"max_negatives must be at least 0, got {self.max_negatives}",
        )
        require(
            self.max_documents is None or self.max_documents >= 2,
            f"max_documents must be at least 2, got {self.max_documents}",
        )
        require(
            self.weight is None or 0 < self.weight < math.inf, f"weight must be positive and finite, got {self.weight}"
        )


@dataclass(frozen=True)
class DataConfig:
    """What to train on: one data set or a mixture, from which each step draws one for all processes.

    Attributes:
        train: a path, for pairs in the columns `query` and `document`, or a list of data sets.
        mixture_temperature: data sets without a weight are drawn in proportion to rows^(1 / temperature): 1 for
            proportional to their sizes, larger to draw small data sets more often.
        max_bad_rows: rows that cannot be used (an empty text, a missing id, a wrong type) are counted and replaced by
            the next good row; with more than this many, training stops and shows the first one.
        num_workers: processes that read and tokenise ahead of the training step; 0 to read between steps.
    """

    train: list[SourceConfig] | str
    mixture_temperature: float = 1.0
    max_bad_rows: int = 100
    num_workers: int = 0

    def __post_init__(self) -> None:
        require(self.num_workers >= 0, f"data.num_workers must be at least 0, got {self.num_workers}")
        require(self.max_bad_rows >= 0, f"data.max_bad_rows must be at least 0, got {self.max_bad_rows}")
        require(
            self.mixture_temperature > 0, f"data.mixture_temperature must be positive, got {self.mixture_temperature}"
        )
        require(bool(self.train), "data.train is empty; give a file or a list of data sets")
        require(
            not isinstance(self.train, str) or not self.train.lstrip().startswith(("[", "{")),
            f"data.train is neither a path nor a valid list of data sets: {self.train!r:.200}; see SourceConfig in "
            "colbertz/training/config/data.py for the keys and types of a data set",
        )

    @property
    def sources(self) -> list[SourceConfig]:
        """`train` as a list, also where it was given as a path."""
        return [SourceConfig(self.train)] if isinstance(self.train, str) else self.train
