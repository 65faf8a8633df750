"""Builds of an index that stop in the middle, as by a kill, and leave their work in build/."""

from pathlib import Path

import pytest


class Stop(BaseException):
    """Like a kill, no code handles it."""


def stop_at(nth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop before the n-th time that a JSON file in build/ is replaced: when a build records what it has done."""
    calls = 0
    original = Path.replace

    def replace(source: Path, target: Path) -> Path:
        nonlocal calls
        if target.suffix == ".json" and "build" in target.parts:
            calls += 1
            if calls == nth:
                raise Stop
        return original(source, target)

    monkeypatch.setattr(Path, "replace", replace)
