"""What the tests of the server share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from colbertz.models import ColBERT
from colbertz.server.batching import EncodeBatcher
from colbertz.server.root import Root


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a power cut loses what is not synced, and no test makes one; waiting would take half of the time."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Root]:
    """An empty root without a model."""
    root = Root.open(tmp_path / "root")
    yield root
    root.close()


@pytest.fixture
def encoder(checkpoint: Path) -> Iterator[EncodeBatcher]:
    encoder = EncodeBatcher(ColBERT.from_pretrained(checkpoint), location=str(checkpoint))
    yield encoder
    encoder.close()
