"""Losses: functions of embeddings and of what is known about them, which know nothing of models or texts.

`Objective` is the loss that a configuration asks for; the functions under it take scores and can be used alone. All are
means over queries, so that parts of a batch can be gone through one after the other.

Legend: B queries, A documents of the batch (those of all processes), S query tokens, T document tokens, P pairs of a
query and one of its own documents, E embedding dim.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from colbertz.maxsim import maxsim, maxsim_candidates
from colbertz.ragged import Ragged
from colbertz.training import distributed
from colbertz.training.config import LossConfig

# Scores of tokens with tokens that `xtr` holds at a time.
_XTR_BLOCK = 1 << 24


@dataclass(frozen=True)
class Labels:
    """What is known about the documents of a batch.

    Attributes:
        candidates: for each of B queries the numbers of its own documents among the A of the batch, values (P,) int64:
            the one that answers it first, then its hard negatives; or the documents that a teacher scored.
        teacher: (P,) float32, the teacher's scores in the places of the candidates; None without a teacher.
        keys: (A, 2) int64, hashes of each document's text and id, equal where these are; None to tell none apart.
    """

    candidates: Ragged
    teacher: Tensor | None = None
    keys: Tensor | None = None

    @property
    def positives(self) -> Tensor:
        """(B,) the number of the document that answers each query."""
        return self.candidates.values[self.candidates.offsets[:-1]]

    def __len__(self) -> int:
        return len(self.candidates)

    def __getitem__(self, queries: slice) -> "Labels":
        """Those of some of the queries; documents keep their numbers."""
        teacher = None if self.teacher is None else self.candidates.with_values(self.teacher)[queries].values
        return Labels(self.candidates[queries], teacher, self.keys)


class Objective(nn.Module):
    """The loss of a batch of embeddings as a configuration describes it.

    Attributes:
        config: the description.
        log_temperature: a parameter; it needs a gradient if the temperature is to be learned.
    """

    def __init__(self, config: LossConfig) -> None:
        super().__init__()
        self.config = config
        start = torch.tensor(config.temperature, dtype=torch.float32).log()
        self.log_temperature = nn.Parameter(start, requires_grad=config.learn_temperature)

    @property
    def temperature(self) -> Tensor:
        return self.log_temperature.exp()

    @torch.no_grad()
    def clamp(self) -> None:
        """Bring a learned temperature back between its bounds; to be called after each step."""
        bounds = torch.tensor([self.config.min_temperature, self.config.max_temperature]).log().tolist()
        self.log_temperature.clamp_(*bounds)

    def forward(self, queries: Ragged, documents: Ragged, labels: Labels) -> tuple[Tensor, Tensor]:
        """The loss, and the share of queries whose best document by our scores is the best there is.

        Args:
            queries: (S, E) embeddings of each of this process's B queries.
            documents: (T, E) embeddings of the A documents of all processes; if the loss `needs_whole_batch` is false,
                those of this process.
            labels: which document is whose.

        Returns:
            Two float32 scalars, means over the queries; the second without gradient. For the contrastive loss the best
            document is the query's own among all of the batch, else the teacher's favourite among the query's own.
        """
        loss, accuracy = self._loss(queries, documents, labels)
        dims = self.config.matryoshka_dims
        for dim, weight in zip(dims, self.config.matryoshka_weights or [1.0] * len(dims)):
            loss = loss + weight * self._loss(truncated(queries, dim), truncated(documents, dim), labels)[0]
        return loss, accuracy

    def _loss(self, queries: Ragged, documents: Ragged, labels: Labels) -> tuple[Tensor, Tensor]:
        config = self.config
        if config.needs_whole_batch:
            scores = xtr(queries, documents, config.xtr_k) if config.score == "xtr" else maxsim(queries, documents)
            rows = torch.arange(len(queries), device=scores.device).repeat_interleave(labels.candidates.lengths)
            own = labels.candidates.with_values(scores[rows, labels.candidates.values])
        else:
            own = maxsim_candidates(queries, documents, labels.candidates)

        loss = own.values.new_zeros(())
        if config.kind == "contrastive" or config.contrastive_weight:
            keys = labels.keys if config.mask_duplicates else None
            dropped = false_negatives(scores, labels.positives, keys, config.false_negative_margin)
            loss = contrastive(scores, labels.positives, self.temperature, dropped=dropped, symmetric=config.symmetric)
        if config.kind == "contrastive":
            return loss, accuracy(scores.masked_fill(dropped, -torch.inf), labels.positives)

        assert labels.teacher is not None
        teacher = labels.candidates.with_values(labels.teacher)
        if config.kind == "distillation":
            distilled = distillation(
                own,
                teacher,
                normalize=config.normalize_student,
                student_temperature=config.student_temperature,
                teacher_temperature=config.teacher_temperature,
            )
        else:
            distilled = margin_mse(own, teacher)
        if config.contrastive_weight:
            distilled = distilled + config.contrastive_weight * loss
        return distilled, accuracy(_padded(own), _padded(teacher).argmax(1))


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
        scores: (B, A) of every query with every document.
        positives: (B,) int64, the column of each query's own document; all other columns are its negatives.
        temperature: scores are divided by it.
        dropped: (B, A) bool, documents that do not count for a query; None for none.
        symmetric: take the mean with the loss of the other direction, in which each query's own document looks for its
            query among those of all processes (Radford et al. 2021, CLIP, figure 3).

    Returns:
        The mean over the queries of -log softmax(scores / temperature)[positive], a float32 scalar.
    """
    logits = scores.float() / temperature
    if dropped is not None:
        logits = logits.masked_fill(dropped, -torch.inf)
    loss = F.cross_entropy(logits, positives)
    if not symmetric:
        return loss
    # A column holds the queries of this process; together with those of the others it is complete.
    columns = distributed.gather_rows(logits.logsumexp(0)[None]).logsumexp(0)
    own = logits.gather(1, positives[:, None])[:, 0]
    return (loss + (columns[positives] - own).mean()) / 2


