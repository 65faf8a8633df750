"""Filters that try to take all time or memory: each is refused, stopped or evaluated, in little memory."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from colbertz.document import Document
from colbertz.errors import UserError
from colbertz.index.search.filters import matching
from colbertz.index.store.document_writer import write_documents
from colbertz.index.store.documents import Documents

MEGABYTE = 1 << 20
# What the filters may allocate together, beside what the process has when it starts.
MEMORY = 200 * MEGABYTE
# Characters of each of the two texts: one of the same letter, and one that is JSON.
LENGTH = 50_000


def nested(before: str, inner: str, after: str, times: int) -> str:
    return before * times + inner + after * times


FILTERS = [
    # These took gigabytes, or minutes in which nothing could stop them.
    nested("replace(", "text", ",'a','aaaaaaaaaa')", 20) + " = ''",
    f"instr(text, {nested('replace(', 'text', ', char(97), char(97, 97))', 12)}) > 0",
    "instr(text, substr(text, 1, length(text) / 2) || 'b') > 0",
    "(" * 50_000 + "1" + ")" * 50_000,
    "(" * 100_000,
    "[" * 100_000,
    '"' * 99_999,
    "'" * 99_999,
    "`a" * 50_000,
    "/*" * 50_000,
    "--" * 50_000,
    "/* *" * 25_000,
    "case " * 20_000,
    "not " * 25_000 + "1",
    "- " * 40_000 + "1",
    "1" + " or 1" * 19_000,
    "1" + " = 1" * 24_000,
    "1" + " between 0" + " and 1" * 15_000,
    "year in (" + "1," * 49_000 + "1)",
    "year in (" + "text," * 19_000 + "1)",
    "year in (" + ",".join(f"'{i}'" for i in range(12_000)) + ")",
    " or ".join(f"a{i}" for i in range(10_000)),
    "year " + "collate nocase " * 6000 + "= 1",
    "year " + "isnull " * 14_000,
    "9" * 99_000 + " = year",
    "0x" + "f" * 99_000 + " = year",
    "1" + "e1" * 40_000,
    "?" * 50_000,
    "?99999999999999999999",
    ":" * 50_000,
    "a." * 40_000 + "a",
    "coalesce(" + "text," * 15_000 + "1)",
    "max(" + "lower(text)," * 5000 + "1)",
    nested("lower(", "text", ")", 5000) + " = ''",
    nested("max(lower(text), ", "'x'", ", upper(text))", 16) + " = ''",
    nested("strftime(", "text", ")", 40) + " = ''",
    nested("date(text, ", "1", ")", 40) + " = ''",
    "trim(text, text) = ''",
    "printf('%1000000000d', 1) = ''",
    "format('%.*c', 1000000000, 'x') = ''",
    "length(zeroblob(1000000000)) = 1",
    "length(randomblob(1000000000)) = 1",
    "hex(hex(hex(hex(text)))) = ''",
    "quote(text) = ''",
    "(select group_concat(value) from json_each(text)) = ''",
    "(select json_group_array(value) from json_each(metadata)) = ''",
    nested("json_array(", "text", ", text)", 40) + " = ''",
    nested("json_quote(", "text", ")", 40) + " = ''",
    "json_extract(list" + ", '$'" * 10_000 + ") = ''",
    "list ->> '$" + "[0]" * 30_000 + "' = 1",
    "list -> '$[#-1]'" + " -> '$[#-1]'" * 5000,
    "text || text || text || text = ''",
    nested("(select v || v as v from (", "select text as v", "))", 30) + " = ''",
    "(with a as (select 1), b as (select 1 from a, a), c as (select 1 from b, b) select count(*) from c, c) > 0",
    "(with recursive n(x) as (values(1) union all select x + 1 from n) select count(*) from n) > 0",
    "(select count(*) from json_each(list) a, json_each(list) b, json_each(list) c) > 0",
    "(select count(distinct value) from json_each(list)) > 0",
    "1 in (select value from json_tree(metadata))",
    "1 in (select substr(text, value) from json_each(list))",
    "(select value from json_each(list) order by value) = 1",
    "(select value from json_each(list) group by value) = 1",
    "exists (select 1 from json_each(list) union all select 1 from json_each(list))",
    "(select sum(value) over () from json_each(list)) > 0",
    "(select 1) = 1",
    "(values (1)) = 1",
    "(year, year) = (1, 2)",
    "text like '" + "%a" * 48 + "%b'",
    "text like '%" + "a" * 95 + "b%'",
    "text glob '*" + "a" * 95 + "b*'",
    "text glob '*" + "[a-z]" * 19 + "B'",
    " or ".join(f"text like '%{'a' * 95}{i}%'" for i in range(40)),
    "text like text",
    "text regexp '(a+)+b'",
    "text match 'x'",
    "like(text, text)",
    # These are allowed and have to be stopped.
    nested("exists (select 1 from json_each(list) where ", "value = -1", ")", 4),
    nested("(select count(*) from json_each(list) where ", "1", ") > 0", 6),
    "(select sum((select count(*) from json_tree(t.value) where value = -1)) from json_tree(metadata) as t) > 0",
]

CHILD = """
import resource, sys, time
from pathlib import Path
import test_hostile_filters as tests
from colbertz.errors import UserError
from colbertz.index.search.filters import matching
from colbertz.index.store.documents import Documents

documents = Documents(Path(sys.argv[1]), 2)
matching([documents], "text like '%b%'")
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + tests.MEMORY, size + tests.MEMORY))
for i, where in enumerate(tests.FILTERS):
    started = time.perf_counter()
    try:
        result = str(matching([documents], where, max_seconds=0.1))
    except UserError as error:
        result = str(error)
    print(i, f"{time.perf_counter() - started:.2f}", where[:40], "->", result[-200:], flush=True)
"""


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "d.sqlite"
    list_of_numbers = list(range(2000))
    with write_documents(path) as writer:
        writer.add([Document("a", "a" * LENGTH, {"year": 1, "list": list_of_numbers})])
        writer.add([Document("b", "[" + "1," * (LENGTH // 2) + "1]", {"year": 2, "deep": [[[[list_of_numbers]]]]})])
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of memory is Linux's")
def test_no_filter_takes_all_time_or_memory(texts: Path) -> None:
    """Nested `replace` took 2.4 GB, `instr` 200 s in which Ctrl-C did nothing, and 100,000 brackets 9 s."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, texts],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent)])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert len(done.stdout.splitlines()) == len(FILTERS), done.stdout


@pytest.mark.parametrize("delay", [0.002, 0.01, 0.03, 0.1])
def test_an_interrupt_is_raised_as_such(delay: float, texts: Path) -> None:
    """SQLite's module swallowed the KeyboardInterrupt that Python raises in the function that looks at the clock."""
    documents = Documents(texts, 2)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(5):
            with pytest.raises(KeyboardInterrupt):
                signal.setitimer(signal.ITIMER_REAL, delay)
                matching([documents], nested("exists (select 1 from json_each(list) where ", "value = -1", ")", 4))
            assert [found.tolist() for found in matching([documents], "year = 2")] == [[1]]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_stopped_filter_says_so(texts: Path) -> None:
    where = nested("exists (select 1 from json_each(list) where ", "value = -1", ")", 4)
    with pytest.raises(UserError, match=r"was stopped after 0\.05 seconds"):
        matching([Documents(texts, 2)], where, max_seconds=0.05)
