"""What a user did wrong, as exceptions that every program around the library can tell from a bug.

The command line turns a `UserError` and any `OSError` (a file that is missing, a full disk) into one sentence and exit
status 2. A server answers a `UserError` with a status of 4xx. Every other exception is a bug and keeps its traceback.
"""

from importlib import import_module
from types import ModuleType


class UserError(ValueError):
    """Input that cannot be used. The message says what is wrong, the value, and what to do."""

    # KeyError, from which a subclass may inherit too, would put the message in quotes.
    __str__ = Exception.__str__


class UnknownDocument(UserError, KeyError):
    """A document id that the index does not have."""


class MissingExtra(UserError, ModuleNotFoundError):
    """A package that is installed only by one of colbertz's extras."""


def require(module: str, extra: str) -> ModuleType:
    """Import a package that an extra installs.

    Args:
        module: what to import, such as "pyarrow.parquet".
        extra: the extra of setup.py that installs it.

    Raises:
        MissingExtra: if the package is not installed, with the command that installs it.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != package:
            raise  # the package is installed and lacks one of its own requirements
        raise MissingExtra(f'{package} is not installed; install it with: pip install "colbertz[{extra}]"') from None
