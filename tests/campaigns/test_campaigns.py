"""Some trials of every kind of file: the right answer, or one sentence. `make soak` runs thousands of others."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from formats import FORMATS
from trials import FOUND, OTHER, REFUSED, SAME, Campaign, Format, Outcome

from colbertz.errors import UserError

# Trials of each format. Those of the index have the most ways to go wrong.
TRIALS = 25
TRIALS_OF_THE_INDEX = 75


def run(name: str, format: Format, folder: Path, trials: int) -> list[Outcome]:
    return list(Campaign(name, format, folder).run(range(trials), seed=0))


@pytest.mark.parametrize("name", FORMATS)
def test_damage_ends_in_the_right_answer_or_one_sentence(name: str, tmp_path: Path) -> None:
    trials = TRIALS_OF_THE_INDEX if name == "index" else TRIALS
    outcomes = run(name, FORMATS[name], tmp_path, trials)
    assert [outcome for outcome in outcomes if not outcome.is_good] == []
    assert [outcome.trial for outcome in outcomes] == list(range(trials))
    assert REFUSED in {outcome.end for outcome in outcomes}


def made(root: Path) -> None:
    (root / "a.txt").write_text("the content " * 20)


def answering(end: Any) -> Format:
    """A format whose files are used in a wrong way when they are damaged."""

    def answer(root: Path) -> str:
        path = root / "a.txt"
        if not path.is_file() or path.is_symlink() or path.stat().st_size > 10**6:
            raise UserError("it is no file")
        content = path.read_bytes()
        return "right" if content == b"the content " * 20 else end(root)

    return Format(made, answer, has_checksums=True)


def refuse(message: str) -> None:
    raise UserError(message)


@pytest.mark.parametrize(
    ("end", "seen"),
    [
        (lambda root: os.kill(os.getpid(), signal.SIGSEGV), "SIGSEGV"),
        (lambda root: os._exit(0), "exit 0"),
        (lambda root: 1 / 0, "ZeroDivisionError"),
        (lambda root: "wrong", "another answer: 'wrong'"),
        (lambda root: (root / "a.txt").unlink() or "right", "lost or changed by reading: a.txt"),
        (lambda root: refuse("two\nlines"), "the message is no sentence"),
        pytest.param(
            *(lambda root: len(bytes(1 << 33)), "MemoryError"),
            marks=pytest.mark.skipif(sys.platform != "linux", reason="macOS does not limit memory"),
        ),
    ],
)
def test_a_campaign_sees_what_goes_wrong(end: Any, seen: str, tmp_path: Path) -> None:
    outcomes = run("a", answering(end), tmp_path, 30)
    assert [outcome.trial for outcome in outcomes] == list(range(30)), "a dead child ends its trial only"
    bad = [outcome for outcome in outcomes if not outcome.is_good]
    assert len(bad) > 10 and all(seen in outcome.end for outcome in bad)


def test_a_campaign_sees_hangs(tmp_path: Path) -> None:
    campaign = Campaign("a", answering(lambda root: time.sleep(600)), tmp_path, seconds=0.1)
    ends = {outcome.end for outcome in campaign.run(range(4), seed=0)}
    assert ends <= {"hang", SAME, REFUSED} and "hang" in ends


def test_what_check_finds_and_what_has_no_checksums_is_allowed(tmp_path: Path) -> None:
    found = answering(lambda root: "wrong")
    checked = Format(made, found.answer, check=lambda root: found.answer(root) == "right" or refuse("damaged"))
    assert {outcome.end for outcome in run("a", checked, tmp_path / "1", 30)} <= {SAME, REFUSED, FOUND}
    without = Format(made, found.answer)
    assert OTHER in {outcome.end for outcome in run("a", without, tmp_path / "2", 30)}


def test_a_seed_repeats_its_trials(tmp_path: Path) -> None:
    name = "collection"
    first = run(name, FORMATS[name], tmp_path / "1", 12)
    second = list(Campaign(name, FORMATS[name], tmp_path / "2").run(range(6, 12), seed=0))
    other = list(Campaign(name, FORMATS[name], tmp_path / "3").run(range(12), seed=1))
    assert first[6:] == second and first != other
