"""Source code as sections: functions, classes and methods with their comments, and the rest of the file between them.

The syntax tree of tree-sitter says where definitions begin. A section goes from one beginning to the next, so that
every line is in exactly one, also where the file has errors.
"""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from colbertz.corpus.folder.cutting import MAX_CHARACTERS
from colbertz.corpus.folder.languages import LANGUAGES, Language, node_types, parser_of
from colbertz.corpus.folder.sections import Section, Text

if TYPE_CHECKING:
    from tree_sitter import Node

# Definitions inside each other, beyond which they are not looked for.
_MAX_DEPTH = 20
# Statements inside each other, beyond which a long function is not cut at their borders.
_MAX_NESTING = 12
_MAX_SIGNATURE = 200
# Words that define something in Elixir, and whether definitions stand inside.
_ELIXIR = {
    **dict.fromkeys(["def", "defp", "defmacro", "defmacrop", "defguard", "defdelegate", "test"], False),
    **dict.fromkeys(["defmodule", "defprotocol", "defimpl", "describe"], True),
}
_CPP_HEADER = re.compile(
    r"(?m)^\s*(class\s+\w+[^;]*[{:]?$|template\s*<|namespace\s+\w*\s*\{|using\s+\w|public:|private:|protected:)"
)


class _Sections:
    """Collects the beginnings of sections in the order of the lines."""

    def __init__(self, language: str, source: bytes):
        self.row: Language = LANGUAGES[language]
        self.roles = node_types(language)
        self.source = source
        self.begins: list[tuple[int, tuple[str, ...], str]] = [(0, (), "")]
        self.long: list[Node] = []

    def begin(self, line: int, path: tuple[str, ...], signature: str = "") -> None:
        """Let a section begin; on the line where another begins already, the first one stays unless it is a rest."""
        last, _, last_signature = self.begins[-1]
        if line > last:
            self.begins.append((line, path, signature))
        elif line == last and not last_signature:
            self.begins[-1] = (line, path, signature)

    def visit(self, parent: "Node", path: tuple[str, ...], depth: int) -> None:
        """Find the definitions among the children of a node."""
        first_leading: int | None = None
        leading_end = -1
        for node in parent.named_children:
            begin_row, end_row = node.start_point.row, _end_row(node)
            role = self._role(node)
            if role == "leading" or "comment" in node.type:
                # A comment belongs to what follows it without a blank line, unless it is at the end of a line of code.
                if first_leading is None or begin_row > leading_end + 1:
                    first_leading = begin_row
                leading_end = end_row
                continue
            start = begin_row
            if first_leading is not None and begin_row <= leading_end + 1:
                start = first_leading
            first_leading = None
            self._definition(node, role, path, start, depth)

    def _definition(self, node: "Node", role: str, path: tuple[str, ...], start: int, depth: int) -> None:
        if role == "functions" or (role == "values" and self._has_function(node)):
            own = (*path, *self._name(node))
            self.begin(start, own, self._signature(node))
            self.long.append(node)
            self.begin(_end_row(node) + 1, path)
        elif role == "containers":
            own = (*path, *self._name(node))
            self.begin(start, own, self._signature(node))
            is_long = node.end_byte - node.start_byte > MAX_CHARACTERS // 2
            if depth < _MAX_DEPTH and is_long:
                body = self._body(node)
                self.visit(body, own, depth + 1)
            self.begin(_end_row(node) + 1, path)
        elif role == "wrappers" and depth < _MAX_DEPTH:
            inner = [child for child in node.named_children if self._role(child) in ("functions", "containers")]
            if len(inner) == 1 and inner[0].end_byte >= node.end_byte - 2:
                self._definition(inner[0], self._role(inner[0]), path, start, depth + 1)
            else:
                self.visit(node, path, depth + 1)
        elif not role and depth < _MAX_DEPTH and node.type in ("if_statement", "try_statement", "ERROR", "block"):
            self.visit(node, path, depth + 1)

    def _role(self, node: "Node") -> str:
        if self.row.calls and node.type == "call":
            target = node.child_by_field_name("target")
            word = self._text(target) if target is not None else ""
            return "" if word not in _ELIXIR else "containers" if _ELIXIR[word] else "functions"
        return self.roles.get(node.type, "")

    def _has_function(self, node: "Node") -> bool:
        """Whether a declaration gives a name to a function, as `const f = () => …` does."""
        wanted = self.row.function_values.split()
        nodes = [node]
        for _ in range(3):
            nodes = [child for inner in nodes for child in inner.named_children]
            if any(child.type in wanted for child in nodes):
                return node.end_point.row > node.start_point.row
        return False

    def _body(self, node: "Node") -> "Node":
        body = node.child_by_field_name("body") or node.child_by_field_name("declarations")
        if body is not None:
            return body
        bodies = [child for child in node.named_children if child.type.endswith(("body", "block", "declaration_list"))]
        return bodies[-1] if bodies else node

    def _name(self, node: "Node") -> tuple[str, ...]:
        """The name of a definition; () if it has none."""
        if self.row.calls:
            arguments = next((child for child in node.named_children if child.type == "arguments"), None)
            first = arguments.named_children[0] if arguments is not None and arguments.named_children else None
            return (self._text(first).partition("(")[0].partition(" when ")[0].strip().strip('"'),) if first else ()
        found: Node | None = node
        for _ in range(6):
            assert found is not None
            named = found.child_by_field_name("name") or found.child_by_field_name("type")
            declarator = found.child_by_field_name("declarator")
            if declarator is not None and found.type not in ("variable_declarator",):
                found = declarator
                continue
            if named is not None:
                found = named
            break
        assert found is not None
        if found is node:
            children = [child for child in node.named_children if "comment" not in child.type]
            if not children:
                return ()
            first = children[0]
            found = first.child_by_field_name("name") or first
        text = " ".join(self._text(found).split())
        receiver = node.child_by_field_name("receiver")
        if receiver is not None:  # a method in Go
            owner = re.findall(r"\w+", re.sub(r"\[.*", "", self._text(receiver)))
            return (*owner[-1:], text[:80])
        return (text[:80],) if text else ()

    def _signature(self, node: "Node") -> str:
        """The definition up to its body, on one line."""
        body = node.child_by_field_name("body")
        end = body.start_byte if body is not None else node.end_byte
        text = self.source[node.start_byte : min(end, node.start_byte + 4 * _MAX_SIGNATURE)].decode(errors="replace")
        if body is None:
            text = text.partition("\n")[0]
        return " ".join(text.split()).rstrip("{").rstrip()[:_MAX_SIGNATURE] or "…"

    def _text(self, node: "Node") -> str:
        return self.source[node.start_byte : node.end_byte].decode(errors="replace")


