"""The errors that say what a user did wrong: their classes, their messages, and `require`."""

import pickle
import sys
from pathlib import Path

import pytest

from colbertz.errors import MissingExtra, UnknownDocument, UserError, require

ERRORS = [UserError, UnknownDocument, MissingExtra]


@pytest.mark.parametrize("error", ERRORS)
def test_a_user_error_is_a_value_error_and_prints_its_message(error: type[UserError]) -> None:
    """A KeyError by itself would print its message in quotes."""
    assert issubclass(error, ValueError)
    assert str(error("k must be at least 1, got 0")) == "k must be at least 1, got 0"


def test_each_error_is_also_what_python_programmers_expect() -> None:
    assert issubclass(UnknownDocument, KeyError)
    assert issubclass(MissingExtra, ModuleNotFoundError)
    assert not issubclass(UserError, KeyError | OSError)


@pytest.mark.parametrize("error", ERRORS)
def test_errors_pass_from_one_process_to_another(error: type[UserError]) -> None:
    copy = pickle.loads(pickle.dumps(error("naïve: 'x'")))  # noqa: S301
    assert type(copy) is error and str(copy) == "naïve: 'x'"


def test_require_returns_the_module() -> None:
    assert require("json", "train").dumps(1) == "1"
    assert require("os.path", "train").join is not None


@pytest.mark.parametrize("module", ["package_that_nobody_has", "package_that_nobody_has.inner"])
def test_require_says_how_to_install_a_missing_package(module: str) -> None:
    with pytest.raises(MissingExtra) as caught:
        require(module, "eval")
    expected = 'package_that_nobody_has is not installed; install it with: pip install "colbertz[eval]"'
    assert str(caught.value) == expected


@pytest.mark.parametrize("source", ["import another_that_nobody_has", "raise ImportError('broken library')"])
def test_an_installed_package_that_does_not_work_keeps_its_own_error(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "package_that_breaks.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match=r"another_that_nobody_has|broken library") as caught:
        require("package_that_breaks", "eval")
    assert not isinstance(caught.value, MissingExtra)


def test_a_module_that_an_installed_package_lacks_keeps_its_own_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It used to be reported as if the whole package were missing."""
    (tmp_path / "package_of_an_old_version").mkdir()
    (tmp_path / "package_of_an_old_version/__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match=r"package_of_an_old_version\.parquet") as caught:
        require("package_of_an_old_version.parquet", "eval")
    assert not isinstance(caught.value, MissingExtra)
    assert "package_of_an_old_version" in sys.modules


def test_of_a_long_message_the_middle_is_left_out() -> None:
    """A value of a file, in a message, may have any length."""
    message = f"x is {'9' * 5000} and must be 1; write it again"
    assert len(str(UserError(message))) <= 1000
    assert str(UserError(message)).startswith("x is 99") and str(UserError(message)).endswith(
        "must be 1; write it again"
    )
    assert str(UserError("short")) == "short"
