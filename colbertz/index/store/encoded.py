"""Coded tokens, and the norms of the tokens they were made from."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# Rows whose norm differs from 1 by less are taken to be of unit length: rounding to float16 or bfloat16 does less.
UNIT_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Encoded:
    """Coded tokens.

    Attributes:
        codes: (N,) uint16, or uint32 above 65,536 centroids.
        residuals: (N, row bytes) uint8, see scalar.py and product.py.
        inverse_norms: (N,) float32, 1 / norm of centroid + residual, times the token's norm where that is not 1.
    """

    codes: np.ndarray
    residuals: np.ndarray
    inverse_norms: np.ndarray

    def __len__(self) -> int:
        return len(self.codes)

    @classmethod
    def cat(cls, parts: Sequence["Encoded"]) -> "Encoded":
        """One after another."""
        return cls(
            np.concatenate([part.codes for part in parts]),
            np.concatenate([part.residuals for part in parts]),
            np.concatenate([part.inverse_norms for part in parts]),
        )


def unit_rows(embeddings: Tensor) -> tuple[Tensor, Tensor | None]:
    """Rows (N, E) at unit length, and their norms (N,) float32.

    Rows whose norm is 1 up to rounding are not changed, and their norm counts as 1. If all are, the norms are None.
    """
    norms = torch.linalg.vector_norm(embeddings, dim=1, dtype=torch.float32)
    is_unit = (norms - 1).abs() < UNIT_TOLERANCE
    if bool(is_unit.all()):
        return embeddings, None
    norms = torch.where(is_unit, 1, norms)
    return embeddings.float() / norms.clamp(min=1e-12)[:, None], norms
