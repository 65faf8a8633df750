"""The demo's corpus: the functions and classes of the installed Python packages, read with `ast` and never imported.

A query is the first sentence of a docstring, its document the same function's qualified name, signature and body
without the docstring and without comments that repeat it. Some packages that every installation has are held out:
nothing of them is trained on, and they are what the demo's closing table is about.
"""

import ast
import inspect
import os
import re
import sysconfig
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

# torch brings networkx, and the others are in the standard library: every installation has them all.
HELD_OUT = frozenset(
    ["networkx", "email", "http", "urllib", "calendar", "datetime", "zipfile", "statistics", "mailbox"]
)
MAX_CHARACTERS = 2000  # of a document: about twice what the nano model reads, and what a search result can show
MIN_QUERY_WORDS, MAX_QUERY_WORDS = 3, 40

_SKIPPED = frozenset(
    "test tests testing _testing idlelib_test lib2to3 _vendor _vendored typeshed pydoc_data encodings "
    "site-packages dist-packages __pycache__ node_modules".split()
)
_GENERATED = re.compile(r"(?i)(do not edit|auto-?generated|generated (by|from|using)|this file (was|is) generated)")
_CALL_LIKE = re.compile(r"^[\w.]+\s*\(.*\)?(\s*->.*)?$")
_ROLE = re.compile(r":[\w:.+-]+:`(?:~[\w.]*\.)?([^`<]+?)(\s*<[^`>]*>)?`")
_SENTENCE_END = re.compile(r"(?<!\be\.g)(?<!\bi\.e)(?<!\bvs)(?<!\betc)(?<!\bcf)[.!?](?=\s|$)")


_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Function:
    """One documented function, method or class.

    Attributes:
        id: `path:line`, unique in the corpus.
        query: the first sentence of its docstring.
        document: a comment line with its qualified name, then its source without the docstring, dedented, at most
            `MAX_CHARACTERS` in all.
        package: the top-level package or module it belongs to.
        name: its qualified name, e.g. `email.message.Message.get_payload`.
        path: of the file, relative to the root it was found under.
        line: the 1-based line of its `def` or `class`.
        held_out: whether its package is one that is never trained on.
    """

    id: str
    query: str
    document: str
    package: str
    name: str
    path: str
    line: int
    held_out: bool


def default_roots() -> list[Path]:
    """The standard library and the site-packages of the running interpreter."""
    paths = sysconfig.get_paths()
    return [Path(p) for p in dict.fromkeys((paths["stdlib"], paths["purelib"], paths["platlib"]))]


def collect(
    roots: Sequence[Path],
    *,
    held_out: Iterable[str] = HELD_OUT,
    only: Iterable[str] | None = None,
    processes: int = 1,
) -> list[Function]:
    """Every documented function under `roots`, the same on every run over the same files.

    Args:
        roots: directories that contain packages; one inside another is only read as itself.
        held_out: names of top-level packages to be marked as never trained on.
        only: names of the top-level packages to read beside those held out; without it every one. What else is
            installed then decides nothing, not even which of two functions that are alike stays.
        processes: how many processes parse the files.

    Raises:
        FileNotFoundError: if a root is no directory.
    """
    for root in roots:
        if not root.is_dir():
            raise FileNotFoundError(f"{root} is not a directory; give directories that contain Python packages")
    names = frozenset(held_out)
    files = [(root, path) for root in roots for path in _python_files(root)]
    if only is not None:
        read = names.union(only)
        files = [(root, path) for root, path in files if _package(path.relative_to(root)) in read]
    if processes == 1:
        found = [_read_file(*file) for file in files]
    else:
        # Forking is not safe after torch has started its threads.
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            found = list(pool.map(_read_file, *zip(*files), chunksize=64))
    return list(_deduplicated((f for functions in found for f in functions), names))


def first_sentence(docstring: str) -> str:
    """The first sentence of a docstring as plain text: no markup, no leading call signature, one line."""
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(docstring)):
        text = " ".join(paragraph.split())
        if not text or _CALL_LIKE.match(text):
            continue
        text = _ROLE.sub(r"\1", text).replace("``", "").replace("`", "").replace("**", "")
        end = _SENTENCE_END.search(text)
        return (text[: end.start()] if end else text).strip(" :-#*\"'")
    return ""


