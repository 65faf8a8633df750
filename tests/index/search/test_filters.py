"""Filters against the same condition in Python, and everything that an expression must not be able to do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from colbertz.document import Document
from colbertz.errors import UserError
from colbertz.index.search.filters import matching
from colbertz.index.store.document_writer import write_documents
from colbertz.index.store.documents import Documents


def segment(path: Path, documents: list[Document]) -> Documents:
    with write_documents(path) as writer:
        writer.add(documents)
    return Documents(path, writer.count)


FIRST = [
    Document("a", "An apple", {"year": 2019, "lang": "en", "tags": ["new", "red"], "ok": True}),
    Document("b", "Eine Birne", {"year": 2021, "lang": "de", "tags": [], "ok": False}),
    Document("c", None, {"year": 2022.5, "lang": "en", "author": {"name": "Ada"}}),
]
SECOND = [Document("0", "one", {"Year": 2023, "two words": 1, 'qu"o`te': 2, "": 3, "rowid": 9, "number": 4, "été": 5})]


@pytest.fixture
def segments(tmp_path: Path) -> list[Documents]:
    return [segment(tmp_path / "1.sqlite", FIRST), segment(tmp_path / "2.sqlite", SECOND)]


def matches(segments: list[Documents], where: str, parameters: Any = ()) -> list[list[int]]:
    local_idx = matching(segments, where, parameters)
    assert all(idx.dtype == np.int32 and idx.ndim == 1 for idx in local_idx)
    return [idx.tolist() for idx in local_idx]


@pytest.mark.parametrize(
    ("where", "parameters", "expected"),
    [
        ("year > ?", [2020], [[1, 2], [0]]),
        ("YEAR > 2020 and lang = 'en'", (), [[2], []]),
        ("year between :low and :high", {"low": 2019, "high": 2021}, [[0, 1], []]),
        ("lang is null", (), [[], [0]]),
        ("lang != 'en'", (), [[1], []]),
        ("ok", (), [[0], []]),
        ("not ok", (), [[1], []]),
        ("ok = ?", [True], [[0], []]),
        ("id in ('a', '0')", (), [[0], [0]]),
        ("id = 0", (), [[], [0]]),
        ("text like '%AP%' or text glob 'B*'", (), [[0], []]),
        ("text is null", (), [[2], []]),
        ("tags ->> 0 = 'new'", (), [[0], []]),
        ("exists (select 1 from json_each(tags) where value = ?)", ["red"], [[0], []]),
        ('(select count(*) from json_each(tags) as "t" where "t"."value" like \'%e%\') = 2', (), [[0], []]),
        ("author ->> '$.name' = 'Ada'", (), [[2], []]),
        ("json_extract(metadata, '$.rowid') = 9", (), [[], [0]]),
        ('"two words" = 1', (), [[], [0]]),
        ('[two words] = 1 and "Year" = 2023 and `year` = 2023', (), [[], [0]]),
        ('"qu""o`te" = 2', (), [[], [0]]),
        ("number = 4", (), [[], [0]]),
        ('"" = 3', (), [[], [0]]),
        ("été = 5", (), [[], [0]]),
        ("lang = 'en' -- trailing comment", (), [[0, 2], []]),
        ("lang = 'en' /* \" */ and year < 2020", (), [[0], []]),
        ("lang = '\"year\"' or lang = 'it''s'", (), [[], []]),
        ("date(2458485 + (year - 2019) * 365) < '2020-01-01'", (), [[0], []]),
        ("case when year > 2020 then lang when ok then 'x' else null end = 'en'", (), [[2], []]),
        ("case lang when 'de' then 1 else 0 end", (), [[1], []]),
        ("cast(year as text) = '2021' collate nocase", (), [[1], []]),
        ("'red' in (select value from json_each(tags))", (), [[0], []]),
        ("'RED' collate nocase in (select t.value from json_each(tags) as t where t.key > 0)", (), [[0], []]),
        ('id in (select "value" from json_each(?))', ['["a", "c", "0", "z"]'], [[0, 2], [0]]),
        ('year in (2019, -1, ?, "two words")', [2023], [[0], [0]]),
        ("year not in (2019) and lang not like 'd%' and year not between 0 and 9", (), [[2], []]),
        ("exists (select * from json_tree(metadata) where atom = 'Ada')", (), [[2], []]),
        ("(select max(length(value)) from json_each(tags)) = 3", (), [[0], []]),
        ("(select (select count(*) from json_each(tags) where value = t.value) from json_each(tags) t)", (), [[0], []]),
        ("lang isnull or ok is not null and not ok", (), [[1], [0]]),
        ("lang not null and year is not 2019", (), [[1, 2], []]),
        ("text like '%e B%' escape '\\' and - year < ~ 0 and year % 2 and year << 1 > 3 | 4", (), [[1], []]),
        ("0x7e7 = year or 1.5e3 > year or year = .5", (), [[], [0]]),
        ("x'61' = id", (), [[], []]),
        ("1", (), [[0, 1, 2], [0]]),
        ("true", (), [[0, 1, 2], [0]]),
        ("null", (), [[], []]),
    ],
)
def test_expressions(where: str, parameters: Any, expected: list[list[int]], segments: list[Documents]) -> None:
    assert matches(segments, where, parameters) == expected


@pytest.mark.parametrize(
    ("where", "parameters", "error", "message"),
    [
        ("yaer > 3", (), ValueError, "no document has a field 'yaer'; fields are id, text, metadata, "),
        ('lang = "en"', (), ValueError, "no document has a field 'en'; .*'single quotes'"),
        ("lang = en", (), ValueError, "no document has a field 'en'"),
        ('"lang_" = 1', (), ValueError, "no document has a field 'lang_'"),
        ("rowid = 1", (), ValueError, "no document has a field 'rowid'"),
        ("_rowid_ = 1 or oid = 1", (), ValueError, "no document has a field '_rowid_'"),
        ("lang = ", (), ValueError, "filter 'lang = '.*syntax error"),
        ("", (), ValueError, "syntax error"),
        ("lang = 'en", (), ValueError, "unrecognized token"),
        ("lang = ?", (), ValueError, r"'lang = \?'.*uses 1, and there are 0"),
        ("lang = 'en'", [1], ValueError, "uses 0, and there are 1"),
        ("lang = :x", {"y": 1}, ValueError, "did not supply a value for binding parameter :x"),
        ("lang = ?", [["en"]], TypeError, "filter .*type 'list' is not supported; pass strings, numbers"),
        ("lang = ?", "e", TypeError, "must be a list or a dict, got 'e'"),
        ("year = ?", [2**70], ValueError, "too large"),
        ("lang = ?", ["\ud800"], ValueError, "surrogates"),
        ("lang = '\ud800'", (), ValueError, "surrogates"),
        ("\ud800 = 1", (), ValueError, "no document has a field"),
        ("(" * 51 + "1" + ")" * 51, (), ValueError, "stand in each other more than 50 times"),
        ("1" + " or lower(id) = '1'" * 51, (), ValueError, "more than 50 calls"),
        ("1" + " or 1" * 2000, (), ValueError, "maximum depth 1000"),
        ("id = '" + "a" * 100_000 + "'", (), ValueError, "it has 100,007 characters and may have 100,000"),
        ("id = ?", ["a" * 1_000_001], ValueError, "1,000,001 characters and may have 1,000,000"),
        ("text like ?", ["a" * 101], ValueError, "LIKE or GLOB pattern too complex"),
        ("instr(text, 'x')", (), ValueError, "a filter cannot call 'instr'; it can call abs, acos"),
        ("lower(id, id) = 1", (), ValueError, "lower is called with 2 arguments and takes 1"),
        ("round() = 1", (), ValueError, "round is called with 0 arguments and takes 1 to 2"),
        ("lang || 'x' = 'enx'", (), ValueError, "cannot put strings together"),
        ("order = 1", (), ValueError, "no document has a field 'order'"),
        ("case = 1", (), ValueError, 'syntax error near =; names that are words of SQL.* in "double quotes"'),
        ("year in (year + 1)", (), ValueError, "syntax error"),
        ("year in (lower(lang))", (), ValueError, "holds numbers, strings, parameters and names"),
        ("id in (select lower(value) from json_each(tags))", (), ValueError, "selects value or key"),
        ("id in (select atom from json_tree(tags))", (), ValueError, r"from json_each\(…\) only"),
        ("tags.value = 1", (), ValueError, "before a dot stands the name of a json_each"),
        ("exists (select 1 from json_each(tags) t where t.rowid = 1)", (), ValueError, "one of its columns"),
        ("lang = '\0'", (), ValueError, "null character"),
        (None, (), TypeError, "must be a string with an SQL expression, got None"),
        ("text ->> '$.x' = 1", (), ValueError, "malformed JSON"),
        ("max(year)", (), ValueError, "misuse of aggregate"),
    ],
)
def test_mistakes(where: str, parameters: Any, error: type[Exception], message: str, segments: list[Documents]) -> None:
    with pytest.raises(error, match=message):
        matching(segments, where, parameters)


@pytest.mark.parametrize(
    "where",
    [
        "1) UNION SELECT 7 FROM fields WHERE (1",
        "1) UNION SELECT 7 WHERE (1",
        "1) UNION SELECT 7 --",
        "1) UNION SELECT 7 /*",
        "1)) UNION SELECT 7 /*",
        "1)) UNION SELECT 7 WHERE ((1",
        "1) LIMIT 1 --",
        "1) ORDER BY (year",
        "1); DROP TABLE documents; --",
        "1)); SELECT ((1",
        "1; SELECT 1",
        "(SELECT count(*) FROM documents) > 0",
        "(SELECT count(*) FROM fields) > 0",
        "(SELECT count(*) FROM postings) > 0",
        '(SELECT count(*) FROM "all documents") > 0',
        "(SELECT count(*) FROM sqlite_master) > 0",
        "(SELECT count(*) FROM sqlite_schema) > 0",
        "(SELECT count(*) FROM pragma_table_info('documents')) > 0",
        "(SELECT count(*) FROM pragma_database_list) > 0",
        "(SELECT count(*) FROM dbstat) > 0",
        "(WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n) > 0",
        "(DELETE FROM documents)",
        "(PRAGMA table_info(documents))",
        "load_extension('x')",
        "readfile('/etc/passwd')",
        "random() > 0",
        "length(randomblob(1000000000)) > 0",
        "length(zeroblob(1000000000)) > 0",
        "printf('%1000000000d', 1) = ''",
        "fts5(1)",
        "text MATCH 'x'",
        "sqlite_version() > ''",
        "raise(abort, 'x')",
    ],
)
def test_what_an_expression_must_not_do(where: str, segments: list[Documents]) -> None:
    before = [list(s) for s in segments]
    with pytest.raises(ValueError, match="filter "):
        matching(segments, where)
    assert [list(s) for s in segments] == before


def test_a_variable_that_hides_a_quote_does_not_break_out(segments: list[Documents]) -> None:
    """SQLite takes `:x(')` as one variable, where a reader of quotes sees the beginning of a string."""
    where = ":x(') OR 1) UNION SELECT 7 WHERE (:y(')"
    with pytest.raises(ValueError, match="syntax error"):
        matching(segments, where, {"x(')": 1, "y(')": 1})


def test_a_runaway_expression_is_stopped(segments: list[Documents]) -> None:
    many = "[" + ",".join("1" * 1000) + "]"
    joined = "a.value + b.value + c.value = 0"
    for name in "cba":
        joined = f"exists (select 1 from json_each(:l) {name} where {joined})"
    with pytest.raises(ValueError, match=r"was stopped after 0\.2 seconds"):
        matching(segments, joined, {"l": many}, max_seconds=0.2)
    assert matches(segments, "1") == [[0, 1, 2], [0]], "the limit is gone with the filter"


WORDS_OF_SQL = "true false null and or not in is like between case when end select from where exists cast collate"
OTHER_NAMES = [
    "value",
    "key",
    "rowid2",
    "order",
    "j1",
    "fields",
    "a.b",
    "it's",
    'a"b',
    "a`b",
    "[a]",
    "a]b",
    "été",
    "日本",
]


@pytest.mark.parametrize(
    "name", [*WORDS_OF_SQL.split(), *OTHER_NAMES, "two words", "", "--", "/*", "?", "current_date"]
)
def test_any_name_can_be_a_field(name: str, tmp_path: Path) -> None:
    """A field called `true` could not be filtered: SQLite took its name for the constant."""
    segments = [
        segment(tmp_path / "1.sqlite", [Document("a", None, {name: 5}), Document("b", None, {name: 0})]),
        segment(tmp_path / "2.sqlite", [Document("c", None, {"other": 1})]),
    ]
    as_sql = '"' + name.replace('"', '""') + '"'
    assert matches(segments, f"{as_sql} = 5") == [[0], []]
    assert matches(segments, f"{as_sql}") == [[0], []]
    assert matches(segments, f"{as_sql} is null") == [[], [0]]
    assert matches(segments, f"not {as_sql} and true is not null and '1' is not false") == [[1], []]
    assert matches(segments, f'exists (select 1 from json_each(\'[5]\') as "t t" where "T T".value = {as_sql})') == (
        [[0, 1], [0]] if name == "value" else [[], []] if name == "key" else [[0], []]
    )


def test_constants_are_constants_beside_fields_of_their_name(tmp_path: Path) -> None:
    segments = [segment(tmp_path / "1.sqlite", [Document("a", None, {"true": 0, "false": 1, "NULL": 2})])]
    assert matches(segments, "true") == [[0]]
    assert matches(segments, "false or null is not null") == [[]]
    assert matches(segments, '5 is true and "NULL" = 2 and "False" = 1') == [[0]]


def test_more_fields_than_a_statement_may_have(tmp_path: Path) -> None:
    segments = [
        segment(tmp_path / f"{s}.sqlite", [Document("d", None, {f"key {s} {i}": i for i in range(1000)})])
        for s in range(3)
    ]
    assert matches(segments, '"key 0 999" = 999 or "KEY 2 5" = 5') == [[0], [], [0]]


def test_no_segments() -> None:
    assert matching([], "id = 'a'") == []


OPERATORS: dict[str, Callable[[int, int], bool]] = {"<": int.__lt__, ">=": int.__ge__, "=": int.__eq__}


@given(
    years=st.lists(st.none() | st.integers(-3, 3), min_size=1, max_size=20),
    bound=st.integers(-3, 3),
    operator=st.sampled_from(sorted(OPERATORS)),
    cut=st.integers(1, 19),
)
def test_equals_python(
    years: list[int | None], bound: int, operator: str, cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("d")
    parts = [part for part in (years[:cut], years[cut:]) if part]
    segments = [
        segment(
            folder / f"{s}.sqlite",
            [Document(f"{i}", None, {} if year is None else {"year": year}) for i, year in enumerate(part)],
        )
        for s, part in enumerate(parts)
    ]
    if all(year is None for year in years):
        with pytest.raises(ValueError, match="no document has a field 'year'"):
            matching(segments, f"year {operator} ?", [bound])
        return
    expected = [[i for i, y in enumerate(part) if y is not None and OPERATORS[operator](y, bound)] for part in parts]
    assert matches(segments, f"year {operator} ?", [bound]) == expected


# A condition as SQL, and what it is for a document: true, false, or None for SQL's null.
Condition = tuple[str, Callable[[dict[str, Any]], bool | None]]


def compared(operator: str, left: Any, right: Any) -> bool | None:
    return None if left is None or right is None else OPERATORS[operator](left, right)


@st.composite
def comparisons(draw: st.DrawFn) -> Condition:
    name = draw(st.sampled_from(["n", "true", "two words"]))
    quoted, bound = f'"{name}"', draw(st.integers(-3, 3))
    kind = draw(st.sampled_from(["compare", "arithmetic", "null", "between", "in", "json", "like"]))
    operator = draw(st.sampled_from(sorted(OPERATORS)))
    if kind == "compare":
        return f"{quoted} {operator} {bound}", lambda d: compared(operator, d[name], bound)
    if kind == "arithmetic":
        other = "n"
        sql = f"abs({quoted} - {other}) * 2 {operator} {bound}"
        return (
            sql,
            lambda d: (
                None if d[name] is None or d[other] is None else compared(operator, abs(d[name] - d[other]) * 2, bound)
            ),
        )
    if kind == "null":
        return f"{quoted} is not null", lambda d: d[name] is not None
    if kind == "between":
        high = draw(st.integers(-3, 3))
        return (
            f"{quoted} not between {bound} and {high}",
            lambda d: None if d[name] is None else not bound <= d[name] <= high,
        )
    if kind == "in":
        items = draw(st.lists(st.integers(-3, 3), min_size=1, max_size=4))
        return f"{quoted} in ({', '.join(map(str, items))})", lambda d: None if d[name] is None else d[name] in items
    if kind == "json":
        sql = f"exists (select 1 from json_each(list) as t where t.value {operator} {bound})"
        return sql, lambda d: any(OPERATORS[operator](item, bound) for item in d["list"])
    part = draw(st.text("abA", max_size=2))
    return f"text like '%{part}%'", lambda d: part.lower() in d["text"].lower()


def combined(conditions: st.SearchStrategy[Condition]) -> st.SearchStrategy[Condition]:
    def both(pair: tuple[Condition, Condition]) -> Condition:
        (left, holds), (right, also) = pair
        # SQL's null is neither true nor false: it decides nothing.
        return (
            f"({left}) and ({right})",
            lambda d: False if holds(d) is False or also(d) is False else None if None in (holds(d), also(d)) else True,
        )

    def negation(condition: Condition) -> Condition:
        sql, holds = condition
        return f"not ({sql})", lambda d: None if holds(d) is None else not holds(d)

    def either(pair: tuple[Condition, Condition]) -> Condition:
        (left, holds), (right, also) = pair
        return (
            f"{left} or {right}",
            lambda d: True if holds(d) or also(d) else None if None in (holds(d), also(d)) else False,
        )

    pairs = st.tuples(conditions, conditions)
    return pairs.map(both) | conditions.map(negation) | pairs.map(either).map(lambda c: (f"({c[0]})", c[1]))


numbers = st.none() | st.integers(-3, 3)
RECORDS = st.fixed_dictionaries(
    {
        "n": numbers,
        "true": numbers,
        "two words": numbers,
        "list": st.lists(st.integers(-3, 3), max_size=3),
        "text": st.text("abA ", max_size=4),
    }
)


@given(
    records=st.lists(RECORDS, min_size=1, max_size=8),
    condition=st.recursive(comparisons(), combined, max_leaves=6),
)
def test_any_condition_equals_python(
    records: list[dict[str, Any]], condition: Condition, tmp_path_factory: pytest.TempPathFactory
) -> None:
    where, holds = condition
    documents = [
        Document(f"{i}", record["text"], {key: value for key, value in record.items() if key != "text"})
        for i, record in enumerate(records)
    ]
    found = matches([segment(tmp_path_factory.mktemp("d") / "d.sqlite", documents)], where)
    assert found == [[i for i, record in enumerate(records) if holds(record)]]


PIECES = "( ) , . ' \" ` [ ] -- /* */ ? :a 1 'x' n text and or not in is null like between case when end select".split()


@given(
    pieces=st.lists(
        st.sampled_from([*PIECES, *"from json_each exists cast as lower max || -> = < - \0 \ud800 é".split()])
    )
)
def test_anything_is_a_filter_or_a_mistake(pieces: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "one document.sqlite"
    documents = Documents(path, 1) if path.exists() else segment(path, [Document("a", "x", {"n": 1})])
    try:
        assert matches([documents], " ".join(pieces)) in ([[]], [[0]])
    except UserError as error:
        assert "filter " in str(error)
