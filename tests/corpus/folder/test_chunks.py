"""Chunks of files: every line is in one, they say where they are, and their size fits the model."""

import ast
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sources import SOURCES

from colbertz.corpus.folder import skipped
from colbertz.corpus.folder.chunks import Chunk, chunks_of, read_chunks, text_of
from colbertz.corpus.folder.cutting import MAX_SIZE, size_of
from colbertz.corpus.folder.sections import Text
from colbertz.corpus.folder.skipped import SkippedFile

# What makes a difference to one format or another, and letters.
WORDS = (
    "def f(x):|class A:|    def g(self):|        return 1|# one|## two|### three|===|---|```|~~~|<h1>a</h1>|<h2>|"
    "</h2>|"
    "<pre>|<script>|</script>|{|}|};|function f() {|end|.SH NAME|.B bold|[table]|"
    "key: value|'''|\"\"\"|/*|*/|//|- item|+++|"
    "@decorator|import x|public class A {|fn f() {|func f() {|x = 1|\\|\u2028|\x0c|\x1c|é|日本|if x:|<!--|-->|&amp;|"
)
LINE = st.one_of(
    st.sampled_from(WORDS.split("|")),
    st.text(st.characters(exclude_characters="\n\r\0", exclude_categories=["Cs"]), max_size=30),
    st.builds(lambda word, times: word * times, st.sampled_from(["word ", "x", "日"]), st.integers(100, 1500)),
)
LINES = st.builds(
    lambda lines, times: lines * times, st.lists(LINE, min_size=1, max_size=30), st.sampled_from([1, 1, 1, 8, 40])
)
NAMES = "a.py a.js a.ts a.tsx a.go a.rs a.java a.c a.h a.cpp a.cs a.rb a.php a.sh a.scala a.kt a.lua a.swift a.hs "
NAMES += "a.jl a.ml a.mli a.ex a.md a.rst a.txt a.html a.1 a.toml a.yaml a.json a.css a.sql Makefile LICENSE a.pl"


def check(chunks: list[Chunk], text: Text) -> None:
    """Raise unless each line that is not blank is in a chunk, and each chunk has the lines that it says."""
    covered: dict[int, list[str]] = {}
    for chunk in chunks:
        body = chunk.text.split("\n")[chunk.body_line :]
        assert 1 <= chunk.start <= chunk.end <= len(text.lines)
        if chunk.start == chunk.end:
            assert len(body) == 1 and body[0] in text.lines[chunk.start - 1]
        else:
            assert body == text.lines[chunk.start - 1 : chunk.end]
        assert sum(map(size_of, body)) <= MAX_SIZE + 1 or chunk.start == chunk.end
        for number, line in enumerate(body, chunk.start):
            covered.setdefault(number, []).append(line)
    for number, line in enumerate(text.lines, 1):
        if line.strip():
            pieces = covered.get(number, [])
            # A line that is cut: its pieces overlap, and together they are the line.
            joined = pieces[0]
            for piece in pieces[1:]:
                overlap = next(n for n in range(len(piece), -1, -1) if joined.endswith(piece[:n]))
                joined += piece[overlap:]
            assert joined == line or "".join(joined.split()) == "".join(line.split()) or len(set(line.split())) < 3


@settings(max_examples=150, deadline=None)
@given(LINES, st.sampled_from(NAMES.split()), st.sampled_from(["\n", "\r\n"]))
def test_every_line_is_in_a_chunk(lines: list[str], name: str, line_end: str) -> None:
    content = line_end.join(lines).encode()
    text, chunks = text_of(content, name), chunks_of(content, name)
    if isinstance(chunks, SkippedFile):
        blank = isinstance(text, Text) and not any(line.strip() for line in text.lines)
        assert blank or chunks.reason == skipped.GENERATED
        return
    assert isinstance(text, Text)
    check(chunks, text)
    assert chunks == chunks_of(content, name)


def chunks_in(source: str | Sequence[str], name: str) -> list[Chunk]:
    chunks = chunks_of((source if isinstance(source, str) else "\n".join(source)).encode(), name)
    assert isinstance(chunks, list), chunks
    return chunks


def definitions(tree: ast.AST, path: tuple[str, ...] = ()) -> list[tuple[str, int]]:
    """The functions and methods of a module as Python's own parser sees them, each with its first line."""
    found = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef):
            found += definitions(node, (*path, node.name))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            found.append((".".join((*path, node.name)), first))
    return found


