"""The command line itself: entry points, help, what becomes of errors."""

import argparse
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from colbertz import __version__
from colbertz.cli import SUBCOMMANDS, build_parser, main, module_of, parse
from colbertz.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("entry", [["-m", "colbertz", "search"], ["search.py"]])
def test_every_entry_point_shows_help_without_loading_torch(entry: list[str]) -> None:
    command = [sys.executable, "-X", "importtime", *entry, "--help"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    assert "usage: colbertz search" in done.stdout
    assert "torch" not in done.stderr


def test_version_and_unknown_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["--version"])
    assert (exit.value.code, capsys.readouterr().out) == (0, f"colbertz {__version__}\n")
    with pytest.raises(SystemExit) as exit:
        main(["info", "somewhere", "--surprise"])
    assert exit.value.code == 2
    assert "unrecognized arguments: --surprise" in capsys.readouterr().err


def test_train_gets_all_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[list[str]] = []
    monkeypatch.setattr("colbertz.training.main", got.append)
    options = ["--config", "a.yaml", "--optim.lr", "1e-3", "--dry-run"]
    assert main(["train", *options]) == 0
    assert got == [options]


def test_demo_gets_all_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[dict[str, object]] = []
    monkeypatch.setattr("colbertz.recipes.demo.run.run", lambda **options: got.append(options))
    assert main(["demo", "--train", "--config", "a.yaml", "--index", "there", "--roots", "a", "b"]) == 0
    assert main(["demo"]) == 0
    roots = [Path("a"), Path("b")]
    expected = {"config_file": "a.yaml", "index": Path("there"), "roots": roots, "train": True, "prepare": False}
    assert got[0] == expected
    assert got[1] == {
        "config_file": None,
        "index": Path("demo-index"),
        "roots": None,
        "train": False,
        "prepare": False,
    }


