"""Which documents a condition on their metadata selects, written as an SQL expression: `year > ? and lang = 'en'`.

The expression is the user's, so it is first prepared against an empty table in memory that has the columns of all
segments together. There an authorizer sees every table and function that it names, unknown names are found before any
document is read, and nothing could be lost. Only then do the segments, which are open for reading only, evaluate it.
"""

import re
import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import numpy as np

from colbertz.errors import UserError
from colbertz.index.store.documents import OWN_COLUMNS, Documents, fold, quoted

# A filter runs through all documents once, which takes milliseconds; only joins of json_each could go on for ever.
MAX_SECONDS = 60.0

# The name of the table in memory. The segments have no such table, nor the memory one of theirs, so that an expression
# can name neither: what a subquery finds would depend on which documents happen to share a segment.
_TABLE = "all documents"
_TABLES = {_TABLE, "json_each", "json_tree"}

# Functions of one row that cost no more than their arguments are long: nothing that reads or writes elsewhere, nothing
# that makes gigabytes of a short expression (printf, zeroblob), nothing random. Aggregates are for json_each.
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

# Tokens that may hold a double quote, and names in double quotes, whose inside is group 1.
_QUOTED = re.compile(
    r"""'(?:[^']|'')*+' | "((?:[^"]|"")*+)" | `(?:[^`]|``)*+` | \[[^\]]*\] | --[^\n]* | /\*.*?(?:\*/|$)""",
    re.VERBOSE | re.DOTALL,
)


def matching(
    segments: Sequence[Documents], where: str, parameters: Sequence[Any] | Mapping[str, Any] = ()
) -> list[np.ndarray]:
    """The documents for which an SQL expression holds.

    The expression may name `id`, `text`, `metadata` (JSON) and every metadata key that some document has; keys that
    are no plain words go in double quotes. A document without the key has NULL there. Lists and dicts are JSON:
    `author ->> '$.name' = 'Ada'`, `exists (select 1 from json_each(tags) where value = 'new')`.

    Args:
        segments: documents that are searched together.
        where: an expression in SQLite's SQL, with functions of strings, numbers, dates and JSON.
        parameters: values for its `?` in order, or for its `:names`.

    Returns:
        For each segment the (num_matches,) int32 numbers of its documents, ascending.

    Raises:
        ValueError: for an expression that is no such thing, names an unknown field, does not fit the parameters, fails
            for some document, or takes longer than a minute.
        TypeError: if the expression is not a string or a parameter nothing that SQL can compare.
    """
    if not isinstance(where, str):
        raise TypeError(f"a filter must be a string with an SQL expression, got {where!r} ({type(where).__name__})")
    if isinstance(parameters, str | bytes):
        raise TypeError(f"the parameters of a filter must be a list or a dict, got {parameters!r}; put it in a list")
    # SQLite would take "unknown" in double quotes as a string. In backquotes it is a name or an error.
    expression = _QUOTED.sub(lambda token: token[0] if token[1] is None else _backquoted(token[1]), where)
    known = {fold(name): name for segment in segments for name in segment.fields}
    # Those that the expression can mean, because thousands of fields would be more than a statement may have.
    fields = [name for name in known if _bare(name) in _bare(expression)]
    try:
        _check(expression, parameters, fields)
        deadline = time.monotonic() + MAX_SECONDS
        return [_numbers(segment, expression, parameters, fields, deadline) for segment in segments]
    except (sqlite3.Error, sqlite3.Warning) as error:
        raise _explained(error, where, [*OWN_COLUMNS, *known.values()]) from error
    except (UnicodeEncodeError, OverflowError) as error:
        raise UserError(f"filter {where!r} with parameters {parameters!r}: {error}") from error


def _backquoted(inside: str) -> str:
    return "`" + inside.replace('""', '"').replace("`", "``") + "`"


def _bare(sql: str) -> str:
    return fold(sql).replace("`", "")


def _check(expression: str, parameters: Sequence[Any] | Mapping[str, Any], fields: list[str]) -> None:
    """Prepare and run the expression where there is nothing to read.

    It is tried in one pair of brackets and in two, because what would break out of one, such as `1) UNION SELECT (2`,
    is no expression in the other.
    """
    columns = ", ".join([*OWN_COLUMNS, *map(quoted, fields)])
    with closing(sqlite3.connect(":memory:")) as connection:
        # WITHOUT ROWID, so that nobody can name the row's number, which changes when segments are merged.
        connection.execute(f"CREATE TABLE {quoted(_TABLE)} ({columns}, PRIMARY KEY (id)) WITHOUT ROWID")
        # Their first use declares them, which is an action that the authorizer must refuse to everyone else.
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


def _numbers(
    segment: Documents,
    expression: str,
    parameters: Sequence[Any] | Mapping[str, Any],
    fields: list[str],
    deadline: float,
) -> np.ndarray:
    own = {fold(name) for name in segment.fields}
    columns = [f"fields.{quoted(n)} AS {quoted(n)}" if fold(n) in own else f"NULL AS {quoted(n)}" for n in fields]
    # SQLite leaves out the join when the expression reads none of the document's own columns.
    query = f"""
        SELECT rowid FROM (
            SELECT {", ".join(["fields.rowid AS rowid", *OWN_COLUMNS, *columns])}
            FROM fields LEFT JOIN documents ON documents.number = fields.rowid
        ) WHERE ({expression}\n) ORDER BY rowid
    """
    with segment.reading() as connection:
        connection.set_progress_handler(lambda: time.monotonic() > deadline, 1_000_000)
        try:
            return np.fromiter((number for (number,) in connection.execute(query, parameters)), np.int32)
        finally:
            connection.set_progress_handler(None, 0)


def _explained(error: Exception, where: str, known: list[str]) -> UserError | TypeError:
    message = str(error)
    unknown = re.fullmatch("no such column: (.*)", message, re.DOTALL)
    if unknown:
        return UserError(
            f"filter {where!r}: no document has a field {unknown[1]!r}; fields are {', '.join(known)}, "
            "and strings go in 'single quotes'"
        )
    if message == "interrupted":
        return UserError(f"filter {where!r} was stopped after {MAX_SECONDS:g} seconds; make it simpler")
    if "type" in message and "not supported" in message:
        return TypeError(f"filter {where!r}: {message}; pass strings, numbers, booleans or None")
    if "syntax error" in message:
        message += '; names that are no plain words, or words of SQL, go in "double quotes"'
    return UserError(f"filter {where!r}: {message}")
