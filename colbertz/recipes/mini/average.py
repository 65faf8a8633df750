"""The mean of several models' weights: a model that is often better on texts unlike those of training.

Wortsman et al. 2022, arXiv 2203.05482 and 2109.01903. The models must be trained from the same start.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from colbertz.models import ColBERT
from colbertz.training import alignment


@torch.no_grad()
def average(models: Sequence[Path], out: Path) -> Path:
    """Save the mean of the weights of checkpoints of one shape, and return its directory."""
    if out.exists():
        return out
    first, *others = (ColBERT.from_pretrained(model, "cpu") for model in models)
    for parameters in zip(*(list(model.parameters()) for model in (first, *others))):
        parameters[0].copy_(torch.stack(parameters).mean(0))
    alignment.save(first, out)
    return out
