"""Tokenised batches by number of the step, made in this process or ahead of time in others."""

import atexit
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from colbertz.corpus.rows import BadRow
from colbertz.errors import UserError
from colbertz.models.tokenizer import ColBERTTokenizer, Tokens
from colbertz.training.config import TrainingConfig
from colbertz.training.data.examples import Example
from colbertz.training.data.mixture import Schedule, num_steps, rows_of, schedule
from colbertz.training.data.sources import Source, open_mixture

_MOST_BAD = 1000  # bad rows on end after which it is the settings that are wrong, not the rows


@dataclass(frozen=True, eq=False)
class Batch:
    """One process's share of a step: B queries and their documents, all from one data set.

    Attributes:
        queries: B texts.
        documents: those of query 0, then those of query 1, …; num_documents texts.
        counts: (B,) int64, documents of each query.
        scores: (num_documents,) float32, the teacher's; None for data without.
        keys: (num_documents, 2) int64, hashes of the text and of the id (of the text where there is no id). Documents
            with an equal key in either column are the same.
        source: name of the data set.
        rows: (B,) int64, row numbers in it, on the CPU.
        bad_rows: why rows were passed over, in favour of the next good ones.
    """

    queries: Tokens
    documents: Tokens
    counts: Tensor
    scores: Tensor | None
    keys: Tensor
    source: str
    rows: Tensor
    bad_rows: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.queries)

    def __getitem__(self, part: slice) -> "Batch":
        """Consecutive queries with their documents; `bad_rows` belongs to the whole batch and is not carried over."""
        first, last, _ = part.indices(len(self))
        ends = [0, *self.counts.cumsum(0).tolist()]
        documents = slice(ends[first], ends[last])
        return Batch(
            self.queries[first:last],
            self.documents[documents],
            self.counts[first:last],
            None if self.scores is None else self.scores[documents],
            self.keys[documents],
            self.source,
            self.rows[first:last],
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """Move all but the row numbers, which are for messages."""
        return self._map(lambda part: part.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        """For `DataLoader(pin_memory=True)`, which calls this on every batch."""
        return self._map(lambda part: part.pin_memory())

    def _map(self, move: Callable[[Any], Any]) -> "Batch":
        return replace(
            self,
            queries=move(self.queries),
            documents=move(self.documents),
            counts=move(self.counts),
            scores=None if self.scores is None else move(self.scores),
            keys=move(self.keys),
        )


@dataclass(frozen=True)
class StepBatches(Dataset[Batch]):
    """This process's share of the batch of every step; `batches[step]` depends on nothing that was read before.

    Attributes:
        sources: the mixture.
        schedule: which of them each step draws from.
        tokenizer: of the model.
        batch_size: queries in a step, over all processes.
        seed: of the order of rows.
        rank: of this process.
        world_size: number of processes.

    Raises:
        ValueError: if the processes cannot share a batch equally.
    """

    sources: Sequence[Source]
    schedule: Schedule
    tokenizer: ColBERTTokenizer
    batch_size: int
    seed: int = 0
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if self.batch_size % self.world_size:
            raise UserError(
                f"batch_size {self.batch_size} cannot be shared by {self.world_size} processes; make it a multiple"
            )

    def __len__(self) -> int:
        return len(self.schedule)

    def __getitem__(self, step: int) -> Batch:
        """The batch of a step.

        Raises:
            ValueError: if a source has only bad rows, or 1,000 on end; it shows the first one.
        """
        source = self.sources[self.schedule.sources[step]]
        draw = int(self.schedule.draws[step])
        bad_rows: list[str] = []
        rows, examples = [], []
        for wanted in rows_of(source, draw, self.batch_size, self.seed, self.rank, self.world_size).tolist():
            row, example = _next_good(source, wanted, bad_rows)
            rows.append(row)
            examples.append(example)
        return _batch(examples, source.name, rows, bad_rows, self.tokenizer)


def open_batches(
    config: TrainingConfig, tokenizer: ColBERTTokenizer, rank: int = 0, world_size: int = 1
) -> StepBatches:
    """Open the data of a run and lay out all of its steps.

    Raises:
        FileNotFoundError, ValueError: for data that cannot be opened, does not fill a batch or does not fit the loss.
    """
    sources = open_mixture(config.data, config.seed)
    for source in sources:
        if source.scored and config.loss.kind == "contrastive":
            raise UserError(
                f"{source.name} has a teacher's scores, so the first of its documents need not be the answer, as the "
                "contrastive loss takes for granted; set loss.kind to distillation, or scores to null"
            )
        if not source.scored and config.loss.needs_teacher:
            raise UserError(
                f"loss.kind {config.loss.kind} needs a teacher's scores and {source.name} has none; name their column "
                "with scores, or set loss.kind to contrastive"
            )
    steps = config.max_steps or num_steps(sources, config.batch_size, config.epochs)
    plan = schedule(sources, config.batch_size, steps, config.seed, config.data.mixture_temperature)
    return StepBatches(sources, plan, tokenizer, config.batch_size, config.seed, rank, world_size)


def loader(
    batches: StepBatches, start: int = 0, num_workers: int = 0, *, pin_memory: bool = False
) -> "DataLoader[Batch]":
    """The batches of all steps in order.

    Args:
        batches: to read from.
        start: the first step; for a run that is resumed, the number of steps done.
        num_workers: processes that work ahead, two batches each; 0 to make each batch when it is asked for.
        pin_memory: hand out batches in page-locked memory, which copies to a GPU faster.
    """
    return DataLoader(
        batches,
        batch_size=None,
        sampler=range(start, len(batches)),
        num_workers=num_workers,
        pin_memory=pin_memory,
        # A forked child of a process with threads, such as ours, may hang.
        multiprocessing_context="spawn" if num_workers else None,
        worker_init_fn=_one_core,
        # Without one of its own it would draw a number from that of dropout, once more in a run that is resumed.
        generator=torch.Generator(),
    )


def document_keys(texts: Iterable[str], ids: Iterable[str]) -> Tensor:
    """(num_documents, 2) int64 by which the same document is known again; ids are "" where there are none.

    Texts that differ in case and blanks only are the same.
    """
    keys = []
    for text, identifier in zip(texts, ids):
        text_key = _hash(" ".join(text.casefold().split()))
        keys.append((text_key, _hash(f"id {identifier}") if identifier else text_key))
    return torch.tensor(keys, dtype=torch.int64)


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def _next_good(source: Source, wanted: int, bad_rows: list[str]) -> tuple[int, Example]:
    """The example in row `wanted` or in the first good row after it; what is passed over joins `bad_rows`."""
    most = min(source.num_rows or _MOST_BAD, _MOST_BAD)
    before = len(bad_rows)
    for further in range(most):
        row = wanted + further
        if not source.streaming:
            row %= len(source)
        try:
            return row, source[row]
        except BadRow as error:
            bad_rows.append(str(error))
    raise UserError(f"{most} rows of {source.name} on end cannot be used; the first: {bad_rows[before]}")


def _batch(
    examples: list[Example], name: str, rows: list[int], bad_rows: list[str], tokenizer: ColBERTTokenizer
) -> Batch:
    documents = [document for example in examples for document in example.documents]
    ids = [i for example in examples for i in example.document_ids or [""] * len(example.documents)]
    scores = [score for example in examples for score in example.scores or ()]
    return Batch(
        tokenizer.queries([example.query for example in examples]),
        tokenizer.documents(documents),
        torch.tensor([len(example.documents) for example in examples], dtype=torch.int64),
        torch.tensor(scores, dtype=torch.float32) if scores else None,
        document_keys(documents, ids),
        name,
        torch.tensor(rows, dtype=torch.int64),
        tuple(bad_rows),
    )


def _one_core(worker: int) -> None:
    """A loader process must not take the cores of the training process; PyTorch sees to its own threads there."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    # When the interpreter ends it stops the thread that sends batches, which in C++ code aborts the process.
    atexit.register(os._exit, 0)