def false_negatives(
    scores: Tensor, positives: Tensor, keys: Tensor | None = None, margin: float | None = None
) -> Tensor:
    """Which documents are not to count as negatives of a query.

    Args:
        scores: (B, A) of every query with every document.
        positives: (B,) int64, the column of each query's own document, which is never among them.
        keys: (A, 2) int64; documents that share a key with a query's own one, in the same column, are the same.
            None for not looking.
        margin: documents that score higher than the query's own one by more than this are taken for right answers too
            (as in NV-Retriever, Moreira et al. 2024, arXiv 2407.15831, but absolute). None for not looking.

    Returns:
        (B, A) bool.
    """
    found = torch.zeros_like(scores, dtype=torch.bool)
    if keys is not None:
        for column in keys.unbind(1):
            found |= column[positives][:, None] == column
    if margin is not None:
        found |= scores.detach() > scores.detach().gather(1, positives[:, None]) + margin
    return found.scatter_(1, positives[:, None], False)


def distillation(
    student: Ragged,
    teacher: Ragged,
    *,
    normalize: bool = True,
    student_temperature: float = 1.0,
    teacher_temperature: float = 1.0,
) -> Tensor:
    """Kullback-Leibler divergence of the student's distribution over a query's documents from the teacher's.

    With `normalize` and temperatures of 1 this is PyLate's loss; without and with temperatures that of
    sentence-transformers (Hinton et al. 2015, arXiv 1503.02531, section 2).

    Args:
        student: B lists of scores, values (P,); lists may differ in length.
        teacher: the same lists by the teacher.
        normalize: stretch the student's scores of each list to [0, 1] first.
        student_temperature, teacher_temperature: scores are divided by them before the softmax; the loss is multiplied
            by the square of the student's, which keeps its gradient's size.

    Returns:
        The mean over the queries, a float32 scalar.
    """
    ours, real = student.padded()
    theirs = teacher.padded()[0]
    if normalize:
        low = ours.masked_fill(~real, torch.inf).amin(1, keepdim=True)
        high = ours.masked_fill(~real, -torch.inf).amax(1, keepdim=True)
        # PyLate's epsilon, against lists whose scores are all the same.
        ours = (ours - low) / (high - low + 1e-8)
    ours = F.log_softmax((ours / student_temperature).masked_fill(~real, -torch.inf), dim=1)
    theirs = F.log_softmax((theirs / teacher_temperature).masked_fill(~real, -torch.inf), dim=1)
    gaps = torch.where(real, theirs - ours, 0.0)
    return (theirs.exp() * gaps).sum(1).mean() * student_temperature**2