def _python_files(root: Path) -> Iterator[Path]:
    for directory, subdirectories, names in os.walk(root):
        subdirectories[:] = sorted(d for d in subdirectories if d not in _SKIPPED and not d.startswith("."))
        for name in sorted(names):
            if name.endswith(".py") and not name.startswith("test_") and name != "conftest.py":
                yield Path(directory, name)


def _package(path: Path) -> str:
    return path.parts[0].removesuffix(".py")


def _read_file(root: Path, path: Path) -> list[Function]:
    """The documented functions of one file; none if it is generated or no Python 3 source."""
    try:
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):  # old or broken syntax, not UTF-8 or NUL bytes, absurd nesting
        return []
    if _GENERATED.search(source[:1000]):
        return []
    relative = path.relative_to(root)
    module = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
    lines = source.splitlines()
    found = (_extract(node, name, lines, relative.as_posix()) for node, name in _definitions(tree, module))
    return [function for function in found if function is not None]


def _definitions(parent: ast.AST, prefix: str) -> Iterator[tuple[_Definition, str]]:
    """Every function and class with its qualified name, but nothing inside functions."""
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, ast.ClassDef):
            yield node, f"{prefix}.{node.name}"
            yield from _definitions(node, f"{prefix}.{node.name}")
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node, f"{prefix}.{node.name}"
        elif isinstance(node, (ast.If, ast.Try)):
            yield from _definitions(node, prefix)


def _extract(node: _Definition, name: str, lines: list[str], path: str) -> Function | None:
    docstring = ast.get_docstring(node, clean=False)
    if not docstring or all(_is_trivial(statement) for statement in node.body):
        return None
    query = first_sentence(docstring)
    if not MIN_QUERY_WORDS <= len(query.split()) <= MAX_QUERY_WORDS:
        return None
    dropped = _docstring_lines(node)
    words = _normalised(docstring)
    kept = [
        line.rstrip()
        for number, line in enumerate(lines[node.lineno - 1 : node.end_lineno], node.lineno)
        if number not in dropped and line.strip() and not _repeats(line, words)
    ]
    document = f"# {name}\n" + textwrap.dedent("\n".join(kept))
    if len(document) > MAX_CHARACTERS:
        document = document[:MAX_CHARACTERS].rpartition("\n")[0]
    package = _package(Path(path))
    return Function(f"{path}:{node.lineno}", query, document, package, name, path, node.lineno, held_out=False)


def _is_trivial(statement: ast.stmt) -> bool:
    """A docstring, `...`, `pass` or `raise NotImplementedError`."""
    if isinstance(statement, ast.Raise) and statement.exc is not None:
        raised = statement.exc.func if isinstance(statement.exc, ast.Call) else statement.exc
        return isinstance(raised, ast.Name) and raised.id == "NotImplementedError"
    return isinstance(statement, ast.Pass) or (
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    )


def _docstring_lines(node: _Definition) -> set[int]:
    """The lines of the docstrings of a definition and of everything inside it."""
    numbers: set[int] = set()
    for inner in ast.walk(node):
        if isinstance(inner, _DEFINITIONS) and ast.get_docstring(inner, clean=False) is not None:
            first = inner.body[0]
            if first.lineno > inner.lineno:
                numbers.update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return numbers


def _normalised(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def _repeats(line: str, docstring: str) -> bool:
    comment = line.strip()
    return comment.startswith("#") and len(comment.split()) > 3 and _normalised(comment) in docstring


def _deduplicated(functions: Iterable[Function], held_out: frozenset[str]) -> Iterator[Function]:
    """Without repeated queries and documents; of a pair across the split the held-out one stays, so nothing leaks."""
    marked = [replace(f, held_out=f.package in held_out) for f in functions]
    seen: set[str] = set()
    kept: set[int] = set()
    for position, function in sorted(enumerate(marked), key=lambda item: not item[1].held_out):
        source = function.document.partition("\n")[2]  # the name above it is where a copied function differs
        keys = {f"query {_normalised(function.query)}", f"document {_normalised(source)}"}
        if not keys & seen:
            seen |= keys
            kept.add(position)
    return (function for position, function in enumerate(marked) if position in kept)
