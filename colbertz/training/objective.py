"""The loss of a batch of embeddings as a configuration describes it.

Legend: B queries, A documents of the batch (those of all processes), S query tokens, T document tokens, P pairs of a
query and one of its candidates, E embedding dim.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from colbertz.maxsim import maxsim, maxsim_candidates
from colbertz.ragged import Ragged
from colbertz.training import losses
from colbertz.training.config import LossConfig


@dataclass(frozen=True)
class Labels:
    """What is known about the documents of a batch.

    Attributes:
        candidates: for each of B queries the indices of its candidates among the A documents of the batch, values (P,)
            int64: its positive document first, then its hard negatives; or the documents that a teacher scored.
        teacher: (P,) float32, the teacher's scores of the candidates; None without a teacher.
        keys: (A, 2) int64, hashes of each document's text and id, equal where these are equal; None to not look for
            duplicates.
    """

    candidates: Ragged
    teacher: Tensor | None = None
    keys: Tensor | None = None

    @property
    def positives(self) -> Tensor:
        """(B,) the index of each query's positive document."""
        return self.candidates.values[self.candidates.offsets[:-1]]

    def __len__(self) -> int:
        return len(self.candidates)

    def __getitem__(self, queries: slice) -> "Labels":
        """The labels of some of the queries; the indices of documents stay the same."""
        teacher = None if self.teacher is None else self.candidates.with_values(self.teacher)[queries].values
        return Labels(self.candidates[queries], teacher, self.keys)


class Objective(nn.Module):
    """The loss of a batch of embeddings as a configuration describes it.

    Attributes:
        config: the description.
        log_temperature: a parameter; it requires a gradient if the temperature is learned.
    """

    def __init__(self, config: LossConfig) -> None:
        super().__init__()
        self.config = config
        start = torch.tensor(config.temperature, dtype=torch.float32).log()
        self.log_temperature = nn.Parameter(start, requires_grad=config.learn_temperature)

    @property
    def temperature(self) -> Tensor:
        """The temperature of the contrastive loss, a scalar."""
        return self.log_temperature.exp()

    @torch.no_grad()
    def clamp(self) -> None:
        """Bring a learned temperature back between its bounds; to be called after each step."""
        bounds = torch.tensor([self.config.min_temperature, self.config.max_temperature]).log().tolist()
        self.log_temperature.clamp_(*bounds)

    def forward(self, queries: Ragged, documents: Ragged, labels: Labels) -> tuple[Tensor, Tensor]:
        """The loss and the accuracy: the share of queries whose best document gets the highest score.

        Args:
            queries: (S, E) embeddings of each of this process's B queries.
            documents: (T, E) embeddings of the A documents of all processes; if the loss's `needs_whole_batch` is
                false, those of this process.
            labels: which documents are the candidates of which query.

        Returns:
            Two float32 scalars, means over the queries; the second without gradient. For the contrastive loss the best
            document is the query's positive, among all documents of the batch; otherwise it is the candidate with the
            teacher's highest score, or one of those, among the query's candidates.
        """
        loss, accuracy = self._loss(queries, documents, labels)
        dims = self.config.matryoshka_dims
        for dim, weight in zip(dims, self.config.matryoshka_weights or [1.0] * len(dims)):
            cut_loss, _ = self._loss(losses.truncated(queries, dim), losses.truncated(documents, dim), labels)
            loss = loss + weight * cut_loss
        return loss, accuracy

    def _loss(self, queries: Ragged, documents: Ragged, labels: Labels) -> tuple[Tensor, Tensor]:
        config = self.config
        if config.needs_whole_batch:
            xtr = config.score == "xtr"
            scores = losses.xtr(queries, documents, config.xtr_k) if xtr else maxsim(queries, documents)
            rows = torch.arange(len(queries), device=scores.device).repeat_interleave(labels.candidates.lengths)
            student = labels.candidates.with_values(scores[rows, labels.candidates.values])
        else:
            student = maxsim_candidates(queries, documents, labels.candidates)

        contrastive = student.values.new_zeros(())
        if config.kind == "contrastive" or config.contrastive_weight:
            keys = labels.keys if config.mask_duplicates else None
            dropped = losses.false_negatives(scores, labels.positives, keys, config.false_negative_margin)
            contrastive = losses.contrastive(
                scores, labels.positives, self.temperature, dropped=dropped, symmetric=config.symmetric
            )
        if config.kind == "contrastive":
            best = torch.zeros_like(dropped).scatter_(1, labels.positives[:, None], True)
            return contrastive, losses.accuracy(scores.masked_fill(dropped, -torch.inf), best)

        assert labels.teacher is not None
        teacher = labels.candidates.with_values(labels.teacher)
        if config.kind == "distillation":
            loss = losses.distillation(
                student,
                teacher,
                normalize=config.normalize_student,
                student_temperature=config.student_temperature,
                teacher_temperature=config.teacher_temperature,
            )
        else:
            loss = losses.margin_mse(student, teacher)
        if config.contrastive_weight:
            loss = loss + config.contrastive_weight * contrastive
        teacher_scores = _padded(teacher)
        return loss, losses.accuracy(_padded(student), teacher_scores == teacher_scores.amax(1, keepdim=True))


def _padded(lists: Ragged) -> Tensor:
    """(B, longest list), filled up with minus infinity."""
    return lists.padded(-torch.inf)[0]
