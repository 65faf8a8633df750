"""What the tests of kernels share."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Once called, new memory is poisoned: NaN, or in integers 0x7f, places beyond anything."""
    plain_empty, plain_like = torch.empty, torch.empty_like

    def poisoned(tensor: Tensor) -> Tensor:
        return tensor.fill_(torch.nan) if tensor.is_floating_point() else tensor.fill_(0x7F)

    def call() -> None:
        monkeypatch.setattr(torch, "empty", lambda *args, **kwargs: poisoned(plain_empty(*args, **kwargs)))
        monkeypatch.setattr(torch, "empty_like", lambda *args, **kwargs: poisoned(plain_like(*args, **kwargs)))

    return call
