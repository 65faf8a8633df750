"""Losses as functions of scores and of what is known about the documents.

They know nothing of models, texts or configurations. All are means over queries, so the loss of a batch can be computed
in parts, one after the other.

Legend: B queries, A documents of the batch (those of all processes), S query tokens, T document tokens, P pairs of a
query and one of its candidates, E embedding dim.
"""

from types import NoneType

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from colbertz.errors import UserError, check_integer, check_number, check_type
from colbertz.ragged import Ragged
from colbertz.training import distributed

# Similarities of query tokens with document tokens that `xtr` holds at once: 64 MB in float32.
_XTR_BLOCK_SIZE = 1 << 24
# PyLate's term in the denominator when scores are stretched to [0, 1].
_NORMALIZE_EPSILON = 1e-8
# Smallest range of a list's scores that is stretched to [0, 1], as a share of the largest score (of 1, if all are
# smaller). Rounding in bfloat16 changes MaxSim by about a thousandth; a smaller range says nothing about the documents.
_MIN_RANGE = 1e-3
# Smallest length of the leading dimensions of a token that are brought to unit length; shorter ones stay shorter.
_MIN_NORM = 1e-3


def contrastive(
    scores: Tensor,
    positives: Tensor,
    temperature: float | Tensor,
    *,
    dropped: Tensor | None = None,
    symmetric: bool = False,
) -> Tensor:
    """InfoNCE (van den Oord et al. 2018, arXiv 1807.03748, equation 4) with in-batch and hard negatives.

    Args:
        scores: (B, A) scores of every query with every document.
        positives: (B,) int64, the column of each query's positive document; all other columns are its negatives.
        temperature: scores are divided by it.
        dropped: (B, A) bool, documents that do not count for a query; None for none.
        symmetric: return the mean with the loss of the other direction, in which each positive document has to find
            its query among those of all processes (Radford et al. 2021, CLIP, figure 3).

    Returns:
        The mean over the queries of -log softmax(scores / temperature)[positive], a float32 scalar.
    """
    _check_scores(scores, positives)
    if not isinstance(temperature, Tensor):
        _check_temperature("temperature", temperature)
    check_type("dropped", dropped, (Tensor, NoneType), "a tensor or None")
    check_type("symmetric", symmetric, bool, "True or False")
    logits = scores.float() / temperature
    if dropped is not None:
        logits = logits.masked_fill(dropped, -torch.inf)
    loss = F.cross_entropy(logits, positives)
    if not symmetric:
        return loss
    # A column holds the queries of this process only; the softmax needs those of all processes.
    columns = distributed.gather_rows(logits.logsumexp(0)[None]).logsumexp(0)
    positive_logits = logits.gather(1, positives[:, None])[:, 0]
    return (loss + (columns[positives] - positive_logits).mean()) / 2


def false_negatives(
    scores: Tensor, positives: Tensor, keys: Tensor | None = None, margin: float | None = None
) -> Tensor:
    """Which documents do not count as negatives of a query.

    Args:
        scores: (B, A) scores of every query with every document.
        positives: (B,) int64, the column of each query's positive document, which is never dropped.
        keys: (A, 2) int64; documents that share a key with a query's positive, in the same column, are duplicates of
            it. None to not look for duplicates.
        margin: documents that score higher than the query's positive by more than this are taken for right answers too
            (as in NV-Retriever, Moreira et al. 2024, arXiv 2407.15831, but absolute). None to not look for them.

    Returns:
        (B, A) bool.
    """
    _check_scores(scores, positives)
    check_type("keys", keys, (Tensor, NoneType), "a tensor or None")
    if margin is not None:
        check_number("margin", margin)
    dropped = torch.zeros_like(scores, dtype=torch.bool)
    if keys is not None:
        for column in keys.unbind(1):
            dropped |= column[positives][:, None] == column
    if margin is not None:
        dropped |= scores.detach() > scores.detach().gather(1, positives[:, None]) + margin
    return dropped.scatter_(1, positives[:, None], False)


