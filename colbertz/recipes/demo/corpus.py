"""The demo's corpus: the functions and classes of the installed Python packages, read with `ast` and never imported.

A query is the first sentence of a docstring. Its document is the same function's qualified name, signature and body,
without the docstring and without comments that repeat it. Some packages that every installation has are held out:
nothing of them is trained on, and the demo's closing table judges the model on them.
"""

import ast
import inspect
import itertools
import os
import re
import sysconfig
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

# Top-level packages that every installation has: torch requires networkx, the others are in the standard library.
HELD_OUT = frozenset(
    ["networkx", "email", "http", "urllib", "calendar", "datetime", "zipfile", "statistics", "mailbox"]
)
# Characters of a document: about twice what the nano model reads, and as much as a search result can show.
MAX_CHARACTERS = 2000
# Words of a query: shorter sentences ask for nothing, longer ones are no sentences.
MIN_QUERY_WORDS = 3
MAX_QUERY_WORDS = 40

# Folders without code that people search for: tests, copies of other packages, tables.
_SKIPPED = frozenset(
    "test tests testing _testing idlelib_test lib2to3 _vendor _vendored typeshed pydoc_data encodings "
    "site-packages dist-packages __pycache__ node_modules".split()
)
# In the first lines of a file that a program wrote.
_GENERATED = re.compile(r"(?i)(do not edit|auto-?generated|generated (by|from|using)|this file (was|is) generated)")
# A docstring that begins with the function's signature, as those of C functions do.
_SIGNATURE = re.compile(r"^[\w.]+\s*\(.*\)?(\s*->.*)?$")
# Sphinx markup, such as :class:`~io.File`.
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
        roots: directories that contain packages. A root inside another root is read once, as a root.
        held_out: names of top-level packages to mark as never trained on.
        only: names of the top-level packages to read besides those held out; None for all. With it, no other package
            that is installed changes the result, not even which of two equal functions stays.
        processes: number of processes that parse the files.

    Raises:
        FileNotFoundError: if a root is no directory.
    """
    for root in roots:
        if not root.is_dir():
            raise FileNotFoundError(f"{root} is not a directory; give directories that contain Python packages")
    held_out = frozenset(held_out)
    files = [(root, path) for root in roots for path in _python_files(root)]
    if only is not None:
        packages = held_out.union(only)
        files = [(root, path) for root, path in files if _package(path.relative_to(root)) in packages]
    if processes == 1:
        functions = [_read_file(*file) for file in files]
    else:
        # Forking is not safe after torch has started its threads.
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            functions = list(pool.map(_read_file, *zip(*files), chunksize=64))
    return _without_copies(itertools.chain.from_iterable(functions), held_out)


def first_sentence(docstring: str) -> str:
    """The first sentence of a docstring as plain text: no markup, no leading call signature, one line."""
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(docstring)):
        text = " ".join(paragraph.split())
        if not text or _SIGNATURE.match(text):
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
    """The documented functions of one file; none if a program wrote it or it is no Python 3 source."""
    try:
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        # Syntax of Python 2 or none, bytes that are not UTF-8 or NUL, nesting that is too deep.
        return []
    if _GENERATED.search(source[:1000]):
        return []
    relative = path.relative_to(root)
    module = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
    lines = source.splitlines()
    functions = (_extract(node, name, lines, relative.as_posix()) for node, name in _definitions(tree, module))
    return [function for function in functions if function is not None]


def _definitions(parent: ast.AST, prefix: str) -> Iterator[tuple[_Definition, str]]:
    """Yield every function and class with its qualified name, but nothing inside functions."""
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, ast.ClassDef):
            yield node, f"{prefix}.{node.name}"
            yield from _definitions(node, f"{prefix}.{node.name}")
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node, f"{prefix}.{node.name}"
        elif isinstance(node, (ast.If, ast.Try)):
            yield from _definitions(node, prefix)


def _extract(node: _Definition, name: str, lines: list[str], path: str) -> Function | None:
    """A definition as a query and its document; None without a docstring, a body or a usable query."""
    docstring = ast.get_docstring(node, clean=False)
    if not docstring or all(_is_trivial(statement) for statement in node.body):
        return None
    query = first_sentence(docstring)
    if not MIN_QUERY_WORDS <= len(query.split()) <= MAX_QUERY_WORDS:
        return None
    dropped = _docstring_lines(node)
    docstring_words = _words(docstring)
    kept = [
        line.rstrip()
        for line_number, line in enumerate(lines[node.lineno - 1 : node.end_lineno], node.lineno)
        if line_number not in dropped and line.strip() and not _repeats(line, docstring_words)
    ]
    document = f"# {name}\n" + textwrap.dedent("\n".join(kept))
    if len(document) > MAX_CHARACTERS:
        document = document[:MAX_CHARACTERS].rpartition("\n")[0]
    package = _package(Path(path))
    return Function(f"{path}:{node.lineno}", query, document, package, name, path, node.lineno, held_out=False)


def _is_trivial(statement: ast.stmt) -> bool:
    """Whether a statement is a docstring, `...`, `pass` or `raise NotImplementedError`."""
    if isinstance(statement, ast.Raise) and statement.exc is not None:
        raised = statement.exc.func if isinstance(statement.exc, ast.Call) else statement.exc
        return isinstance(raised, ast.Name) and raised.id == "NotImplementedError"
    return isinstance(statement, ast.Pass) or (
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    )


def _docstring_lines(node: _Definition) -> set[int]:
    """Line numbers of the docstrings of a definition and of everything inside it."""
    line_numbers: set[int] = set()
    for inner in ast.walk(node):
        if isinstance(inner, _DEFINITIONS) and ast.get_docstring(inner, clean=False) is not None:
            first = inner.body[0]
            if first.lineno > inner.lineno:
                line_numbers.update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return line_numbers


def _words(text: str) -> str:
    """The words of a text in lower case, without punctuation: the form in which code and docstrings are compared."""
    return " ".join(re.findall(r"\w+", text.lower()))


def _repeats(line: str, docstring_words: str) -> bool:
    """Whether a line is a comment of more than three words that the docstring has too."""
    comment = line.strip()
    return comment.startswith("#") and len(comment.split()) > 3 and _words(comment) in docstring_words


def _without_copies(functions: Iterable[Function], held_out: frozenset[str]) -> list[Function]:
    """Mark what is held out, and drop repeated queries and documents.

    Of a held-out function and its copy that is not held out, the held-out one stays: the model trains on no copy of it.
    """
    marked = [replace(function, held_out=function.package in held_out) for function in functions]
    seen: set[str] = set()
    kept: set[int] = set()
    for i, function in sorted(enumerate(marked), key=lambda item: not item[1].held_out):
        source = function.document.partition("\n")[2]  # without the name, in which a copied function differs
        keys = {f"query {_words(function.query)}", f"document {_words(source)}"}
        if not keys & seen:
            seen |= keys
            kept.add(i)
    return [function for i, function in enumerate(marked) if i in kept]
