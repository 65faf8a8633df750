"""AdamW (Loshchilov & Hutter 2017, arXiv 1711.05101), its learning rate at each step, and averaged weights."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW, Optimizer

from colbertz.training.config import OptimConfig


def build(model: nn.Module, objective: nn.Module, config: OptimConfig) -> AdamW:
    """The optimizer of the parameters that require gradients; call `set_rate` before each step."""
    groups = parameter_groups(model, config)
    learned = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    if learned:
        groups.append({"params": learned, "lr": config.lr, "weight_decay": 0.0})
    for group in groups:
        group["peak_lr"] = group["lr"]
    return AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


def parameter_groups(model: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """Groups of parameters for AdamW: only matrices decay, and token embeddings have their own learning rate."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    matrices: list[nn.Parameter] = []
    tables: list[nn.Parameter] = []  # of embeddings
    vectors: list[nn.Parameter] = []  # norms and biases
    for parameter in model.parameters():
        if parameter.requires_grad:
            group = tables if id(parameter) in embeddings else matrices if parameter.dim() > 1 else vectors
            group.append(parameter)
    groups = [
        {"params": matrices, "lr": config.lr, "weight_decay": config.weight_decay},
        {"params": tables, "lr": config.embedding_lr or config.lr, "weight_decay": 0.0},
        {"params": vectors, "lr": config.lr, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def set_rate(optimizer: Optimizer, factor: float) -> float:
    """Set the learning rate of each group to `factor` times its highest rate, and return that of the first group."""
    for group in optimizer.param_groups:
        group["lr"] = factor * group["peak_lr"]
    return float(optimizer.param_groups[0]["lr"])


def schedule(config: OptimConfig, num_steps: int) -> Callable[[int], float]:
    """A function from a step, counted from 0, to the factor of its learning rate.

    The factor rises to 1 during the warm-up, then falls as configured.
    """

    def factor(step: int) -> float:
        if step < config.warmup_steps:
            return (step + 1) / config.warmup_steps
        remaining = max(0.0, (num_steps - step) / max(1, num_steps - config.warmup_steps))
        cosine = 0.5 - 0.5 * math.cos(math.pi * remaining)
        return {"linear": remaining, "cosine": cosine, "constant": 1.0}[config.schedule]

    return factor


def clip(model: nn.Module, max_norm: float) -> Tensor:
    """Scale all gradients down to a total norm of `max_norm` (0: no limit) and return their norm before."""
    norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm or math.inf)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


@torch.no_grad()
def average(averages: Sequence[Tensor], parameters: Sequence[Tensor], decay: float) -> None:
    """Move each average towards its parameter: average · decay + parameter · (1 - decay)."""
    for mean, parameter in zip(averages, parameters):
        mean.lerp_(parameter, 1 - decay)