def distillation(
    student: Ragged,
    teacher: Ragged,
    *,
    normalize: bool = True,
    student_temperature: float = 1.0,
    teacher_temperature: float = 1.0,
) -> Tensor:
    """Kullback-Leibler divergence of the student's distribution over a query's documents from the teacher's.

    With `normalize` and temperatures of 1 this is PyLate's loss; without `normalize` and with temperatures it is that
    of sentence-transformers (Hinton et al. 2015, arXiv 1503.02531, section 2).

    Args:
        student: B lists of scores, values (P,); lists may differ in length.
        teacher: the teacher's scores of the same documents.
        normalize: stretch the student's scores of each list to [0, 1] first, see `stretched`.
        student_temperature, teacher_temperature: scores are divided by them before the softmax; the loss is multiplied
            by the square of the student's, so that the size of its gradient does not depend on it.

    Returns:
        The mean over the queries, a float32 scalar.
    """
    _check_lists(student, teacher)
    check_type("normalize", normalize, bool, "True or False")
    _check_temperature("student_temperature", student_temperature)
    _check_temperature("teacher_temperature", teacher_temperature)
    student_scores, real = student.padded()
    teacher_scores = teacher.padded()[0]
    if normalize:
        student_scores = stretched(student_scores, real)
    student_logits = (student_scores / student_temperature).masked_fill(~real, -torch.inf)
    teacher_logits = (teacher_scores / teacher_temperature).masked_fill(~real, -torch.inf)
    student_log_probs = F.log_softmax(student_logits, dim=1)
    teacher_log_probs = F.log_softmax(teacher_logits, dim=1)
    gaps = torch.where(real, teacher_log_probs - student_log_probs, 0.0)
    return (teacher_log_probs.exp() * gaps).sum(1).mean() * student_temperature**2


def stretched(scores: Tensor, real: Tensor) -> Tensor:
    """Scores with 0 for the lowest and 1 for the highest of each list, as PyLate computes them.

    A list of nearly equal scores differs: where high − low is less than `_MIN_RANGE` of the largest score, its scores
    are multiplied by (high − low) / smallest range² instead of 1 / (high − low). The two factors are equal at the
    smallest range. Below it the factor falls to 0 with the range, and the gradient too. With 1 / (high − low) the
    gradient would grow without bound, and for equal scores it would be rounding errors multiplied by 10⁸.

    Args:
        scores: (B, longest list), filled up with 0.
        real: (B, longest list) bool, false where it is filled up.

    Returns:
        (B, longest list), of any value where it is filled up. Differentiable.
    """
    low = scores.masked_fill(~real, torch.inf).amin(1, keepdim=True)
    high = scores.masked_fill(~real, -torch.inf).amax(1, keepdim=True)
    smallest = _MIN_RANGE * scores.detach().abs().amax(1, keepdim=True).clamp(min=1)
    plain = (scores - low) / (high - low + _NORMALIZE_EPSILON)
    bounded = (scores - low) * (high - low) / smallest.square()
    return torch.where(high - low >= smallest, plain, bounded)


def margin_mse(student: Ragged, teacher: Ragged) -> Tensor:
    """Squared error of the margins between the first document of a list and each other document.

    (Hofstätter et al. 2020, arXiv 2010.02666, equation 2.)

    Args:
        student: B lists of scores, values (P,); a list of one document has no margins, and a loss of 0.
        teacher: the teacher's scores of the same documents.

    Returns:
        The mean over the queries of the mean over their other documents, a float32 scalar.
    """
    _check_lists(student, teacher)
    student_scores, real = student.padded()
    teacher_scores = teacher.padded()[0]
    student_margins = student_scores[:, :1] - student_scores[:, 1:]
    teacher_margins = teacher_scores[:, :1] - teacher_scores[:, 1:]
    errors = student_margins - teacher_margins
    others = real[:, 1:]
    return ((errors.square() * others).sum(1) / others.sum(1).clamp(min=1)).mean()


