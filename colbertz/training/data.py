"""Pairs of texts from files, in an order that depends on nothing but the seed and the epoch.

One permutation of all pairs is drawn for each epoch and cut into global batches; every process takes its own slice of
each. So the same pairs meet in a batch however many processes there are: a run on two repeats a run on one.
"""

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset, Sampler

from colbertz.models.tokenizer import ColBERTTokenizer, Tokens


@dataclass(frozen=True)
class Pairs(Dataset[tuple[str, str]]):
    """Queries and the document that answers each."""

    queries: list[str]
    documents: list[str]

    def __len__(self) -> int:
        return len(self.queries)

    def __getitem__(self, index: int) -> tuple[str, str]:
        return self.queries[index], self.documents[index]


def read_pairs(path: str | Path, query: str = "query", document: str = "document") -> Pairs:
    """Read one JSON object a line, .jsonl or .jsonl.gz.

    Args:
        path: the file.
        query: key of the query in each object.
        document: key of the document.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a line that is no JSON object with two non-empty strings under these keys, or an empty file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no data file {str(path)!r}")
    queries: list[str] = []
    documents: list[str] = []
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            row = _parse(line, f"{path}:{number}")
            for key, texts in ((query, queries), (document, documents)):
                text = row.get(key)
                if not isinstance(text, str) or not text.strip():
                    problem = (
                        f"has {text!r:.60} under {key!r}" if key in row else f"has no key {key!r}, only {sorted(row)}"
                    )
                    raise ValueError(f"{path}:{number} {problem}; a non-empty string is needed")
                texts.append(text)
    if not queries:
        raise ValueError(f"{path} holds no pairs")
    return Pairs(queries, documents)


def _parse(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not JSON: {error}") from None
    if not isinstance(row, dict):
        raise ValueError(f"{where} must be a JSON object, got {row!r:.60}")
    return row


@dataclass(frozen=True)
class BatchSampler(Sampler[list[int]]):
    """The pairs of each step for one of the processes; what does not fill the last global batch is left out.

    Attributes:
        num_pairs: in the data.
        batch_size: pairs in a step over all processes, a multiple of `world_size`.
        num_steps: batches to give; a new epoch begins whenever one is used up.
        seed: of the order.
        rank: of this process.
        world_size: number of processes.
    """

    num_pairs: int
    batch_size: int
    num_steps: int
    seed: int = 0
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if self.batch_size % self.world_size:
            raise ValueError(
                f"batch_size {self.batch_size} cannot be shared by {self.world_size} processes; make it a multiple"
            )
        if self.num_pairs < self.batch_size:
            raise ValueError(
                f"there are {self.num_pairs} training pairs, fewer than batch_size {self.batch_size}; make it smaller"
            )

    def __len__(self) -> int:
        return self.num_steps

    def __iter__(self) -> Iterator[list[int]]:
        steps_per_epoch = self.num_pairs // self.batch_size
        share = self.batch_size // self.world_size
        for step in range(self.num_steps):
            epoch, place = divmod(step, steps_per_epoch)
            if place == 0:
                order = np.random.default_rng((self.seed, epoch)).permutation(self.num_pairs)
            start = place * self.batch_size + self.rank * share
            yield order[start : start + share].tolist()


@dataclass(frozen=True)
class Batch:
    """One process's share of a step: query i belongs to document i."""

    queries: Tokens
    documents: Tokens

    def __len__(self) -> int:
        return len(self.queries)

    def pin_memory(self) -> "Batch":
        """For `DataLoader(pin_memory=True)`, which calls this on every batch."""
        return Batch(self.queries.pin_memory(), self.documents.pin_memory())


@dataclass(frozen=True)
class Collate:
    """Tokenises a list of pairs; picklable, so that loader processes can do it."""

    tokenizer: ColBERTTokenizer

    def __call__(self, pairs: list[tuple[str, str]]) -> Batch:
        queries, documents = zip(*pairs)
        return Batch(self.tokenizer.queries(queries), self.tokenizer.documents(documents))


def loader(
    pairs: Pairs, sampler: BatchSampler, tokenizer: ColBERTTokenizer, *, num_workers: int = 0, pin_memory: bool = False
) -> "DataLoader[Batch]":
    """Tokenised batches in the sampler's order, made by `num_workers` processes ahead of time or, with 0, on demand."""
    return DataLoader(
        pairs,  # type: ignore[arg-type]
        batch_sampler=sampler,
        collate_fn=Collate(tokenizer),
        num_workers=num_workers,
        pin_memory=pin_memory,
        # A forked child of a process with threads, such as ours, may hang.
        multiprocessing_context="spawn" if num_workers else None,
    )
