"""Which documents a condition on their metadata selects, written as an SQL expression: `year > ? and lang = 'en'`.

The expression comes from the user, so it is first prepared against an empty table in memory that has the columns of all
segments together. There an authorizer sees every table and function that the expression names, unknown names are found
before any document is read, and there is no data to damage. Only then do the segments, which are open for reading only,
evaluate it.
"""

import re
import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import closing

import numpy as np

from colbertz.errors import UserError
from colbertz.index.search.options import Parameters
from colbertz.index.store.documents import OWN_COLUMNS, Documents, fold, quoted

# Seconds after which a filter is stopped. A filter reads all documents once, which takes milliseconds; only joins of
# json_each can take longer.
MAX_SECONDS = 60.0
# SQLite instructions between two looks at the clock.
_CLOCK_INTERVAL = 1_000_000

# The name of the table in memory. The segments have no table of this name, and the memory has none of theirs. So an
# expression can name neither: what a subquery finds would depend on which documents share a segment.
_TABLE = "all documents"
_TABLES = {_TABLE, "json_each", "json_tree"}

# Functions of one row whose cost is limited by the length of their arguments: none that reads or writes elsewhere, none
# that makes gigabytes from a short expression (printf, zeroblob), none that is random. Aggregates are for json_each.
_FUNCTIONS = set(
    """
    abs char coalesce glob hex ifnull iif instr length like likelihood likely lower ltrim max min nullif replace round
    rtrim sign substr substring trim typeof unicode unlikely upper
    acos acosh asin asinh atan atan2 atanh ceil ceiling cos cosh degrees exp floor ln log log10 log2 mod pi pow power
    radians sin sinh sqrt tan tanh trunc
    date time datetime julianday unixepoch strftime current_date current_time current_timestamp
    -> ->> json json_array json_array_length json_each json_extract json_object json_quote json_tree json_type
    json_valid avg count sum total
    """.split()
)

# SQL tokens that may contain a double quote; group 1 is the inside of a name in double quotes.
_QUOTED = re.compile(
    r"""'(?:[^']|'')*+' | "((?:[^"]|"")*+)" | `(?:[^`]|``)*+` | \[[^\]]*\] | --[^\n]* | /\*.*?(?:\*/|$)""",
    re.VERBOSE | re.DOTALL,
)


def matching(
    segments: Sequence[Documents], where: str, parameters: Parameters = (), max_seconds: float = MAX_SECONDS
) -> list[np.ndarray]:
    """The documents for which an SQL expression holds.

    The expression may name `id`, `text`, `metadata` (JSON) and every metadata key that a document has; a key that is
    not a plain word goes in double quotes. A document without the key has NULL there. Lists and dicts are JSON:
    `author ->> '$.name' = 'Ada'`, `exists (select 1 from json_each(tags) where value = 'new')`.

    Args:
        segments: documents that are searched together.
        where: an expression in SQLite's SQL, with functions of strings, numbers, dates and JSON.
        parameters: values for its `?` in order, or for its `:names`.
        max_seconds: when to stop, for all segments together.

    Returns:
        For each segment the local_idx of the documents, (num_matches,) int32, ascending.

    Raises:
        UserError: if the expression is not valid SQL, names an unknown field, does not fit the parameters, fails for a
            document, or takes longer than `max_seconds`.
        TypeError: if the expression is not a string, or a parameter has a type that SQL cannot compare.
    """
    if not isinstance(where, str):
        raise TypeError(f"a filter must be a string with an SQL expression, got {where!r} ({type(where).__name__})")
    if isinstance(parameters, str | bytes):
        raise TypeError(f"the parameters of a filter must be a list or a dict, got {parameters!r}; put it in a list")
    for value in parameters.values() if isinstance(parameters, Mapping) else parameters:
        if value is not None and not isinstance(value, str | bytes | int | float):
            raise TypeError(
                f"filter {where!r}: a parameter of type {type(value).__name__!r} is not supported;"
                f" pass strings, numbers, booleans or None, got {value!r}"
            )
    # SQLite takes "unknown" in double quotes as a string. In backquotes it is a name or an error.
    expression = _QUOTED.sub(lambda token: token[0] if token[1] is None else _backquoted(token[1]), where)
    known = {fold(name): name for segment in segments for name in segment.fields}
    # Only fields that the expression may name: all fields of all segments can be more columns than SQLite allows.
    fields = [name for name in known if _bare(name) in _bare(expression)]
    try:
        _check(expression, parameters, fields)
        deadline = time.monotonic() + max_seconds
        return [_matching_in(segment, expression, parameters, fields, deadline) for segment in segments]
    except (sqlite3.Error, sqlite3.Warning) as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
            message = f"was stopped after {max_seconds:g} seconds; make it simpler"
            raise UserError(f"filter {where!r} {message}") from error
        raise UserError(f"filter {where!r}: {_explanation(error, [*OWN_COLUMNS, *known.values()])}") from error
    except (UnicodeEncodeError, OverflowError) as error:
        raise UserError(f"filter {where!r} with parameters {parameters!r}: {error}") from error


