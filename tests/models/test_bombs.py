"""Checkpoints that are made to do harm: each is refused with one sentence, in little memory and time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from colbertz.models.checkpoint.tokenizer_limits import is_linear


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """What happened in each case of bombs.py."""
    script = Path(__file__).with_name("bombs.py")
    paths = os.pathsep.join([*sys.path, str(script.parents[1])])
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path_factory.mktemp("bombs"))],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "PYTHONPATH": paths, "RUST_BACKTRACE": "0"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_bomb_is_refused_with_one_sentence_that_names_it(outcomes: list[dict[str, str]]) -> None:
    """Some took gigabytes or minutes, waited for a pipe, or ended in a PanicException, which is no `Exception`."""
    bombs = [outcome for outcome in outcomes if outcome["named"] != "loaded"]
    assert len(bombs) > 80
    for outcome in bombs:
        assert outcome["ending"] == "refused", outcome
        assert outcome["named"] in outcome["message"], outcome
        assert len(outcome["message"]) < 500 and "\n" not in outcome["message"], outcome


def test_what_only_looks_like_a_bomb_is_loaded(outcomes: list[dict[str, str]]) -> None:
    harmless = [outcome for outcome in outcomes if outcome["named"] == "loaded"]
    assert len(harmless) >= 3
    for outcome in harmless:
        assert outcome["ending"] == "loaded", outcome


@pytest.mark.parametrize(
    "pattern",
    [
        r" ?\p{L}+",
        r"\s+",
        " {2,}",
        r"[a-z]+|\p{N}{1,3}|[^\s\w]",
        "^a?b?c",
        r"\p{N}",
        "[一-龥]+",
        "(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?!x)",
        r"[\r\n]",
        r"a+?|b++",
    ],
)
def test_expressions_that_take_linear_time(pattern: str) -> None:
    assert is_linear(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        *("(a+)+b", "a*b", "(a|a)*", "a+a+", ".*.*", r"(\w)\1", "(?=a+)b", "a{0,100}a{0,100}b", "a?" * 20, "[a[b]]+"),
        *(
            "(a",
            "a{1,9999}",
            r"\k<a>",
            r"\g<0>",
            "[a&&b]",
            "a|(b|c)+",
            r"\s+$",
            "(?=a)*",
            r"\s+(?=a)",
            "(?=(a))",
            "(?i)a",
            "*",
        ),
    ],
)
def test_expressions_that_may_take_longer(pattern: str) -> None:
    assert not is_linear(pattern)