def test_interrupting_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("colbertz.cli.info.run", interrupted)
    assert main(["info", "x"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_reader_that_leaves_is_no_error(index: Path) -> None:
    command = [sys.executable, "-m", "colbertz", "search", "--index", str(index), "lazy dog"]
    searching = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    searching.stdout.close()  # type: ignore[union-attr]
    assert searching.stderr.read() == b""  # type: ignore[union-attr]
    searching.stderr.close()  # type: ignore[union-attr]
    assert searching.wait() == 1


# -- errors ----------------------------------------------------------------------------------------------------------


def raising(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `colbertz info` raise this."""

    def run(args: object) -> None:
        raise error

    monkeypatch.setattr("colbertz.cli.info.run", run)


@pytest.mark.parametrize("error", [UserError("what was wrong"), FileNotFoundError("what was wrong")])
def test_what_a_user_did_wrong_is_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raising(error, monkeypatch)
    assert main(["info", "x"]) == 2
    assert capsys.readouterr().err == "error: what was wrong\n"


def test_an_error_of_several_lines_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raising(OSError("what was wrong,\nand what to do"), monkeypatch)
    assert main(["info", "x"]) == 2
    assert capsys.readouterr().err == "error: what was wrong, and what to do\n"


@pytest.mark.parametrize("words", ["compact x", "index --corpus c --out o", "mine --pairs p --out o", "nano --pairs p"])
@pytest.mark.parametrize("seed", ["-1", str(2**63), "x"])
def test_seeds_that_no_random_generator_takes_are_refused(
    words: str, seed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit:
        main([*words.split(), "--seed", seed])
    assert exit.value.code == 2
    assert "argument --seed: " in capsys.readouterr().err


@pytest.mark.parametrize("error", [KeyError("oops"), ValueError("oops"), TypeError("oops"), RuntimeError("oops")])
def test_a_bug_is_not_caught(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    raising(error, monkeypatch)
    with pytest.raises(type(error)):
        main(["info", "x"])


def test_a_bug_shows_its_traceback_and_ends_with_status_1() -> None:
    """A KeyError inside a subcommand once became `error: oops`, which hides where it comes from."""
    code = """
import sys
from colbertz.cli import info, main
def run(args):
    raise KeyError("oops")
info.run = run
sys.exit(main(["info", "x"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback (most recent call last)")
    assert done.stderr.endswith("KeyError: 'oops'\n")
    assert "error: " not in done.stderr


# -- help ------------------------------------------------------------------------------------------------------------


def parsers() -> dict[str, argparse.ArgumentParser]:
    [subparsers] = [a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction)]
    assert list(subparsers.choices) == list(SUBCOMMANDS)
    return dict(subparsers.choices)


def options() -> Iterator[tuple[str, argparse.Action]]:
    """Every option of every subcommand, by the names of both."""
    for name, parser in parsers().items():
        for action in parser._actions:
            if not isinstance(action, argparse._HelpAction):
                yield f"{name} {'/'.join(action.option_strings) or action.dest}", action


@pytest.mark.parametrize(("option", "action"), list(options()), ids=[option for option, _ in options()])
def test_help_texts_have_one_style(option: str, action: argparse.Action) -> None:
    """Lower case, no full stop, and the default in parentheses at the end."""
    text = action.help or ""
    assert text, "has no help"
    first_word = text.split()[0].removesuffix("'s").rstrip(":,")
    assert first_word == first_word.lower() or first_word.isupper(), "begins neither lower-case nor with an acronym"
    assert not text.endswith((".", "…")) and "  " not in text
    has_default = action.default not in (None, False, []) and action.nargs != "*"
    assert not has_default or text.endswith(f"(default: {action.default})"), "must end with (default: …)"
    assert "default" not in text or (text.count("(default: ") == 1 and text.endswith(")")), "default is not at the end"
    assert action.nargs == 0 or action.choices or action.metavar, "shows the name of a variable"


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_subcommands_say_what_they_do_and_show_examples_that_parse(name: str) -> None:
    module = module_of(name)
    assert module.HELP and not module.HELP.endswith(".")
    examples = module.EXAMPLES.splitlines()
    assert examples
    for example in examples:
        program, *words = shlex.split(example)
        assert example.startswith("  ") and program == "colbertz"
        assert parse(words).subcommand == name


@pytest.mark.parametrize("name", [name for name in SUBCOMMANDS if name != "train"])
def test_help_ends_with_the_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main([name, "--help"])
    output = capsys.readouterr().out
    assert exit.value.code == 0
    assert output.startswith(f"usage: colbertz {name} ")
    assert output.endswith(f"examples:\n{module_of(name).EXAMPLES.rstrip()}\n")


def test_help_of_train_begins_with_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["train", "--help"])
    assert exit.value.code == 0
    guide, _, options = capsys.readouterr().out.partition("options:")
    assert len(guide.partition("\n\n")[0].splitlines()) <= 2, "a usage of all settings"
    for word in ("configs/", "--dry-run", "torchrun", "--config my.yaml"):
        assert word in guide
    assert "--optim.lr" in options
    for option in re.split(r"\n  (?=--)", options)[1:]:
        assert not re.match(r"\S+(, \S+)*( \S+)?\s+\((required|type)", option), f"has no help: {option}"


def test_ctrl_c_leaves_the_line_before_it_whole() -> None:
    """On a terminal, where a bar or a prompt has begun a line, the message stands on a line of its own."""
    program = (
        "import sys; from colbertz import cli; module = cli.module_of('info')\n"
        "def run(args): sys.stderr.write('storing: 45%'); raise KeyboardInterrupt\n"
        "module.run = run; sys.exit(cli.main(['info', 'x']))"
    )
    master, terminal = os.openpty()
    done = subprocess.run([sys.executable, "-c", program], stderr=terminal, cwd=ROOT)
    os.close(terminal)
    shown = os.read(master, 1000).decode()
    os.close(master)
    assert done.returncode == 130
    assert shown.splitlines() == ["storing: 45%", "interrupted"]
    piped = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert piped.stderr == "storing: 45%interrupted\n"


def test_tables_in_ascii() -> None:
    program = (
        "from colbertz.cli.output import print_in_any_encoding as start; start(); print('──0.5–0.6 → é 東 \\ud800')"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.stdout == "--0.5-0.6 > \\xe9 \\u6771 \\ud800\n"
