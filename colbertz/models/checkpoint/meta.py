"""Modules without memory, whose parameters are replaced by a checkpoint's."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode


class _WithoutDrawing(TorchFunctionMode):
    """Leaves out `nn.init`: drawing numbers on the meta device does nothing, and imports torch._dynamo for a second."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if getattr(func, "__module__", None) == nn.init.__name__:
            return None
        return func(*args, **(kwargs or {}))


@contextmanager
def without_memory() -> Iterator[None]:
    """Modules that are made in this context have parameters with shapes and no numbers."""
    with torch.device("meta"), _WithoutDrawing():
        yield
