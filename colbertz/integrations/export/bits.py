"""Embeddings of one bit a dimension: its sign."""

import numpy as np
from torch import Tensor

from colbertz.errors import UserError, check_type


def sign_bits(values: Tensor) -> np.ndarray:
    """Pack the signs of embeddings into bytes.

    Args:
        values: (num_tokens, E), of any floating point type.

    Returns:
        (num_tokens, ceil(E / 8)) uint8. A bit is 1 where the value is above 0. The first dimension is the most
        significant bit of the first byte; the last byte is filled up with zeros.

    Raises:
        TypeError: if it is not a tensor.
        UserError: if it does not have two dimensions.
    """
    check_type("values", values, Tensor, "a tensor")
    if values.dim() != 2:
        raise UserError(f"values must be (num_tokens, E), got the shape {tuple(values.shape)}")
    return np.packbits((values > 0).cpu().numpy(), axis=1, bitorder="big")
