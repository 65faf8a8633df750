"""Building blocks that the families of encoders share: activations, products, and the reading of config.json."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from colbertz.errors import UserError
from colbertz.kernels.cpu.linear import linear

# By their names in config.json.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
}


class Linear(nn.Linear):
    """`nn.Linear` on flat (N, in) rows, with the faster product on CPUs; see kernels/cpu/linear.py."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


def check_activation(key: str, name: str) -> None:
    """Raise UserError if the activation named under `key` of config.json is not in `ACTIVATIONS`."""
    if name not in ACTIVATIONS:
        raise UserError(f"{key} is {name!r}, known are {', '.join(sorted(ACTIVATIONS))}")


def pick_fields(cls: type, values: dict[str, Any]) -> dict[str, Any]:
    """The entries of `values` that the dataclass `cls` has a field for.

    Raises:
        UserError: if a number, a flag or a name is of another type, or a size is not positive.
    """
    picked: dict[str, Any] = {}
    for field in fields(cls):
        value = values.get(field.name)
        if value is None:
            continue
        kind: Any = field.type
        types = {int: (int,), float: (int, float), bool: (bool,), str: (str,)}.get(kind)
        if types and (not isinstance(value, types) or (isinstance(value, bool) and kind is not bool)):
            raise UserError(f"{field.name} should be of type {kind.__name__}, found {value!r}")
        if kind is int and value < 1:
            raise UserError(f"{field.name} must be at least 1, found {value}")
        picked[field.name] = value
    return picked