def margin_mse(student: Ragged, teacher: Ragged) -> Tensor:
    """Squared error of the margins between the first document of a list and each other one.

    (Hofstätter et al. 2020, arXiv 2010.02666, equation 2.)

    Args:
        student: B lists of scores, values (P,), of two or more each.
        teacher: the same lists by the teacher.

    Returns:
        The mean over the queries of the mean over their other documents, a float32 scalar.
    """
    ours, real = student.padded()
    theirs = teacher.padded()[0]
    errors = (ours[:, :1] - ours[:, 1:]) - (theirs[:, :1] - theirs[:, 1:])
    others = real[:, 1:]
    return ((errors.square() * others).sum(1) / others.sum(1)).mean()


def xtr(queries: Ragged, documents: Ragged, k: int) -> Tensor:
    """Scores of XTR (Lee et al. 2023, arXiv 2304.01982, section 3 and equation 5).

    Each query token retrieves the `k` most similar of all tokens of all documents. A document's score is the sum of
    each query token's best retrieved similarity to it, over the number of query tokens that retrieved something of it.

    Args:
        queries: B texts of embeddings (S, E).
        documents: A texts of embeddings (T, E).
        k: tokens that each query token retrieves; all, if there are fewer.

    Returns:
        (B, A) float32; 0 for documents of which nothing was retrieved. Differentiable.
    """
    owner = torch.arange(len(documents), device=documents.device).repeat_interleave(documents.lengths)
    tokens = documents.values.float()
    k = min(k, len(tokens))

    def score(part: Ragged, values: Tensor, tokens: Tensor) -> Tensor:
        found = (values.float() @ tokens.T).topk(k, dim=1)
        best = values.new_full((len(values), len(documents)), -torch.inf, dtype=torch.float32)
        best = best.scatter_reduce(1, owner[found.indices], found.values, "amax")
        retrieved = best.isfinite()
        query = torch.arange(len(part), device=values.device).repeat_interleave(part.lengths)
        zeros = best.new_zeros(len(part), len(documents))
        sums = zeros.index_add(0, query, best.masked_fill(~retrieved, 0))
        return sums / zeros.index_add(0, query, retrieved.float()).clamp(min=1)

    # The scores of tokens with tokens are made anew in the backward pass, a block of queries at a time.
    with torch.autocast(queries.device.type, enabled=False):
        parts = queries.split(max(1, _XTR_BLOCK // max(1, len(tokens))))
        blocks = [checkpoint(score, part, part.values, tokens, use_reentrant=False) for part in parts]
    return torch.cat(blocks)


def truncated(texts: Ragged, dim: int) -> Ragged:
    """The first `dim` dimensions of embeddings at unit length (Kusupati et al. 2022, arXiv 2205.13147)."""
    return texts.map(lambda values: F.normalize(values[:, :dim], dim=-1))


def accuracy(scores: Tensor, best: Tensor) -> Tensor:
    """Share of the rows of `scores` (B, A) with the highest score in column `best` (B,): a float32 scalar."""
    return (scores.detach().argmax(1) == best).to(torch.float32).mean()


def _padded(lists: Ragged) -> Tensor:
    return lists.padded(-torch.inf)[0]
