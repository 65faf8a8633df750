"""The tokenised batch of each step, made in this process when it is needed, or ahead of time in other processes."""

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

# After as many bad rows in sequence the settings are probably wrong, not the rows.
_MAX_BAD_IN_SEQUENCE = 1000


@dataclass(frozen=True, eq=False)
class Batch:
    """One process's share of a step: B queries and their documents, all from one data set.

    Attributes:
        queries: B texts.
        documents: those of query 0, then those of query 1, …; num_documents texts.
        counts: (B,) int64, documents of each query.
        scores: (num_documents,) float32, the teacher's; None for data without scores.
        keys: (num_documents, 2) int64, hashes of the text and of the id (of the text where there is no id). Documents
            with an equal key in either column are the same.
        source: name of the data set.
        rows: (B,) int64, row indices in the data set, on the CPU.
        bad_rows: for each row that was replaced by the next good one, its place and what is wrong with it.
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
        """Consecutive queries with their documents, without `bad_rows`, which belongs to the whole batch."""
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
        """Move all tensors but `rows`, which is for messages."""
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
    """This process's share of the batch of every step. `batches[step]` does not depend on which steps were read before.

    Attributes:
        sources: the mixture.
        schedule: which of them each step draws from.
        tokenizer: of the model.
        batch_size: queries in a step, of all processes together.
        seed: of the order of rows.
        rank: of this process.
        world_size: number of processes.

    Raises:
        UserError: if the processes cannot share a batch equally.
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
            UserError: if a source has only bad rows, or 1,000 in sequence; it shows the first one.
        """
        source = self.sources[self.schedule.sources[step]]
        draw = int(self.schedule.draws[step])
        bad_rows: list[str] = []
        rows, examples = [], []
        for drawn in rows_of(source, draw, self.batch_size, self.seed, self.rank, self.world_size).tolist():
            row, example = _first_good(source, drawn, bad_rows)
            rows.append(row)
            examples.append(example)
        return _batch(examples, source.name, rows, bad_rows, self.tokenizer)


def open_batches(
    config: TrainingConfig, tokenizer: ColBERTTokenizer, rank: int = 0, world_size: int = 1
) -> StepBatches:
    """Open the data of a run and plan all of its steps.

    Raises:
        FileNotFoundError, UserError: for data that cannot be opened, does not fill a batch or does not fit the loss.
    """
    sources = open_mixture(config.data, config.seed)
    for source in sources:
        if source.scored and config.loss.kind == "contrastive":
            raise UserError(
                f"{source.name} has a teacher's scores, so the first of its documents need not be the answer, which "
                "the contrastive loss assumes; set loss.kind to distillation, or scores to null"
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
        num_workers: processes that each work two batches ahead; 0 to make each batch when it is needed.
        pin_memory: hand out batches in page-locked memory, which copies to a GPU faster.
    """
    return DataLoader(
        batches,
        batch_size=None,
        sampler=range(start, len(batches)),
        num_workers=num_workers,
        pin_memory=pin_memory,
        # A child that is forked from a process with threads, such as this one, may hang.
        multiprocessing_context="spawn" if num_workers else None,
        worker_init_fn=_one_core,
        # Without its own generator the loader would draw a number from the one that dropout uses, and once more in a
        # resumed run.
        generator=torch.Generator(),
    )


def document_keys(texts: Iterable[str], ids: Iterable[str]) -> Tensor:
    """(num_documents, 2) int64, equal in one of the columns for equal documents; ids are "" where there are none.

    Texts that differ only in case and white space are equal.
    """
    keys = []
    for text, id in zip(texts, ids):
        text_key = _hash(" ".join(text.casefold().split()))
        keys.append((text_key, _hash(f"id {id}") if id else text_key))
    return torch.tensor(keys, dtype=torch.int64)


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def _first_good(source: Source, start: int, bad_rows: list[str]) -> tuple[int, Example]:
    """The first good row from `start` on: its index and its example. The messages of bad rows join `bad_rows`."""
    most = min(source.num_rows or _MAX_BAD_IN_SEQUENCE, _MAX_BAD_IN_SEQUENCE)
    num_before = len(bad_rows)
    for row in range(start, start + most):
        if not source.streaming:
            row %= len(source)
        try:
            return row, source[row]
        except BadRow as error:
            bad_rows.append(str(error))
    raise UserError(f"{most} rows of {source.name} in sequence cannot be used; the first: {bad_rows[num_before]}")


def _batch(
    examples: list[Example], name: str, rows: list[int], bad_rows: list[str], tokenizer: ColBERTTokenizer
) -> Batch:
    documents = [document for example in examples for document in example.documents]
    ids = [id for example in examples for id in example.document_ids or [""] * len(example.documents)]
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
    """Tokenise in one thread, to leave the other cores to the training process. PyTorch limits its own threads here."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    # At its normal end the interpreter would stop the thread that sends batches while it is in C++ code, and abort.
    atexit.register(os._exit, 0)
