"""Settings of the loss."""

from dataclasses import dataclass, field
from typing import Literal

from colbertz.training.config.checks import require


@dataclass(frozen=True)
class LossConfig:
    """What a step minimises.

    Attributes:
        kind: `contrastive`: each query's positive document against all other documents of the batch, hard negatives
            included. `distillation`: Kullback-Leibler divergence from a teacher's scores of each query's documents.
            `margin_mse`: squared error of the differences between the first document's score and those of the others.
            `mlm`: masked language modelling of queries and documents alike, to warm up an encoder with random weights.
        score: `maxsim`, or `xtr`, where a document counts only with tokens among the `xtr_k` nearest of the batch.
        xtr_k: number of tokens of the batch that each query token retrieves.
        temperature: contrastive scores, which are sums over query tokens, are divided by it.
        learn_temperature: train the temperature like a weight, between the two bounds below.
        min_temperature: lower bound of a learned temperature.
        max_temperature: upper bound of a learned temperature.
        symmetric: use the mean of the contrastive losses from queries to documents and from documents to queries.
        mask_duplicates: in the contrastive loss, leave out documents with the same text or id as the query's positive.
        false_negative_margin: leave out negatives that score higher than the query's positive document by more than
            this; null to keep them.
        normalize_student: distillation: stretch the student's scores of each query to [0, 1] first, as PyLate does.
            Scores that are nearly equal are stretched less, and equal ones not at all.
        student_temperature: distillation: the student's scores are divided by it; the loss is multiplied by its square,
            as in sentence-transformers.
        teacher_temperature: distillation: the teacher's scores are divided by it.
        masked_share: mlm: share of the tokens that are to be predicted.
        contrastive_weight: weight of a contrastive loss that is added to distillation or margin_mse.
        matryoshka_dims: numbers of leading dimensions of the embeddings; for each, the loss of the embeddings cut to
            these dimensions is added.
        matryoshka_weights: weights of these losses; empty for a weight of 1 each.
    """

    kind: Literal["contrastive", "distillation", "margin_mse", "mlm"] = "contrastive"
    score: Literal["maxsim", "xtr"] = "maxsim"
    xtr_k: int = 256
    temperature: float = 0.2
    learn_temperature: bool = False
    min_temperature: float = 0.001
    max_temperature: float = 10.0
    symmetric: bool = False
    mask_duplicates: bool = True
    false_negative_margin: float | None = None
    normalize_student: bool = True
    student_temperature: float = 1.0
    teacher_temperature: float = 1.0
    masked_share: float = 0.3
    contrastive_weight: float = 0.0
    matryoshka_dims: list[int] = field(default_factory=list)
    matryoshka_weights: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("temperature", "student_temperature", "teacher_temperature", "xtr_k", "min_temperature"):
            require(getattr(self, name) > 0, f"loss.{name} must be positive, got {getattr(self, name)}")
        require(
            self.min_temperature <= self.temperature <= self.max_temperature,
            f"loss.temperature must be between min_temperature {self.min_temperature:g} and max_temperature "
            f"{self.max_temperature:g}, got {self.temperature:g}",
        )
        require(0 < self.masked_share < 1, f"loss.masked_share must be between 0 and 1, got {self.masked_share}")
        require(self.contrastive_weight >= 0, f"loss.contrastive_weight must be at least 0: {self.contrastive_weight}")
        require(
            self.false_negative_margin is None or self.false_negative_margin >= 0,
            f"loss.false_negative_margin must be at least 0, got {self.false_negative_margin}",
        )
        require(
            all(d > 0 for d in self.matryoshka_dims), f"loss.matryoshka_dims must be positive: {self.matryoshka_dims}"
        )
        require(
            not self.matryoshka_weights or len(self.matryoshka_weights) == len(self.matryoshka_dims),
            f"loss.matryoshka_weights has {len(self.matryoshka_weights)} entries for "
            f"{len(self.matryoshka_dims)} matryoshka_dims; give one for each, or none",
        )

    @property
    def needs_whole_batch(self) -> bool:
        """Whether the loss of a query depends on the documents of other queries."""
        return self.kind != "mlm" and (self.kind == "contrastive" or self.contrastive_weight > 0 or self.score == "xtr")

    @property
    def needs_teacher(self) -> bool:
        """Whether the loss needs a teacher's scores of the documents."""
        return self.kind in ("distillation", "margin_mse")