def _backquoted(inside: str) -> str:
    return "`" + inside.replace('""', '"').replace("`", "``") + "`"


def _bare(sql: str) -> str:
    return fold(sql).replace("`", "")


def _check(expression: str, parameters: Parameters, fields: list[str]) -> None:
    """Prepare and run the expression on the empty table in memory.

    It is tried in one pair of brackets and in two: text that closes the only bracket early, such as
    `1) UNION SELECT (2`, is no valid SQL inside two.
    """
    columns = ", ".join([*OWN_COLUMNS, *map(quoted, fields)])
    with closing(sqlite3.connect(":memory:")) as connection:
        # WITHOUT ROWID: the expression cannot name the row's number, which changes when segments are merged.
        connection.execute(f"CREATE TABLE {quoted(_TABLE)} ({columns}, PRIMARY KEY (id)) WITHOUT ROWID")
        # The first use of these functions declares them as tables, an action that the authorizer below refuses.
        connection.execute("SELECT 1 FROM json_each('[]'), json_tree('[]')")
        connection.set_authorizer(_authorize)
        for condition in (f"({expression}\n)", f"(({expression}\n))"):
            connection.execute(f"SELECT 1 FROM {quoted(_TABLE)} WHERE {condition}", parameters)


def _authorize(action: int, first: str | None, second: str | None, database: str | None, source: str | None) -> int:
    allowed = (
        action == sqlite3.SQLITE_SELECT
        or (action == sqlite3.SQLITE_READ and first in _TABLES)
        or (action == sqlite3.SQLITE_FUNCTION and second is not None and second.lower() in _FUNCTIONS)
    )
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


def _matching_in(
    segment: Documents, expression: str, parameters: Parameters, fields: list[str], deadline: float
) -> np.ndarray:
    """The local_idx of the segment's documents for which the expression holds, int32, ascending.

    `deadline` is a time of `time.monotonic`.
    """
    stored = {fold(name) for name in segment.fields}
    columns = [f"fields.{quoted(n)} AS {quoted(n)}" if fold(n) in stored else f"NULL AS {quoted(n)}" for n in fields]
    # SQLite omits the join when the expression reads neither id, text nor metadata.
    query = f"""
        SELECT rowid FROM (
            SELECT {", ".join(["fields.rowid AS rowid", *OWN_COLUMNS, *columns])}
            FROM fields LEFT JOIN documents ON documents.number = fields.rowid
        ) WHERE ({expression}\n) ORDER BY rowid
    """
    with segment.reading() as connection:
        connection.set_progress_handler(lambda: time.monotonic() > deadline, _CLOCK_INTERVAL)
        try:
            return np.fromiter((local_idx for (local_idx,) in connection.execute(query, parameters)), np.int32)
        finally:
            connection.set_progress_handler(None, 0)


def _explanation(error: Exception, known: list[str]) -> str:
    """SQLite's message, with advice for the two most frequent mistakes; SQLite has no error codes for them."""
    message = str(error)
    unknown = re.fullmatch("no such column: (.*)", message, re.DOTALL)
    if unknown:
        return (
            f"no document has a field {unknown[1]!r}; fields are {', '.join(known)}, and strings go in 'single quotes'"
        )
    if "syntax error" in message:
        return f'{message}; names that are no plain words, or words of SQL, go in "double quotes"'
    return message
