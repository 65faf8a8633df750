"""Fixtures for tests of kernels."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A function after whose call new tensors are filled with NaN, or integers with 0x7f in every byte.

    An element that a kernel does not write then shows in the result.
    """
    plain_empty, plain_like = torch.empty, torch.empty_like

    def poisoned(tensor: Tensor) -> Tensor:
        return tensor.fill_(torch.nan) if tensor.is_floating_point() else tensor.fill_(0x7F)

    def call() -> None:
        monkeypatch.setattr(torch, "empty", lambda *args, **kwargs: poisoned(plain_empty(*args, **kwargs)))
        monkeypatch.setattr(torch, "empty_like", lambda *args, **kwargs: poisoned(plain_like(*args, **kwargs)))

    return call