def test_python_functions_are_those_of_pythons_parser() -> None:
    num_definitions = 0
    for path in SOURCES[::4]:
        source = path.read_text()
        chunks = chunks_in(source, path.name) if source else []
        for name, line in definitions(ast.parse(source)):
            num_definitions += 1
            holding = [chunk for chunk in chunks if chunk.start <= line <= chunk.end]
            assert holding, f"{path}:{line} {name}"
            # Short functions share a chunk, which has the name of their class.
            headings = {heading.rstrip("…, ") for chunk in holding for heading in chunk.heading.split(", ")}
            assert any(name == heading or name.startswith(f"{heading}.") for heading in headings) or (
                any("…" in chunk.heading or not chunk.heading for chunk in holding)
            ), f"{path}:{line} {name}: {headings}"
    assert num_definitions > 200


def test_a_long_function_repeats_its_signature() -> None:
    body = [f"    value_{i} = compute_something(value_{i - 1}, option={i})" for i in range(1, 60)]
    source = [
        "import os",
        "",
        "",
        "@cached",
        "def long_function(first: int,",
        "                  value_0: int) -> int:",
    ]
    source += ['    """Compute."""', *body, "    return value_59", "", "", "def next_one():", "    return 1"]
    chunks = [chunk for chunk in chunks_in(source, "a.py") if chunk.heading == "long_function"]
    assert len(chunks) > 2
    assert chunks[0].text.startswith("# long_function\n@cached\ndef long_function(first: int,\n")
    assert chunks[0].body_line == 1
    for previous, chunk in pairwise(chunks):
        assert chunk.text.startswith("# long_function\ndef long_function(first: int, value_0: int) -> int:\n    value_")
        assert chunk.body_line == 2
        assert previous.start < chunk.start <= previous.end < chunk.end


def test_a_big_class_is_cut_into_its_head_and_its_methods() -> None:
    source = [
        '"""A module."""',
        "",
        "class Index:",
        '    """Many words about the index."""',
        "",
        "    size: int = 3",
        "",
    ]
    for name in ("build", "search"):
        source += ["    # Says what it does.", "    @staticmethod", f"    def {name}(x):"]
        source += [f"        step_{name}_{i}(x, some_argument)" for i in range(18)] + [""]
    chunks = chunks_in(source, "src/index.py")
    assert [(chunk.heading, chunk.start, chunk.end) for chunk in chunks] == [
        ("Index", 1, 6),
        ("Index.build", 8, 28),
        ("Index.search", 30, 50),
    ]
    assert {chunk.kind for chunk in chunks} == {"code"}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("tests/helpers.py", "test"),
        ("test_a.py", "test"),
        ("pkg/a_test.go", "test"),
        ("src/a.spec.ts", "test"),
        ("src/ATest.java", "test"),
        ("src/latest.py", "code"),
        ("src/contest.go", "code"),
        ("README.md", "docs"),
        ("tests/README.md", "docs"),
        ("a.yaml", "data"),
    ],
)
def test_kinds(name: str, kind: str) -> None:
    assert {chunk.kind for chunk in chunks_in("x = 1\n", name)} == {kind}


def test_the_text_does_not_depend_on_the_folder() -> None:
    source = (Path(__file__).parents[3] / "colbertz/document.py").read_text()
    assert [c.text for c in chunks_in(source, "a/b/x.py")] == [c.text for c in chunks_in(source, "y.py")]


def test_short_functions_share_a_chunk() -> None:
    source = "\n\n".join(f"def f{i}(x):\n    return x + {i}" for i in range(4))
    assert [chunk.heading for chunk in chunks_in(source, "a.py")] == ["f0, f1, f2, …"]


def test_a_line_of_a_megabyte() -> None:
    line = " ".join(f"word{i}" for i in range(120_000))
    chunks = chunks_in(f"first\n{line}\nlast\n", "a.txt")
    assert {(chunk.start, chunk.end) for chunk in chunks[1:-1]} == {(2, 2)}
    words = {word for chunk in chunks for word in chunk.text.split()}
    assert words >= set(line.split())  # no word is broken
    assert max(len(chunk.text) for chunk in chunks) < 2000


def test_read_chunks_takes_the_content_and_nothing_of_the_path(tmp_path: Path) -> None:
    with tempfile.NamedTemporaryFile(suffix=".tmp", dir=tmp_path) as file:
        file.write(b"# Title\n\nwords\n")
        file.flush()
        chunks = read_chunks(Path(file.name), "docs/a.md")
    assert chunks == [Chunk("# Title\n\nwords", 1, 3, None, "Title", "docs", 0)]
