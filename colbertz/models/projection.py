"""The dense layers between the encoder's hidden states and the embeddings.

Legend: N tokens of the batch.
"""

from typing import Any

import torch
from torch import Tensor, nn

from colbertz.errors import UserError
from colbertz.models.encoders.layers import Linear


class Projection(nn.Module):
    """`activation(linear(x))`, plus `x` or `residual(x)` when `use_residual`; PyLate's Dense.

    `residual` is a linear layer without bias if the two sizes differ, else the identity.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        activation_function: str = "torch.nn.modules.linear.Identity",
        use_residual: bool = False,
    ) -> None:
        """
        Args:
            in_features, out_features: sizes.
            bias: whether the linear layer has a bias.
            activation_function: dotted name of one of PyTorch's activation classes.
            use_residual: whether the input is added to the output.

        Raises:
            UserError: if the activation is not one of PyTorch's own.
        """
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.activation_function, self.use_residual = activation_function, use_residual
        self.linear = Linear(in_features, out_features, bias=bias)
        self.activation = _activation(activation_function)
        if use_residual:
            self.residual = (
                Linear(in_features, out_features, bias=False) if in_features != out_features else nn.Identity()
            )

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_features) -> (N, out_features)"""
        y = self.activation(self.linear(x))
        return y + self.residual(x) if self.use_residual else y

    def to_dict(self) -> dict[str, Any]:
        """The layer's `config.json`."""
        return {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "bias": self.linear.bias is not None,
            "activation_function": self.activation_function,
            "use_residual": self.use_residual,
        }


def _activation(name: str) -> nn.Module:
    """Make the activation of that dotted name. Only PyTorch's activations are allowed: a checkpoint must not run code.

    Raises:
        UserError: for any other name, and for an activation that needs arguments.
    """
    module, _, attribute = name.rpartition(".")
    cls: Any = getattr(torch.nn, attribute, None)
    allowed = isinstance(cls, type) and (cls is nn.Identity or cls.__module__ == nn.ReLU.__module__)
    if not allowed or module not in ("torch.nn", cls.__module__):
        raise UserError(
            f"activation_function {name!r} is not one of PyTorch's activations (torch.nn.modules.activation)"
        )
    try:
        activation: nn.Module = cls()
    except TypeError:
        raise UserError(f"activation_function {name!r} needs arguments, for which a checkpoint has no place") from None
    return activation
