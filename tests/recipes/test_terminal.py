"""What the recipes print about their stages."""

import re

import pytest

from colbertz.recipes.terminal import stages


def test_stages_are_numbered_and_the_time_left_is_estimated(capsys: pytest.CaptureFixture[str]) -> None:
    """A stage that was done before takes no time, and says nothing of how long the others take."""
    now = 0.0
    stage = stages([1, 5, 2, 2], clock=lambda: now)
    for title, seconds in (("Data", 0.0), ("Training", 100.0), ("Mining", 10.0), ("Judging", 40.0)):
        with stage(title):
            now += seconds
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert [line for line in lines if re.match(r"\d/4", line)] == [
        "1/4  Data",
        "2/4  Training",
        "3/4  Mining  (about 80 s left)",
        "4/4  Judging  (about 31 s left)",
    ]
    assert lines[1::2] == ["done in 0 s", "done in 1 min 40 s", "done in 10 s", "done in 40 s"]
