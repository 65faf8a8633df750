"""Building blocks that the families of encoders share: activations, products, and the reading of config.json."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from colbertz.errors import UserError
from colbertz.kernels.cpu.linear import linear
from colbertz.models.encoders.packing import Packing

# The largest size in a config.json: products of two sizes do not overflow. Published sizes are up to a million.
_MOST = 10**8
# Layers of an encoder; published ones have up to a hundred.
_MOST_LAYERS = 1_000

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


# Kinds of dropout in a layer, of which each has a site of its own.
SITES_OF_A_LAYER = 4


class Dropout(nn.Module):
    """Dropout of flat (N, H) rows by the keys of a batch's tokens; see kernels/cpu/dropout.py.

    Attributes:
        p: the probability with which a number is dropped.
        site: a number that no other dropout of the encoder has, so that their masks are independent.
    """

    def __init__(self, p: float, site: int) -> None:
        super().__init__()
        self.p = p
        self.site = site

    def forward(self, x: Tensor, packing: Packing) -> Tensor:
        if not self.training or self.p == 0:
            return x
        if packing.dropout_keys is None:
            return F.dropout(x, self.p)
        from colbertz.kernels.cpu.dropout import dropout  # numba takes half a second, and encoding has no dropout

        return dropout(x, packing.dropout_keys, self.site, self.p)


def check_activation(key: str, name: str) -> None:
    """Raise UserError if the activation named under `key` of config.json is not in `ACTIVATIONS`."""
    if name not in ACTIVATIONS:
        raise UserError(f"{key} is {name!r}, known are {', '.join(sorted(ACTIVATIONS))}")


def heads_of(config: Any) -> tuple[int, int]:
    """Number and dimension of an encoder's heads."""
    return config.num_attention_heads, config.hidden_size // config.num_attention_heads


def pick_fields(cls: type, values: dict[str, Any]) -> dict[str, Any]:
    """The entries of `values` that the dataclass `cls` has a field for."""
    return {field.name: values[field.name] for field in fields(cls) if field.name in values}


def check_fields(config: Any) -> None:
    """Check the sizes, flags and names of an encoder's configuration, a dataclass.

    Raises:
        UserError: if a number, a flag or a name is of another type or null, a size is not positive, or another number
            is out of its range.
    """
    for field in fields(config):
        value = getattr(config, field.name)
        kind: Any = field.type
        types = {int: (int,), float: (int, float), bool: (bool,), str: (str,)}.get(kind)
        if types and (not isinstance(value, types) or (isinstance(value, bool) and kind is not bool)):
            raise UserError(f"{field.name} should be of type {kind.__name__}, found {value!r}")
        if kind is int and value < 1:
            raise UserError(f"{field.name} must be at least 1, found {value}")
        most = _MOST_LAYERS if field.name == "num_hidden_layers" else _MOST
        if kind is int and value > most:
            raise UserError(f"{field.name} must be at most {most:,}, found {value!r:.40}")
        if kind is float and not 0 <= value < float("inf"):
            raise UserError(f"{field.name} must be a number that is not negative, found {value}")
        if kind is float and "dropout" in field.name and value > 1:
            raise UserError(f"{field.name} must be between 0 and 1, found {value}")


def refuse(config: dict[str, Any], supported: dict[str, Any]) -> None:
    """Raise UserError for a key that would change the computation in a way that the encoders do not support.

    Args:
        config: the content of a config.json.
        supported: key to the only value that is supported; null and a missing key stand for that value.
    """
    for key, value in supported.items():
        if config.get(key) not in (None, value):
            raise UserError(f"{key} is {config[key]!r:.80}, only {value!r} is supported")
