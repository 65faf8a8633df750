"""Teacher scores for distillation: each query's candidates, judged by a stronger model and perhaps BM25 besides.

A teacher is a function from B queries and their B lists of documents to B lists of scores. What is written has the
schema of the data set lightonai/ms-marco-en-bge-gemma:

    train.jsonl        {"query_id", "document_ids": [...], "scores": [...]}, the positive first
    queries.jsonl      {"query_id", "text"}
    documents.jsonl    {"document_id", "text"}
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch

from colbertz.errors import UserError, require
from colbertz.files import replaced_directory
from colbertz.maxsim import maxsim_candidates
from colbertz.models import ColBERT
from colbertz.models.tokenizer import Side
from colbertz.ragged import Ragged
from colbertz.text.bm25 import bm25_index
from colbertz.text.words import split_identifiers

Teacher = Callable[[Sequence[str], Sequence[Sequence[str]]], list[list[float]]]

# Pairs that a teacher gets at once: the embeddings of so many documents, 300 tokens of 128 numbers each, are 315 MB.
_PAIRS_AT_ONCE = 2048


@dataclass(frozen=True)
class CandidateList:
    """The documents of one query, the positive first."""

    query_id: str
    document_ids: list[str]


@dataclass(frozen=True)
class Candidates:
    """What a teacher is to score.

    Attributes:
        queries: text of each query by its id.
        documents: text of each document by its id; all of them count in the statistics of BM25.
        lists: of any lengths.
    """

    queries: dict[str, str]
    documents: dict[str, str]
    lists: list[CandidateList]


# -- teachers --------------------------------------------------------------------------------------------------------


class ColBERTTeacher:
    """MaxSim of a ColBERT model; counts the texts that were cut until `warn_truncated` reports them."""

    def __init__(self, model: ColBERT) -> None:
        self.model = model
        self._num_truncated: dict[Side, int] = {"query": 0, "document": 0}

    def __call__(self, queries: Sequence[str], documents: Sequence[Sequence[str]]) -> list[list[float]]:
        return maxsim_of_lists(self._encode(queries, "query"), documents, lambda texts: self._encode(texts, "document"))

    def warn_truncated(self) -> None:
        """Log one warning for queries and one for documents, if any were cut since the last call."""
        for side, num_truncated in self._num_truncated.items():
            self.model.warn_truncated(num_truncated, side)
            self._num_truncated[side] = 0

    def _encode(self, texts: Sequence[str], side: Side) -> Ragged:
        encoded = self.model.encode(texts, side, show_progress=False)
        self._num_truncated[side] += encoded.num_truncated
        return encoded.embeddings.to(self.model.device)


def colbert_teacher(model: ColBERT) -> Teacher:
    """MaxSim of a ColBERT model."""
    return ColBERTTeacher(model)


def bi_encoder_teacher(path_or_hub_id: str, device: str | None = None, dtype: torch.dtype | None = None) -> Teacher:
    """The similarity of a sentence-transformers model with one embedding a text, as its configuration defines it.

    Raises:
        MissingExtra: if sentence-transformers is not installed.
    """
    model = require("sentence_transformers", "teachers").SentenceTransformer(
        path_or_hub_id, device=device, model_kwargs={} if dtype is None else {"dtype": dtype}
    )

    def score(queries: Sequence[str], documents: Sequence[Sequence[str]]) -> list[list[float]]:
        texts, numbers = _numbered(documents)
        q = model.encode_query(list(queries), convert_to_tensor=True, show_progress_bar=False)
        d = model.encode_document(texts, convert_to_tensor=True, show_progress_bar=False)
        rows = torch.arange(len(queries)).repeat_interleave(numbers.lengths)
        scores = model.similarity_pairwise(q.float()[rows], d.float()[numbers.values]).cpu()
        return [part.tolist() for part in numbers.with_values(scores)]

    return score


def cross_encoder_teacher(path_or_hub_id: str, device: str | None = None, dtype: torch.dtype | None = None) -> Teacher:
    """The logit of a sentence-transformers model that reads query and document together.

    Not its sigmoid, which a checkpoint may apply too: it is flat where the scores of good documents lie.

    Raises:
        MissingExtra: if sentence-transformers is not installed.
        ValueError: if the model gives a pair more than one score.
    """
    model = require("sentence_transformers", "teachers").CrossEncoder(
        path_or_hub_id, device=device, model_kwargs={} if dtype is None else {"dtype": dtype}
    )
    if model.num_labels != 1:
        raise UserError(f"{path_or_hub_id} gives a pair {model.num_labels} scores; a teacher has to give one")

    def score(queries: Sequence[str], documents: Sequence[Sequence[str]]) -> list[list[float]]:
        pairs = [(query, text) for query, texts in zip(queries, documents) for text in texts]
        scores = model.predict(
            pairs, activation_fn=torch.nn.Identity(), convert_to_tensor=True, show_progress_bar=False
        )
        return [part.tolist() for part in Ragged.from_lengths(scores.float().cpu(), [len(t) for t in documents])]

    return score


def bm25_teacher(corpus: Iterable[str]) -> Teacher:
    """BM25 with identifiers split and words stemmed; documents have to be of the corpus.

    Raises:
        MissingExtra: if bm25s is not installed.
    """
    numbers = {text: number for number, text in enumerate(dict.fromkeys(corpus))}
    model = bm25_index(numbers, split_identifiers)

    def score(queries: Sequence[str], documents: Sequence[Sequence[str]]) -> list[list[float]]:
        return [
            # bm25s fails on a query of stop words only.
            model.get_scores(words)[[numbers[text] for text in texts]].tolist() if words else [0.0] * len(texts)
            for words, texts in zip(map(split_identifiers, queries), documents)
        ]

    return score


def maxsim_of_lists(
    queries: Ragged, documents: Sequence[Sequence[str]], encode: Callable[[list[str]], Ragged]
) -> list[list[float]]:
    """MaxSim of each query's embeddings with the documents of its own list; a text in several lists is encoded once.

    Args:
        queries: B texts of (num_tokens, E) embeddings.
        documents: B lists of texts.
        encode: texts to embeddings, on the queries' device.
    """
    texts, numbers = _numbered(documents)
    scores = maxsim_candidates(queries, encode(texts), numbers.to(queries.device))
    return [part.tolist() for part in scores]


def _numbered(documents: Sequence[Sequence[str]]) -> tuple[list[str], Ragged]:
    """The different texts, and the lists as lists of their numbers."""
    numbers = {text: number for number, text in enumerate(dict.fromkeys(chain.from_iterable(documents)))}
    values = torch.tensor([numbers[text] for text in chain.from_iterable(documents)], dtype=torch.int64)
    return list(numbers), Ragged.from_lengths(values, [len(texts) for texts in documents])


# -- scoring ---------------------------------------------------------------------------------------------------------


def score_lists(
    candidates: Candidates, teacher: Teacher, bm25: Teacher | None = None, bm25_weight: float = 0.0
) -> Iterator[tuple[CandidateList, list[float]]]:
    """Score all lists, a batch at a time.

    Args:
        candidates: what to score.
        teacher: its scores are given as they are, unless there is a second one.
        bm25: fused with the first by `fuse`.
        bm25_weight: weight of the second.

    Raises:
        ValueError: for a score that is NaN or infinite, naming query and document.
    """
    try:
        for batch in _batches(candidates.lists):
            queries = [candidates.queries[one.query_id] for one in batch]
            documents = [[candidates.documents[id] for id in one.document_ids] for one in batch]
            scores = teacher(queries, documents)
            for one, row in zip(batch, scores):
                for id, score in zip(one.document_ids, row):
                    if not math.isfinite(score):
                        raise UserError(
                            f"the teacher gives document {id!r} for query {one.query_id!r} the score {score}; "
                            "look for NaN weights in it, or try --dtype float32"
                        )
            if bm25 is not None:
                scores = [fuse(row, other, bm25_weight) for row, other in zip(scores, bm25(queries, documents))]
            yield from zip(batch, scores)
    finally:
        if isinstance(teacher, ColBERTTeacher):
            teacher.warn_truncated()


def fuse(scores: Sequence[float], bm25: Sequence[float], weight: float) -> list[float]:
    """(1 − weight) · scores + weight · bm25, after each of the two is stretched to [0, 1] over the list.

    Min-max rather than z-scores, because that is what training does to the student's scores. Where all scores are the
    same they say nothing, and become 0.
    """
    return [(1 - weight) * a + weight * b for a, b in zip(_stretched(scores), _stretched(bm25))]


def _stretched(scores: Sequence[float]) -> list[float]:
    low, high = min(scores), max(scores)
    return [(score - low) / (high - low) if high > low else 0.0 for score in scores]


def _batches(lists: Sequence[CandidateList]) -> Iterator[list[CandidateList]]:
    """At most _PAIRS_AT_ONCE documents together; a longer list is alone."""
    batch: list[CandidateList] = []
    size = 0
    for one in lists:
        if batch and size + len(one.document_ids) > _PAIRS_AT_ONCE:
            yield batch
            batch, size = [], 0
        batch.append(one)
        size += len(one.document_ids)
    if batch:
        yield batch


def write_scores(
    directory: str | Path, candidates: Candidates, scored: Iterable[tuple[CandidateList, list[float]]]
) -> None:
    """Write the three files; the directory is there, or replaced, only when all of them are complete."""
    with replaced_directory(Path(directory)) as out:
        with (out / "train.jsonl").open("w", encoding="utf-8") as file:
            for one, scores in scored:
                row = {"query_id": one.query_id, "document_ids": one.document_ids, "scores": scores}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        query_ids = dict.fromkeys(one.query_id for one in candidates.lists)
        document_ids = dict.fromkeys(chain.from_iterable(one.document_ids for one in candidates.lists))
        _write_texts(out / "queries.jsonl", "query_id", query_ids, candidates.queries)
        _write_texts(out / "documents.jsonl", "document_id", document_ids, candidates.documents)


def _write_texts(path: Path, key: str, ids: Iterable[str], texts: dict[str, str]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({key: id, "text": texts[id]}, ensure_ascii=False) + "\n" for id in ids)