def xtr(queries: Ragged, documents: Ragged, k: int, block_size: int = _XTR_BLOCK_SIZE) -> Tensor:
    """Scores of XTR (Lee et al. 2023, arXiv 2304.01982, section 3 and equation 5).

    Each query token retrieves the `k` most similar of all tokens of all documents. A document's score is the sum over
    the query tokens of the best similarity that was retrieved from it, divided by the number of query tokens that
    retrieved something from it.

    Args:
        queries: B texts of embeddings (S, E).
        documents: A texts of embeddings (T, E).
        k: number of tokens that each query token retrieves; all, if there are fewer.
        block_size: number of token similarities that are held at once.

    Returns:
        (B, A) float32; 0 for documents from which nothing was retrieved. Differentiable.
    """
    for name, texts in (("queries", queries), ("documents", documents)):
        check_type(name, texts, Ragged, "a Ragged")
    check_integer("k", k, 1)
    check_integer("block_size", block_size, 1)
    document_of_token = torch.arange(len(documents), device=documents.device).repeat_interleave(documents.lengths)
    tokens = documents.values.float()
    k = min(k, len(tokens))

    def score(block: Ragged, values: Tensor, tokens: Tensor) -> Tensor:
        nearest = (values.float() @ tokens.T).topk(k, dim=1)
        best = values.new_full((len(values), len(documents)), -torch.inf, dtype=torch.float32)
        best = best.scatter_reduce(1, document_of_token[nearest.indices], nearest.values, "amax")
        retrieved = best.isfinite()
        query_of_token = torch.arange(len(block), device=values.device).repeat_interleave(block.lengths)
        zeros = best.new_zeros(len(block), len(documents))
        sums = zeros.index_add(0, query_of_token, best.masked_fill(~retrieved, 0))
        return sums / zeros.index_add(0, query_of_token, retrieved.float()).clamp(min=1)

    # The token similarities are computed again in the backward pass, one block of queries at a time.
    with torch.autocast(queries.device.type, enabled=False):
        blocks = queries.split(max(1, block_size // max(1, len(tokens))))
        scores = [checkpoint(score, block, block.values, tokens, use_reentrant=False) for block in blocks]
    return torch.cat(scores)


def truncated(texts: Ragged, dim: int) -> Ragged:
    """The first `dim` dimensions of embeddings at unit length (Kusupati et al. 2022, arXiv 2205.13147).

    Where these dimensions are shorter than `_MIN_NORM`, they are divided by `_MIN_NORM`: the gradient is bounded, also
    for zeros.
    """
    check_type("texts", texts, Ragged, "a Ragged")
    check_integer("dim", dim, 1)
    if dim > texts.values.shape[1]:
        raise UserError(f"dim must be at most {texts.values.shape[1]}, that of the embeddings, got {dim}")
    return texts.map(lambda values: F.normalize(values[:, :dim], dim=-1, eps=_MIN_NORM))


def accuracy(scores: Tensor, best: Tensor) -> Tensor:
    """Share of the queries that rank a right document first.

    Where several documents have the highest score, it is the chance of a right one when one of them is drawn. So a
    model that gives all documents the same score has the accuracy of chance.

    Args:
        scores: (B, A) scores of every query with every document.
        best: (B, A) bool, the right documents of each query.

    Returns:
        The mean over the queries, a float32 scalar without gradient.
    """
    for name, tensor in (("scores", scores), ("best", best)):
        check_type(name, tensor, Tensor, "a tensor")
    scores = scores.detach()
    first = scores == scores.amax(1, keepdim=True)
    return ((first & best).sum(1) / first.sum(1)).mean()


def _check_scores(scores: object, positives: object) -> None:
    for name, tensor in (("scores", scores), ("positives", positives)):
        check_type(name, tensor, Tensor, "a tensor")


def _check_lists(student: Ragged, teacher: Ragged) -> None:
    for name, scores in (("student", student), ("teacher", teacher)):
        check_type(name, scores, Ragged, "a Ragged")
    if len(student) != len(teacher) or len(student.values) != len(teacher.values):
        raise UserError(f"student and teacher must be scores of the same documents, got {student} and {teacher}")


def _check_temperature(name: str, value: object) -> None:
    check_number(name, value, 0)
    if value == 0:
        raise UserError(f"{name} must be above 0, got 0")
