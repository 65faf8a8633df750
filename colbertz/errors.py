"""Errors of the user, as exceptions that the programs around the library can tell from bugs.

The command line turns a `UserError` and any `OSError` (a file that is missing, a full disk) into one sentence and exit
status 2. A server answers a `UserError` with a status of 4xx. Every other exception is a bug and keeps its traceback.
"""

import math
import os
from collections.abc import Sequence
from importlib import import_module
from numbers import Real
from types import ModuleType, NoneType
from typing import Any

# Characters of the longest message.
_MOST_CHARACTERS = 1000


class UserError(ValueError):
    """Input that cannot be used. The message says what is wrong, the value, and what to do.

    A value from a file may be of any length. Of a message with more than 1,000 characters the middle is left out.
    """

    def __str__(self) -> str:
        message = Exception.__str__(self)  # that of KeyError, which a subclass also inherits from, is in quotes
        if len(message) <= _MOST_CHARACTERS:
            return message
        return f"{message[: _MOST_CHARACTERS - 300]} … {message[-290:]}"


class UnknownDocument(UserError, KeyError):
    """A document id that the index does not have."""


class UnknownField(UserError):
    """A metadata field in a filter that no document has."""


class MissingExtra(UserError, ModuleNotFoundError):
    """A package that is not installed and that one of colbertz's extras would install."""


def check_integer(name: str, value: object, least: int) -> None:
    """Check an argument that is a count or a seed.

    Raises:
        TypeError: if it is not an integer; True and False are none.
        UserError: if it is below `least`.
    """
    # NumPy's integers count: they have __index__, as Python's have.
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an integer of at least {least}, got {value!r:.80}")
    if value.__index__() < least:
        raise UserError(f"{name} must be an integer of at least {least}, got {value!r}")


def check_number(name: str, value: object, least: float = -math.inf, most: float = math.inf) -> None:
    """Check an argument that is a number, such as a weight or a temperature.

    Raises:
        TypeError: if it is not a number; True and False are none.
        UserError: if it is NaN, or not from `least` to `most`.
    """
    bounds = f" from {least} to {most}" if most < math.inf else f" of at least {least}" if least > -math.inf else ""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number{bounds}, got {value!r:.80}")
    if not least <= float(value) <= most:
        raise UserError(f"{name} must be a number{bounds}, got {value!r}")


def check_path(name: str, value: object) -> None:
    """Raise TypeError unless the argument names a file or directory."""
    check_type(name, value, (str, os.PathLike), "a path")


def check_list(name: str, value: object) -> None:
    """Raise TypeError unless the argument is a list or another sequence that is not a string."""
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise TypeError(f"{name} must be a list, got {type(value).__name__}: {value!r:.80}")


def check_show_progress(value: object) -> None:
    """Raise TypeError unless it is True, False or None (a progress bar on a terminal only)."""
    check_type("show_progress", value, (bool, NoneType), "True, False or None")


def check_type(name: str, value: object, kinds: Any, words: str) -> None:
    """Raise TypeError, with what the argument must be in words, unless it is of these kinds, as for `isinstance`."""
    if not isinstance(value, kinds):
        raise TypeError(f"{name} must be {words}, got {type(value).__name__}: {value!r:.80}")


def require(module: str, extra: str) -> ModuleType:
    """Import a package that an extra installs.

    Args:
        module: the module to import, such as "pyarrow.parquet".
        extra: the extra of setup.py that installs its package.

    Raises:
        MissingExtra: if the package is not installed, with the command that installs it.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name != package:
            raise  # the package is installed, but a module of it or one of its own requirements is missing
        raise MissingExtra(f'{package} is not installed; install it with: pip install "colbertz[{extra}]"') from None
