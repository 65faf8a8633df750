"""Settings of the optimizer, and of evaluation during training."""

from dataclasses import dataclass, field
from typing import Literal

from colbertz.training.config.checks import require


@dataclass(frozen=True)
class OptimConfig:
    """AdamW and its learning rate.

    Attributes:
        lr: the highest learning rate.
        embedding_lr: the highest learning rate of the token embeddings; null for lr. A new model, which sees many
            tokens rarely, learns faster with a higher one.
        betas: decay of AdamW's running means of the gradient and of its square.
        eps: AdamW's term in the denominator.
        weight_decay: weight decay of the matrices; norms, biases and token embeddings have none.
        warmup_steps: number of steps over which the learning rate rises from 0.
        schedule: how the learning rate falls afterwards: linear or cosine to zero on the last step, or constant.
        max_grad_norm: gradients are scaled down to this norm; 0 for no clipping.
    """

    lr: float = 1e-3
    embedding_lr: float | None = None
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-8
    weight_decay: float = 0.01
    warmup_steps: int = 0
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        for name in ("lr", "embedding_lr", "eps"):
            value = getattr(self, name)
            require(value is None or value > 0, f"optim.{name} must be positive, got {value}")
        for name in ("weight_decay", "warmup_steps", "max_grad_norm"):
            require(getattr(self, name) >= 0, f"optim.{name} must be at least 0, got {getattr(self, name)}")
        require(all(0 <= beta < 1 for beta in self.betas), f"optim.betas must be in [0, 1), got {self.betas}")


@dataclass(frozen=True)
class EvalConfig:
    """Evaluation before, during and after training; the best model is kept in `<output>/best`.

    Attributes:
        pairs: file of held-out pairs (`query`, `document`); each query is searched in all of their documents. Texts
            that differ only in case and white space are one, and all documents of a query are right.
        max_pairs: number of these queries that decide which model is best; the trained model is also evaluated on all.
        beir: directories in BEIR's layout (corpus, queries and qrels/), searched exactly.
        split: split of the qrels: qrels/<split>.tsv.
        every: number of steps between two evaluations; 0 for one before the first step and one after the last, which
            there are always.
        metric: the metric that decides which model is best: ndcg@10, mrr@10 or recall@10, as the mean over the
            collections.
        patience: stop after this many evaluations in a row without a better model; 0 to train to the end.
    """

    pairs: str | None = None
    max_pairs: int = 1000
    beir: list[str] = field(default_factory=list)
    split: str = "dev"
    every: int = 0
    metric: Literal["ndcg@10", "mrr@10", "recall@10"] = "ndcg@10"
    patience: int = 0

    def __post_init__(self) -> None:
        require(self.max_pairs > 1, f"eval.max_pairs must be at least 2, got {self.max_pairs}")
        require(self.every >= 0, f"eval.every must be at least 0, got {self.every}")
        require(self.patience >= 0, f"eval.patience must be at least 0, got {self.patience}")
        require(
            self.patience == 0 or self.every > 0,
            f"eval.patience is {self.patience}, but there are no evaluations during training; set eval.every",
        )
