"""What the tests of the index share."""

import os

import pytest


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a power cut loses what is not synced, and no test makes one; waiting would take half of the time."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
