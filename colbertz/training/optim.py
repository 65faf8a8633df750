"""AdamW (Loshchilov & Hutter 2017, arXiv 1711.05101) and the course of its learning rate."""

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from colbertz.config import OptimConfig


def build(model: nn.Module, config: OptimConfig, num_steps: int) -> tuple[AdamW, LambdaLR]:
    """The optimizer of the parameters that need gradients, and its schedule, to be stepped once a step."""
    optimizer = AdamW(
        parameter_groups(model, config),
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        fused=True,
    )
    return optimizer, LambdaLR(optimizer, schedule(config, num_steps))


def parameter_groups(model: nn.Module, config: OptimConfig) -> list[dict[str, object]]:
    """Matrices with weight decay; token embeddings with their own rate and, like norms and biases, without decay."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    matrices: list[nn.Parameter] = []
    tables: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            kind = tables if id(parameter) in embeddings else matrices if parameter.dim() > 1 else vectors
            kind.append(parameter)
    groups = [
        {"params": matrices, "lr": config.lr, "weight_decay": config.weight_decay},
        {"params": tables, "lr": config.embedding_lr or config.lr, "weight_decay": 0.0},
        {"params": vectors, "lr": config.lr, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def schedule(config: OptimConfig, num_steps: int) -> Callable[[int], float]:
    """The factor of the learning rate at each step, from 0 on: up to 1 in the warm-up, then down as configured."""

    def factor(step: int) -> float:
        if step < config.warmup_steps:
            return (step + 1) / config.warmup_steps
        left = max(0.0, (num_steps - step) / max(1, num_steps - config.warmup_steps))
        return {"linear": left, "cosine": 0.5 - 0.5 * math.cos(math.pi * left), "constant": 1.0}[config.schedule]

    return factor


def clip(model: nn.Module, max_norm: float) -> torch.Tensor:
    """Scale all gradients down to a total norm of `max_norm` (0: leave them) and return the norm they had."""
    return nn.utils.clip_grad_norm_(model.parameters(), max_norm or math.inf)
