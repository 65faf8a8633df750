"""All settings of one training run."""

import math
from dataclasses import dataclass, field

from colbertz.training.config.checks import require
from colbertz.training.config.data import DataConfig
from colbertz.training.config.loss import LossConfig
from colbertz.training.config.model import ModelConfig
from colbertz.training.config.schedule import EvalConfig, OptimConfig


@dataclass(frozen=True)
class TrainingConfig:
    """One training run.

    Attributes:
        output: directory of the run: the trained model (`model/`), the best one (`best/`, if it is evaluated),
            `metrics.jsonl`, these settings (`config.yaml`) and what is needed to resume (`checkpoints/`).
        model: the model to start from
        data: the data to train on
        loss: the loss to minimise
        optim: the optimizer and its learning rate
        eval: evaluation during training
        batch_size: number of queries in a step, over all processes together.
        minibatch_tokens: number of tokens that the model of a process sees at once; larger batches are processed by
            gradient caching, with the same gradient. 0 for the whole batch at once.
        accumulation_steps: number of parts that a batch is cut into, for losses that look at each query alone.
        epochs: passes over the data, a fraction is allowed; ignored when max_steps is given.
        max_steps: number of steps to train; null for the number that `epochs` gives.
        seed: seed of the weights, of dropout and of the order of the data.
        bf16: compute in bfloat16, weights and embeddings in float32; null for true on CUDA and on processors that
            multiply bfloat16 (AMX, avx512_bf16, Arm's BFMMLA), and for the type in which the run began when it resumes.
        fsdp: shard weights, gradients and optimizer state over the processes (FSDP2) instead of copying them (DDP).
        ema_decay: decay of an exponential moving average of the weights; the averaged model is evaluated and saved.
            0 for no average.
        log_every: number of steps between two lines of metrics.
        save_every: number of steps between two checkpoints to resume from; 0 for a checkpoint only when the run is
            interrupted.
        keep_checkpoints: number of checkpoints that are kept, the newest ones.
        overwrite: start again from the beginning where `output` holds a run; false to resume it.
        tensorboard: also write TensorBoard event files (`pip install "colbertz[train]"`).
        wandb: also report to this Weights & Biases project (`pip install wandb`); null to not report.
    """

    output: str
    model: ModelConfig
    data: DataConfig
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    batch_size: int = 128
    minibatch_tokens: int = 0
    accumulation_steps: int = 1
    epochs: float = 1.0
    max_steps: int | None = None
    seed: int = 0
    bf16: bool | None = None
    fsdp: bool = False
    ema_decay: float = 0.0
    log_every: int = 10
    save_every: int = 0
    keep_checkpoints: int = 2
    overwrite: bool = False
    tensorboard: bool = False
    wandb: str | None = None

    def __post_init__(self) -> None:
        min_queries = 2 if self.loss.needs_whole_batch else 1
        require(
            self.batch_size >= min_queries,
            f"batch_size must be at least {min_queries}{' to have a negative' if min_queries > 1 else ''}, "
            f"got {self.batch_size}",
        )
        require(0 < self.epochs < math.inf, f"epochs must be positive and finite, got {self.epochs}")
        require(self.max_steps is None or self.max_steps > 0, f"max_steps must be positive, got {self.max_steps}")
        require(0 <= self.seed < 2**63, f"seed must be at least 0 and below 2**63, got {self.seed}")
        require(self.log_every > 0, f"log_every must be positive, got {self.log_every}")
        require(self.keep_checkpoints > 0, f"keep_checkpoints must be at least 1, got {self.keep_checkpoints}")
        require(0 <= self.ema_decay < 1, f"ema_decay must be in [0, 1), got {self.ema_decay}")
        for name in ("save_every", "minibatch_tokens"):
            require(getattr(self, name) >= 0, f"{name} must be at least 0, got {getattr(self, name)}")
        require(self.accumulation_steps > 0, f"accumulation_steps must be at least 1, got {self.accumulation_steps}")
        require(
            self.accumulation_steps == 1 or not self.loss.needs_whole_batch,
            f"accumulation_steps is {self.accumulation_steps}, but this loss compares each query with the documents of "
            "the whole batch, so the losses of parts of the batch do not add up to it; set minibatch_tokens instead, "
            "which gives the gradient of the whole batch in the memory of a part",
        )
        require(
            self.loss.kind != "mlm" or not (self.minibatch_tokens or self.fsdp),
            "loss.kind mlm works with neither minibatch_tokens, instead of which you can set accumulation_steps, nor "
            "with fsdp",
        )
        require(
            self.batch_size % self.accumulation_steps == 0,
            f"batch_size {self.batch_size} cannot be cut into {self.accumulation_steps} equal accumulation_steps",
        )
