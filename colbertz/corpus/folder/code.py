"""Source code as sections: functions, classes and methods with their comments, and the rest of the file between them.

The syntax tree of tree-sitter says where definitions begin. A section goes from one beginning to the next, so that
every line is in exactly one, also where the file has errors.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from colbertz.corpus.folder.cutting import MAX_SIZE
from colbertz.corpus.folder.languages import LANGUAGES, Language, node_types, parser_of
from colbertz.corpus.folder.sections import Section, Text

if TYPE_CHECKING:
    from tree_sitter import Node, Tree

# Definitions inside each other, beyond which they are not looked for.
_MAX_DEPTH = 20
# Statements inside each other, beyond which a long function is not cut at their borders.
_MAX_NESTING = 12
_MAX_SIGNATURE = 200
# tree-sitter reports each hundred operations as a step. Real files took at most one step for 66 bytes.
_STEPS = 100
_BYTES_PER_STEP = 10
_MAX_NAME = 80
# Nodes between a declaration and the function in it.
_VALUE_DEPTH = 4
# Statements in which definitions may stand.
_BLOCKS = frozenset("if_statement try_statement else_clause block statement_block compound_statement ERROR".split())
# Words that define something in Elixir, and whether definitions stand inside.
_ELIXIR = {
    **dict.fromkeys(["def", "defp", "defmacro", "defmacrop", "defguard", "defdelegate", "test"], False),
    **dict.fromkeys(["defmodule", "defprotocol", "defimpl", "describe"], True),
}
_CPP_HEADER = re.compile(
    r"(?m)^\s*(class\s+\w+[^;]*[{:]?$|template\s*<|namespace\s+\w*\s*\{|using\s+\w|public:|private:|protected:)"
)


# Declarators of C++ whose name is their first child.
_WITH_NAME_FIRST = ("reference_declarator", "parenthesized_declarator")
_SCOPES = re.compile(r"::")
# Where the name ends in the text of a definition's head: at parameters, a value, a type, a body.
_NAME = re.compile(r"(operator\s*\W+|[^\s(={:<\[\"'|]+(?:::?[^\s(={:<\[]+)*)")
_TYPE_ARGUMENTS = re.compile(r"<[^<>]*>")
# Lines that close what is open and say nothing else.
_CLOSING = re.compile(r"(?:\W|_|\bend\b|\besac\b|\bfi\b|\bdone\b)*")


class _Sections:
    """Collects the beginnings of sections in the order of the lines."""

    def __init__(self, language: str, source: bytes):
        self.row: Language = LANGUAGES[language]
        self.roles = node_types(language)
        self.source = source
        self.begins: list[tuple[int, tuple[str, ...], str]] = [(0, (), "")]

    def begin(self, line: int, path: tuple[str, ...], signature: str = "") -> None:
        """Let a section begin; on the line where another begins already, the first one stays unless it is a rest."""
        last, _, last_signature = self.begins[-1]
        if line > last:
            self.begins.append((line, path, signature))
        elif line == last and not last_signature:
            self.begins[-1] = (line, path, signature)

    def visit(self, parent: "Node", path: tuple[str, ...], depth: int, first_leading: int | None = None) -> None:
        """Find the definitions among the children of a node.

        `first_leading` is the line of a comment right before the node that belongs to its first child.
        """
        leading_end = parent.start_point.row - 1
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
        function = self._function_in(node) if role == "values" else None
        if function is not None and self._is_call(node):
            # describe("a queue", () => { … }), (function () { … })(): what is inside counts.
            own = (*path, *self._first_string(node))
            self.begin(start, own, self._signature(node) if own != path else "")
            if depth < _MAX_DEPTH:
                self.visit(self._body(function), own, depth + 1)
            self.begin(_end_row(node) + 1, path)
        elif role == "functions" or function is not None:
            own = (*path, *self._name(node))
            self.begin(start, own, self._signature(node))
            self.begin(_end_row(node) + 1, path)
        elif role == "containers":
            own = (*path, *self._name(node))
            self.begin(start, own, self._signature(node))
            is_long = node.end_byte - node.start_byte > MAX_SIZE // 2
            if depth < _MAX_DEPTH and is_long:
                body = self._body(node)
                self.visit(body, own, depth + 1, _comment_before(node, body))
            self.begin(_end_row(node) + 1, path)
        elif role == "wrappers" and depth < _MAX_DEPTH:
            inner = [child for child in node.named_children if self._role(child) in ("functions", "containers")]
            if len(inner) == 1 and inner[0].end_byte >= node.end_byte - 2:
                self._definition(inner[0], self._role(inner[0]), path, start, depth + 1)
            else:
                self.visit(node, path, depth + 1, start)
        elif not role and depth < _MAX_DEPTH and node.type in _BLOCKS:
            self.visit(node, path, depth + 1)

    def _role(self, node: "Node") -> str:
        if self.row.calls and node.type == "call":
            target = node.child_by_field_name("target")
            word = self._text(target) if target is not None else ""
            return "" if word not in _ELIXIR else "containers" if _ELIXIR[word] else "functions"
        return self.roles.get(node.type, "")

    def _function_in(self, node: "Node") -> "Node | None":
        """The function that a declaration over several lines gives a name to, as in `const f = () => …`, or None."""
        wanted = self.row.function_values.split()
        nodes = [node] if node.end_point.row > node.start_point.row else []
        for _ in range(_VALUE_DEPTH):
            nodes = [child for inner in nodes for child in inner.named_children]
            found = next((child for child in nodes if child.type in wanted), None)
            if found is not None:
                return found
        return None

    def _is_call(self, node: "Node") -> bool:
        """Whether a statement of JavaScript is a call, not an assignment."""
        return node.type == "expression_statement" and "assignment" not in node.named_children[0].type

    def _first_string(self, node: "Node") -> tuple[str, ...]:
        """The text of the first argument of a call if it is a string: the name of a test."""
        arguments = node.named_children[0].child_by_field_name("arguments")
        first = arguments.named_children[0] if arguments is not None and arguments.named_children else None
        return (self._text(first).strip("\"'`")[:_MAX_NAME],) if first is not None and "string" in first.type else ()

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
        text = self._text(self._name_node(node))
        names = tuple(part for part in _SCOPES.split(_plain_name(text)) if part)
        receiver = node.child_by_field_name("receiver")
        if receiver is not None:  # a method in Go
            owner = re.findall(r"\w+", self._text(receiver).partition("[")[0])
            return (*owner[-1:], *names)
        return names

    def _name_node(self, node: "Node") -> "Node":
        """The part of a definition that has its name: in C the innermost declarator, otherwise a field or a child."""
        found = node
        while (declarator := found.child_by_field_name("declarator")) is not None:
            found = declarator
        if found is node:
            children = node.named_children
            named = node.child_by_field_name("name") or next((c for c in children if c.type == "value_name"), None)
            named = named or node.child_by_field_name("type")
            if named is not None:
                return named
            first = next((child for child in children if "comment" not in child.type), node)
            return first.child_by_field_name("name") or first
        inner = found.named_children
        return inner[0] if found.type in _WITH_NAME_FIRST and inner else found

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
    tree = _parsed(language, source)
    if tree is None:
        return Text(lines, [Section(0, len(lines))] if lines else [], ".")
    found = _Sections(language, source)
    found.visit(tree.root_node, (), 0)
    sections = _sections(found.begins, lines)
    is_long = sum(map(len, lines)) > MAX_SIZE
    return Text(lines, sections, ".", dict(_statements(tree.root_node)) if is_long else {})


def _parsed(language: str, source: bytes) -> "Tree | None":
    """The syntax tree, or None if the grammar does not come to an end: some never do on text that is not of theirs.

    The bound counts steps, not seconds, so that the chunks are the same on every machine.
    """
    steps = 0
    most = _STEPS + len(source) // _BYTES_PER_STEP

    def has_taken_too_long(offset: int, has_error: bool) -> bool:
        nonlocal steps
        steps += 1
        return steps > most

    parser = parser_of(language)
    try:
        return parser.parse(lambda offset, _: source[offset:], progress_callback=has_taken_too_long)
    except ValueError:
        parser.reset()
        return None


def _sections(begins: list[tuple[int, tuple[str, ...], str]], lines: list[str]) -> list[Section]:
    """Sections from each beginning to the next.

    Closing brackets after a definition belong to it. So do further equations of the same function, as in Haskell.
    """
    begins = [begin for begin in begins if begin[0] < len(lines)]
    ends = [*(begin[0] for begin in begins[1:]), len(lines)]
    sections: list[Section] = []
    for (begin, path, signature), end in zip(begins, ends):
        previous = sections[-1] if sections else None
        closes = not signature and _CLOSING.fullmatch("\n".join(lines[begin:end])) is not None
        if previous is not None and (closes or (signature and previous.signature and previous.path == path)):
            sections[-1] = replace(previous, end=end)
        else:
            sections.append(Section(begin, end, path, signature))
    return sections


def _plain_name(text: str) -> str:
    """The name at the beginning of a definition's head, without type arguments."""
    match = _NAME.match(_TYPE_ARGUMENTS.sub("", text.strip().strip("\"'")))
    return "".join(match[0].split())[:_MAX_NAME] if match else ""


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


def _comment_before(node: "Node", body: "Node") -> int | None:
    """The first line of the comments before a body that some grammars put outside it; None if there are none."""
    begin, first = body.start_point.row, None
    for child in reversed(node.named_children):
        if child.end_byte <= body.start_byte:
            if (
                "comment" not in child.type
                or _end_row(child) < begin - 1
                or child.start_point.row == node.start_point.row
            ):
                break
            begin = first = child.start_point.row
    return first


def _end_row(node: "Node") -> int:
    """The last line of a node. Some grammars count the line end among it, which is not a line more."""
    row, column = node.end_point
    return row - 1 if column == 0 and row > node.start_point.row else row