def code(lines: list[str], language: str) -> Text:
    """The sections of a source file, and where its statements begin.

    Args:
        lines: of the file.
        language: a key of `LANGUAGES`, or "header" for a C or C++ header.
    """
    if language == "header":
        language = "cpp" if _CPP_HEADER.search("\n".join(lines)) else "c"
    source = "\n".join(lines).encode()
    tree = parser_of(language).parse(source)
    found = _Sections(language, source)
    found.visit(tree.root_node, (), 0)
    begins = [begin for begin in found.begins if begin[0] < len(lines)]
    ends = [*(begin[0] for begin in begins[1:]), len(lines)]
    sections = [Section(begin, end, path, signature) for (begin, path, signature), end in zip(begins, ends)]
    is_long = sum(map(len, lines)) > MAX_CHARACTERS
    return Text(lines, sections, ".", dict(_statements(tree.root_node)) if is_long else {})


def _statements(root: "Node") -> Iterator[tuple[int, int]]:
    """Lines on which a node begins that is the first of its line, and how deep it is nested; deepest first."""
    depths: dict[int, int] = {}
    level, depth = [root], 0
    while level and depth < _MAX_NESTING:
        for node in level:
            depths.setdefault(node.start_point.row, depth)
        level = [
            child
            for node in level
            if node.end_point.row > node.start_point.row
            for child in node.named_children
            if child.start_point.row > node.start_point.row or child.end_point.row > child.start_point.row
        ]
        depth += 1
    yield from depths.items()


def _end_row(node: "Node") -> int:
    """The last line of a node. Some grammars count the line end among it, which is not a line more."""
    row, column = node.end_point
    return row - 1 if column == 0 and row > node.start_point.row else row
