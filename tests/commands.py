"""Running `colbertz` inside the tests' process."""

from pathlib import Path

import pytest

from colbertz.cli import main


def run_command(*argv: str | Path | float) -> None:
    """Run a command that has to succeed."""
    assert main([str(argument) for argument in argv]) == 0


def error_of(capsys: pytest.CaptureFixture[str], *argv: str | Path | float) -> str:
    """The one line on stderr of a command that has to fail with status 2 and print nothing else."""
    capsys.readouterr()
    assert main([str(argument) for argument in argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return captured.err.removeprefix("error: ").strip()
