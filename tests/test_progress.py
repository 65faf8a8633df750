"""Progress on a terminal and in a pipe."""

import io
import os
import re
import subprocess
import sys

import pytest
import terminal

from colbertz.progress import progress, steps

_JOB = """
import sys, time
from colbertz.progress import progress
slow = sys.argv[1:] == ["slow"]
with progress("outer", 4, "texts", line_seconds=30.0 if slow else 0.0, show=None if slow else True) as bar:
    for i in range(4):
        with progress("inner", 2, "parts", show=True) as part:
            part.update(2)
        if i == 2 and sys.argv[1:] == ["interrupted"]:
            raise KeyboardInterrupt
        time.sleep(0.3 * slow)
        bar.update(1)
"""


def in_pipe(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", _JOB, *arguments], stderr=subprocess.PIPE, text=True, check=False)
    return done.stderr


def on_terminal(*arguments: str) -> str:
    return terminal.on_terminal([sys.executable, "-c", _JOB, *arguments], columns=100)


def test_lines_in_a_pipe() -> None:
    lines = in_pipe().splitlines()
    assert lines[-1].startswith("outer: 4 of 4 texts (100 %) in 00:00")
    assert "outer: 2 of 4 texts (50 %)" in "\n".join(lines)
    assert all(re.fullmatch(r"outer: \d of 4 texts \(\d+ %\) in \S+, \S+ left", line) for line in lines)


def test_one_bar_on_a_terminal() -> None:
    text = on_terminal()
    assert "outer: 100%" in text
    assert "inner" not in text
    assert text.count("\n") == 1


@pytest.mark.parametrize("run", [in_pipe, on_terminal])
def test_an_interruption_leaves_a_whole_line(run) -> None:  # type: ignore[no-untyped-def]
    before, _, after = run("interrupted").replace("\r\n", "\n").rpartition("Traceback")
    assert "outer" in before.rstrip("\n").splitlines()[-1]
    assert before.endswith("\n")
    assert after.rstrip().endswith("KeyboardInterrupt")


def test_without_a_total_nothing_is_said_of_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with progress("storing", None, "tokens", show=True, line_seconds=0.0) as bar:
        bar.update(7)
    assert sys.stderr.getvalue().splitlines()[-1] == "storing: 7.00 tokens in 00:00"


def test_a_job_that_takes_longer_than_a_second_has_a_bar_on_a_terminal() -> None:
    assert "outer: 100%" in on_terminal("slow")
    assert in_pipe("slow") == ""


def test_a_short_job_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("encoding", 2, "texts") as bar:
        bar.update(2)
    assert capsys.readouterr().err == ""


_STEPS = """
import sys
from colbertz.progress import progress, steps
with steps("indexing", {"storing": 3, "coding": 1}, True) as bar:
    bar.begin("storing", None if sys.argv[1:] == ["unknown"] else 4, "documents", done=1)
    with progress("encoding", 3, "texts") as part:
        part.update(1)
    bar.update(3)
    bar.begin("coding", 1000, "tokens")
    bar.update(1000)
"""


def steps_in_pipe(*arguments: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", _STEPS, *arguments],
        stderr=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ | {"COLBERTZ_PROGRESS_SECONDS": "0"},
    )
    return [re.sub(r"in \S+?(, \S+ left)?$", "in TIME", line) for line in done.stderr.splitlines()]


def test_the_steps_of_a_job_are_one_bar() -> None:
    """A part moves the bar, and is not counted twice when the step is."""
    lines = steps_in_pipe()
    assert [line for line, before in zip(lines[1:], lines) if line != before] == [
        "indexing, storing: 1 of 4 documents (19 % of all) in TIME",
        "indexing, storing: 2 of 4 documents (38 % of all) in TIME",
        "indexing, storing: 4 of 4 documents (75 % of all) in TIME",
        "indexing, coding: 0 of 1,000 tokens (75 % of all) in TIME",
        "indexing, coding: 1,000 of 1,000 tokens (100 % of all) in TIME",
    ]


def test_steps_that_are_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with steps("indexing", {"storing": 1}, False) as bar:
        bar.begin("storing", 2, "documents")
        bar.update(2)
    assert capsys.readouterr().err == ""


def test_a_step_without_a_total_says_nothing_of_the_rest() -> None:
    lines = steps_in_pipe("unknown")
    assert "indexing, storing: 4 documents in TIME" in lines
    assert lines[-1] == "indexing, coding: 1,000 of 1,000 tokens (100 % of all) in TIME"


_NESTED = """
from colbertz.progress import progress, steps
with steps("mining", {"indexing": 1, "searching": 1}, True) as bar:
    bar.begin("indexing", 100, "%")
    with steps("indexing", {"storing": 3, "coding": 1}) as inner:
        inner.begin("storing", 4, "documents")
        with progress("encoding", 4, "texts") as part:
            part.update(2)
        inner.update(4)
        inner.begin("coding", 10, "tokens")
        inner.update(10)
    bar.begin("searching", 8, "queries")
    with progress("searching", 8, "queries") as part:
        part.update(4)
        part.update(4)
"""


def test_steps_within_a_step_move_the_bar_by_their_percentage() -> None:
    environment = os.environ | {"COLBERTZ_PROGRESS_SECONDS": "0"}
    command = [sys.executable, "-c", _NESTED]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=True, env=environment)
    lines = list(dict.fromkeys(line.partition(" in ")[0] for line in done.stderr.splitlines()))
    assert [line for line in lines if line != "mining (0 % of all)"] == [
        "mining, indexing: 0 of 100 % (0 % of all)",
        "mining, indexing: 38 of 100 % (19 % of all)",
        "mining, indexing: 75 of 100 % (38 % of all)",
        "mining, indexing: 100 of 100 % (50 % of all)",
        "mining, searching: 0 of 8 queries (50 % of all)",
        "mining, searching: 4 of 8 queries (75 % of all)",
        "mining, searching: 8 of 8 queries (100 % of all)",
    ]
