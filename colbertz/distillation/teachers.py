"""Teachers for distillation: stronger models, and BM25, that score the candidates of each query.

A teacher is a function from B queries and their B lists of documents to B lists of scores.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from types import NoneType
from typing import Any, Literal, get_args

import torch

from colbertz.distillation.lists import CandidateList, Candidates
from colbertz.errors import UserError, check_integer, check_list, check_number, check_show_progress, check_type, require
from colbertz.maxsim import maxsim_candidates
from colbertz.models import ColBERT
from colbertz.models.checks import check_loading
from colbertz.models.dtypes import DType
from colbertz.models.tokenizer import Side
from colbertz.progress import progress
from colbertz.ragged import Ragged
from colbertz.text.bm25 import bm25_index
from colbertz.text.words import split_identifiers

Teacher = Callable[[Sequence[str], Sequence[Sequence[str]]], list[list[float]]]
Kind = Literal["colbert", "bi-encoder", "cross-encoder"]

# Pairs that a teacher scores at once: the embeddings of 2048 documents, 300 tokens of 128 float32 each, are 315 MB.
_PAIRS_AT_ONCE = 2048
# Smallest range of a list's scores that is stretched to [0, 1], as a share of the largest: a teacher in bfloat16 rounds
# by about as much. `colbertz.training.losses` does the same to a student's scores.
_MIN_RANGE = 1e-3

# -- teachers --------------------------------------------------------------------------------------------------------


def load_teacher(kind: Kind, path_or_hub_id: str, device: str | None = None, dtype: DType = None) -> Teacher:
    """Load a model as a teacher.

    Args:
        kind: how the model scores; sentence-transformers runs all but "colbert".
        path_or_hub_id: checkpoint directory or Hugging Face hub id.
        device: None for CUDA where there is one.
        dtype: of the weights; None for the model's own choice, which is float32 for a ColBERT; "auto" as for
            `ColBERT.from_pretrained`, or for the others the type of the checkpoint.

    Raises:
        MissingExtra: if sentence-transformers is needed and not installed.
        UserError, FileNotFoundError: if the model cannot be loaded.
    """
    if kind not in get_args(Kind):
        raise UserError(f"kind must be {' or '.join(get_args(Kind))}, got {kind!r}")
    check_loading(path_or_hub_id, device, dtype, None, 0)
    if kind == "colbert":
        return ColBERTTeacher(ColBERT.from_pretrained(path_or_hub_id, device, dtype))
    make = bi_encoder_teacher if kind == "bi-encoder" else cross_encoder_teacher
    return make(path_or_hub_id, device, dtype)


class ColBERTTeacher:
    """MaxSim of a ColBERT model. It counts the texts that are cut, until `warn_truncated` reports them."""

    def __init__(self, model: ColBERT) -> None:
        self.model = model
        self._num_truncated: dict[Side, int] = {"query": 0, "document": 0}

    def __call__(self, queries: Sequence[str], documents: Sequence[Sequence[str]]) -> list[list[float]]:
        texts, text_indices = _distinct(documents)  # a document of several lists is encoded once
        scores = maxsim_candidates(
            self._encode(queries, "query"), self._encode(texts, "document"), text_indices.to(self.model.device)
        )
        return [part.tolist() for part in scores]

    def warn_truncated(self) -> None:
        """Log one warning for queries and one for documents, if any were cut since the last call."""
        for side, num_truncated in self._num_truncated.items():
            self.model.warn_truncated(num_truncated, side)
            self._num_truncated[side] = 0

    def _encode(self, texts: Sequence[str], side: Side) -> Ragged:
        encoded = self.model.encode(texts, side, show_progress=False)
        self._num_truncated[side] += encoded.num_truncated
        return encoded.embeddings.to(self.model.device)


def bi_encoder_teacher(path_or_hub_id: str, device: str | None = None, dtype: DType = None) -> Teacher:
    """The similarity of a sentence-transformers model with one embedding a text, as its configuration defines it.

    Raises:
        MissingExtra: if sentence-transformers is not installed.
    """
    model = _sentence_transformer("SentenceTransformer", path_or_hub_id, device, dtype)

    def score(queries: Sequence[str], documents: Sequence[Sequence[str]]) -> list[list[float]]:
        texts, text_indices = _distinct(documents)
        q = model.encode_query(list(queries), convert_to_tensor=True, show_progress_bar=False)
        d = model.encode_document(texts, convert_to_tensor=True, show_progress_bar=False)
        query_indices = torch.arange(len(queries)).repeat_interleave(text_indices.lengths)
        scores = model.similarity_pairwise(q.float()[query_indices], d.float()[text_indices.values]).cpu()
        return [part.tolist() for part in text_indices.with_values(scores)]

    return score


def cross_encoder_teacher(path_or_hub_id: str, device: str | None = None, dtype: DType = None) -> Teacher:
    """The logit of a sentence-transformers model that reads query and document together.

    The logit and not its sigmoid, which a checkpoint may apply too: the sigmoid is nearly the same for all good
    documents.

    Raises:
        MissingExtra: if sentence-transformers is not installed.
        UserError: if the model gives a pair more than one score.
    """
    model = _sentence_transformer("CrossEncoder", path_or_hub_id, device, dtype)
    if model.num_labels != 1:
        raise UserError(f"{path_or_hub_id} gives a pair {model.num_labels} scores; a teacher has to give one")

    def score(queries: Sequence[str], documents: Sequence[Sequence[str]]) -> list[list[float]]:
        pairs = [(query, text) for query, texts in zip(queries, documents) for text in texts]
        scores = model.predict(
            pairs, activation_fn=torch.nn.Identity(), convert_to_tensor=True, show_progress_bar=False
        )
        return [part.tolist() for part in Ragged.from_lengths(scores.float().cpu(), [len(t) for t in documents])]

    return score


def _sentence_transformer(kind: str, path_or_hub_id: str, device: str | None, dtype: DType) -> Any:
    """Load a model of the class `kind` of sentence-transformers.

    Raises:
        MissingExtra: if sentence-transformers is not installed.
        UserError: if it refuses the model or the device.
    """
    model_class = getattr(require("sentence_transformers", "teachers"), kind)
    try:
        return model_class(path_or_hub_id, device=device, model_kwargs={} if dtype is None else {"dtype": dtype})
    except (ValueError, RuntimeError) as error:
        where = "" if device is None else f" on {device}"
        raise UserError(f"sentence-transformers cannot load {path_or_hub_id}{where}: {error}") from error


def bm25_teacher(corpus: Iterable[str]) -> Teacher:
    """BM25 with identifiers split and words stemmed; it scores only documents of this corpus.

    Raises:
        MissingExtra: if bm25s is not installed.
    """
    if isinstance(corpus, str) or not isinstance(corpus, Iterable):
        raise TypeError(f"corpus must be a list or another iterable of texts, got {corpus!r:.80}")
    text_indices = {text: i for i, text in enumerate(dict.fromkeys(corpus))}
    for text in text_indices:
        check_type("each text of corpus", text, str, "a string")
    model = bm25_index(text_indices, split_identifiers)

    def score(queries: Sequence[str], documents: Sequence[Sequence[str]]) -> list[list[float]]:
        return [
            # bm25s fails on a query of stop words only.
            model.get_scores(words)[[text_indices[text] for text in texts]].tolist() if words else [0.0] * len(texts)
            for words, texts in zip(map(split_identifiers, queries), documents)
        ]

    return score


def _distinct(documents: Sequence[Sequence[str]]) -> tuple[list[str], Ragged]:
    """The different texts, and for each list the indices of its texts among them, int64."""
    text_indices = {text: i for i, text in enumerate(dict.fromkeys(chain.from_iterable(documents)))}
    values = torch.tensor([text_indices[text] for text in chain.from_iterable(documents)], dtype=torch.int64)
    return list(text_indices), Ragged.from_lengths(values, [len(texts) for texts in documents])


# -- scoring ---------------------------------------------------------------------------------------------------------


def score_lists(
    candidates: Candidates,
    teacher: Teacher,
    bm25: Teacher | None = None,
    bm25_weight: float = 0.0,
    *,
    pairs_at_once: int = _PAIRS_AT_ONCE,
    show_progress: bool | None = None,
) -> Iterator[tuple[CandidateList, list[float]]]:
    """Score all candidate lists, one batch of lists at a time.

    Args:
        candidates: what to score.
        teacher: its scores are yielded as they are, unless `bm25` is given.
        bm25: a second teacher, whose scores are mixed with the first's by `fuse`.
        bm25_weight: weight of the second teacher, from 0 to 1.
        pairs_at_once: documents that the teacher scores together; a longer list is a batch of its own.
        show_progress: as for `colbertz.progress.progress`.

    Raises:
        UserError: for a score that is NaN or infinite, naming query and document.
    """
    check_type("candidates", candidates, Candidates, "Candidates")
    check_type("teacher", teacher, Callable, "a function")
    check_type("bm25", bm25, (Callable, NoneType), "a function or None")
    check_number("bm25_weight", bm25_weight, 0, 1)
    check_integer("pairs_at_once", pairs_at_once, 1)
    check_show_progress(show_progress)
    try:
        with progress("scoring", candidates.num_pairs, "pairs", show_progress) as bar:
            for batch in _batches(candidates.lists, pairs_at_once):
                queries = [candidates.queries[candidate_list.query_id] for candidate_list in batch]
                documents = [[candidates.documents[document_id] for document_id in item.document_ids] for item in batch]
                scores = teacher(queries, documents)
                for candidate_list, row in zip(batch, scores):
                    _require_finite(candidate_list, row)
                if bm25 is not None:
                    bm25_scores = bm25(queries, documents)
                    scores = [fuse(row, bm25_row, bm25_weight) for row, bm25_row in zip(scores, bm25_scores)]
                yield from zip(batch, scores)
                bar.update(sum(map(len, scores)))
    finally:
        if isinstance(teacher, ColBERTTeacher):
            teacher.warn_truncated()


def _require_finite(candidate_list: CandidateList, scores: Sequence[float]) -> None:
    for document_id, score in zip(candidate_list.document_ids, scores):
        if not math.isfinite(score):
            raise UserError(
                f"the teacher gives document {document_id!r} for query {candidate_list.query_id!r} the score {score}; "
                "look for NaN weights in it, or try --dtype float32"
            )


def fuse(scores: Sequence[float], bm25_scores: Sequence[float], weight: float) -> list[float]:
    """(1 − weight) · scores + weight · bm25_scores, after each of the two is stretched to [0, 1] over the list.

    Min-max and not z-scores, because training stretches the student's scores in the same way. Scores that are all the
    same say nothing, and become 0; those that are nearly the same become nearly 0.
    """
    check_list("scores", scores)
    check_list("bm25_scores", bm25_scores)
    check_number("weight", weight, 0, 1)
    if len(scores) != len(bm25_scores):
        raise UserError(f"scores and bm25_scores must be as many, got {len(scores)} and {len(bm25_scores)}")
    pairs = zip(_stretched(scores), _stretched(bm25_scores))
    return [(1 - weight) * score + weight * bm25_score for score, bm25_score in pairs]


def _stretched(scores: Sequence[float]) -> list[float]:
    low, high = min(scores), max(scores)
    smallest = _MIN_RANGE * max(abs(low), abs(high))
    if high - low < smallest:
        return [(score - low) * (high - low) / smallest**2 for score in scores]
    return [(score - low) / (high - low) if high > low else 0.0 for score in scores]


def _batches(lists: Sequence[CandidateList], pairs_at_once: int) -> Iterator[list[CandidateList]]:
    """Batches of at most `pairs_at_once` documents; a longer list is a batch of its own."""
    batch: list[CandidateList] = []
    num_pairs = 0
    for candidate_list in lists:
        if batch and num_pairs + len(candidate_list.document_ids) > pairs_at_once:
            yield batch
            batch, num_pairs = [], 0
        batch.append(candidate_list)
        num_pairs += len(candidate_list.document_ids)
    if batch:
        yield batch
