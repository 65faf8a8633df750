"""Errors of the tokenizers library as errors of the user.

The library raises plain `Exception` for input that it refuses. Where it did not expect the input, its Rust code panics,
which arrives as pyo3's `PanicException`: that class cannot be imported, and it is no `Exception`.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from colbertz.errors import UserError


@contextmanager
def library_errors(what: str, error_type: type[UserError] = UserError) -> Iterator[None]:
    """Raise `error_type` with "`what` (reason)" for what the tokenizers library raises in the block."""
    try:
        yield
    except BaseException as error:
        if type(error) is not Exception and type(error).__name__ != "PanicException":
            raise
        raise error_type(f"{what} ({' '.join(str(error).split()):.200})") from None
