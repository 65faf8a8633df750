"""Which documents a condition on their metadata selects, written as an SQL expression: `year > ? and lang = 'en'`.

`expression.py` reads the expression, which comes from the user, and refuses what has no bounded cost. Here its fields
are replaced by columns, and SQLite evaluates it: first for an empty table in memory, which finds mistakes before any
document is read, then for the segments, which are open for reading only.
"""

import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager

import numpy as np

from colbertz.errors import UnknownField, UserError
from colbertz.index.search.expression import Expression, parse
from colbertz.index.search.options import Parameters, SearchOptions
from colbertz.index.store.documents import OWN_COLUMNS, Documents, fold, quoted, set_limits

# SQLite's instructions between two looks at the clock: few, because one may compare a long text with a pattern.
_CLOCK_INTERVAL = 30
# Characters of all parameters together, or bytes.
MAX_PARAMETERS = 1_000_000
# Fields that a message lists.
_LISTED_FIELDS = 30


def matching(
    segments: Sequence[Documents],
    where: str,
    parameters: Parameters = (),
    max_seconds: float = SearchOptions.where_seconds,
) -> list[np.ndarray]:
    """The documents for which an SQL expression holds.

    The expression may name `id`, `text`, `metadata` (JSON) and every metadata key that a document has; a key that is
    not a plain word goes in double quotes. A document without the key has NULL there. Lists and dicts are JSON:
    `author ->> '$.name' = 'Ada'`, `exists (select 1 from json_each(tags) where value = 'new')`.

    Args:
        segments: documents that are searched together.
        where: an expression in the part of SQLite's SQL that `expression.py` describes.
        parameters: values for its `?` in order, or for its `:names`.
        max_seconds: when to stop, for all segments together.

    Returns:
        For each segment the local_idx of the documents, (num_matches,) int32, ascending.

    Raises:
        UnknownField: if it names a field that no document has.
        UserError: if the expression is not valid, has something that a filter may not have, does not fit the
            parameters, fails for a document, or takes longer than `max_seconds`.
        TypeError: if the expression is not a string, or a parameter has a type that SQL cannot compare.
    """
    _check_types(where, parameters)
    known = {fold(name): name for segment in segments for name in segment.fields}
    try:
        expression = parse(where)
        _check_fields(expression.fields, known)
        _check(expression, parameters)
        with _clock(max_seconds) as clock:
            return [_matching_in(segment, expression, parameters, clock) for segment in segments]
    except UserError as error:
        raise type(error)(f"filter {where!r:.200}: {error}") from error
    except (sqlite3.Error, sqlite3.Warning, UnicodeEncodeError, OverflowError) as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
            message = f"was stopped after {max_seconds:g} seconds; make it simpler"
            raise UserError(f"filter {where!r:.200} {message}") from error
        raise UserError(f"filter {where!r:.200} with parameters {parameters!r:.200}: {error}") from error


def _check_types(where: object, parameters: Parameters) -> None:
    if not isinstance(where, str):
        raise TypeError(f"a filter must be a string with an SQL expression, got {where!r} ({type(where).__name__})")
    if isinstance(parameters, str | bytes):
        raise TypeError(f"the parameters of a filter must be a list or a dict, got {parameters!r}; put it in a list")
    values = list(parameters.values() if isinstance(parameters, Mapping) else parameters)
    for value in values:
        if value is not None and not isinstance(value, str | bytes | int | float):
            raise TypeError(
                f"filter {where!r:.200}: a parameter of type {type(value).__name__!r} is not supported;"
                f" pass strings, numbers, booleans or None, got {value!r}"
            )
    total = sum(len(value) for value in values if isinstance(value, str | bytes))
    if total > MAX_PARAMETERS:
        raise UserError(
            f"filter {where!r:.200}: its parameters have {total:,} characters and may have {MAX_PARAMETERS:,};"
            " to allow many documents, pass their ids as subset"
        )


def _check_fields(fields: Sequence[str], known: Mapping[str, str]) -> None:
    for name in fields:
        if fold(name) not in OWN_COLUMNS and fold(name) not in known:
            names = [*OWN_COLUMNS, *known.values()]
            more = f" and {len(names) - _LISTED_FIELDS} more" if len(names) > _LISTED_FIELDS else ""
            raise UnknownField(
                f"no document has a field {name!r:.80}; fields are {', '.join(names[:_LISTED_FIELDS])}{more}, and"
                " strings go in 'single quotes'"
            )


def _check(expression: Expression, parameters: Parameters) -> None:
    """Prepare and run the expression on an empty table in memory."""
    columns = ", ".join(["number", *(f"c{i}" for i in range(len(expression.fields)))])
    with closing(sqlite3.connect(":memory:")) as connection:
        set_limits(connection)
        connection.execute(f"CREATE TABLE found ({columns})")
        connection.execute(f"SELECT number FROM found WHERE ({expression.sql})", parameters)


@contextmanager
def _clock(max_seconds: float) -> Iterator[Callable[[], bool]]:
    """A function for SQLite to call: whether it is time to stop.

    SQLite's module drops exceptions that the function raises, and Python handles Ctrl-C wherever it runs next, so most
    likely in there. A generator is within the `try` whenever it runs; the exception is raised when the block ends.
    """
    raised: list[BaseException] = []

    def stops() -> Iterator[bool]:
        deadline = time.monotonic() + max_seconds
        try:
            while True:
                yield time.monotonic() > deadline
        except BaseException as error:
            raised.append(error)
            raise

    generator = stops()
    next(generator)
    try:
        yield generator.__next__
    finally:
        if raised:
            raise raised[0] from None


def _matching_in(
    segment: Documents, expression: Expression, parameters: Parameters, clock: Callable[[], bool]
) -> np.ndarray:
    """The local_idx of the segment's documents for which the expression holds, int32, ascending."""
    stored = {fold(name) for name in segment.fields}
    columns = ["fields.rowid AS number"]
    for i, name in enumerate(expression.fields):
        table = "documents" if fold(name) in OWN_COLUMNS else "fields"
        is_column = table == "documents" or fold(name) in stored
        columns.append(f"{f'{table}.{quoted(name)}' if is_column else 'NULL'} AS c{i}")
    # SQLite omits the join when the expression reads neither id, text nor metadata.
    query = f"""
        SELECT number FROM (
            SELECT {", ".join(columns)} FROM fields LEFT JOIN documents ON documents.number = fields.rowid
        ) AS found WHERE ({expression.sql}) ORDER BY number
    """
    with segment.reading() as connection:
        connection.set_progress_handler(clock, _CLOCK_INTERVAL)
        try:
            found = [local_idx for (local_idx,) in connection.execute(query, parameters)]
        finally:
            connection.set_progress_handler(None, 0)
    return segment.checked(np.array(found, np.int64))
