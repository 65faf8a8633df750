"""Reads a filter's expression, and allows only what has a bounded cost: a closed part of SQLite's SQL.

    expression  operands with operators between them: `not`, `-`, `+`, `~` before an operand; `isnull`, `notnull`,
                `not null` and `collate nocase` after it; `=`, `like`, `is not`, `between … and`, `or` … between two
    operand     a number, 'string', parameter, name or constant; a call of a function of FUNCTIONS; case … end;
                cast(… as type); an expression, or a subquery, in brackets; exists (subquery)
    subquery    select … from json_each(…) where …, or the same with json_tree
    in (…)      a list of numbers, strings, parameters and names, or a subquery for the values of json_each

The expression is not evaluated here. SQLite parses it again, with its own precedences, but gets nothing that was not
recognised: every word and sign comes from the tables below, and names are replaced by columns that exist.

Why not more of SQL: SQLite looks at the clock between its instructions, not within them. So no function may take more
than linear time (`instr`, `replace` and `trim` of two arguments compare everything with everything) or return more than
it was given (`replace`, `printf`, `hex`, `||`), because a few nested calls would make gigabytes. And no query may
collect rows: no joins, `distinct`, `group by`, `order by`, `union` or `with`.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple, NoReturn

from colbertz.errors import UserError
from colbertz.index.store.documents import fold

# Characters of an expression. Longer lists are passed as one parameter: `in (select value from json_each(?))`.
MAX_CHARACTERS = 100_000
# Brackets, subqueries and `case` within each other.
MAX_DEPTH = 50
# Calls and subqueries in one expression: each can hold a copy of a document's text.
MAX_CALLS = 50

# Names of functions, and how many arguments they take at least and at most.
FUNCTIONS = {
    **dict.fromkeys("abs length lower upper trim ltrim rtrim typeof unicode sign json json_valid".split(), (1, 1)),
    **dict.fromkeys("acos acosh asin asinh atan atanh ceil ceiling cos cosh degrees exp floor ln".split(), (1, 1)),
    **dict.fromkeys("log10 log2 radians sin sinh sqrt tan tanh trunc".split(), (1, 1)),
    **dict.fromkeys("round json_array_length json_type log".split(), (1, 2)),
    **dict.fromkeys("ifnull nullif json_extract atan2 mod pow power".split(), (2, 2)),
    **dict.fromkeys("substr substring".split(), (2, 3)),
    **dict.fromkeys("iif".split(), (3, 3)),
    **dict.fromkeys("coalesce".split(), (2, 8)),
    **dict.fromkeys("date time datetime julianday unixepoch strftime".split(), (0, 8)),
    # Of one argument they are aggregates, which stand in subqueries.
    **dict.fromkeys("max min".split(), (1, 8)),
    **dict.fromkeys("count sum total avg".split(), (1, 1)),
}
# Columns of json_each and json_tree.
_JSON_COLUMNS = "key value type atom id parent fullkey path".split()

_CONSTANTS = set("null true false current_date current_time current_timestamp".split())
_TYPES = set("int integer real numeric text blob".split())
_COLLATIONS = set("binary nocase rtrim".split())
_COMPARISONS = set("= == <> != < <= > >= + - * / % & | << >> -> ->>".split())
# Words that are operators between operands; `and` may also belong to `between`, and SQLite says whether it fits.
_CONNECTIVES = set("and or is between like glob escape".split())
_RESERVED = _CONSTANTS | _CONNECTIVES | set(
    "not in isnull notnull collate case when then else end cast as exists select from where".split()
)  # fmt: skip

# One alternative matches at each place, and none looks further than the end of its token: the time is linear.
_TOKEN = re.compile(
    r"""
      (?P<space> [ \t\n\f\r]++ | --[^\n]*+ | /\*(?:[^*]|\*(?!/))*+(?:\*/|\Z) )
    | (?P<string> [xX]?'(?:[^']|'')*+' )
    | (?P<quoted> "(?:[^"]|"")*+" | `(?:[^`]|``)*+` | \[[^\]]*+\] )
    | (?P<number> 0[xX][0-9a-fA-F]++ | (?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][+-]?[0-9]++)? )
    | (?P<parameter> \?[0-9]*+ | [:@$][A-Za-z0-9_]++ )
    | (?P<word> [A-Za-z_\x80-\U0010ffff][A-Za-z0-9_$\x80-\U0010ffff]*+ )
    | (?P<sign> ->>|->|\|\||<=|>=|<>|!=|==|<<|>>|[=<>+\-*/%&|~(),.;] )
    """,
    re.VERBOSE,
)


class _Token(NamedTuple):
    kind: str
    text: str  # a word in lower case, a quoted name without its quotes
    source: str


class Expression(NamedTuple):
    """An expression as SQL over a table `found` with the columns c0, c1, ….

    Attributes:
        sql: the expression.
        fields: for each column the field that it stands for, as written where it comes first.
    """

    sql: str
    fields: list[str]


def parse(where: str) -> Expression:
    """Read an expression.

    Columns have names of their own because SQLite takes `true` for a column where there is one of this name.

    Raises:
        UserError: if the expression is too long or too deep, or has anything that a filter may not have.
    """
    if len(where) > MAX_CHARACTERS:
        raise UserError(
            f"it has {len(where):,} characters and may have {MAX_CHARACTERS:,}; pass a long list as one parameter of"
            " JSON: id in (select value from json_each(?))"
        )
    parser = _Parser(_tokens(where))
    parser.expression()
    if parser.next.kind != "end":
        parser.fail()
    return Expression(" ".join(parser.pieces), parser.fields)


_END = _Token("end", "", "its end")


def _tokens(where: str) -> Iterator[_Token]:
    place = 0
    while place < len(where):
        match = _TOKEN.match(where, place)
        if match is None:
            raise UserError(f"unrecognized token {where[place : place + 20]!r}")
        place, kind, source = match.end(), str(match.lastgroup), match[0]
        if kind == "quoted":
            quote = source[-1]
            yield _Token(kind, source[1:-1].replace(quote * 2, quote), source)
        elif kind != "space":
            yield _Token(kind, fold(source) if kind == "word" else source, source)


class _Parser:
    """Walks through the tokens and writes the pieces of SQL.

    Attributes:
        pieces: the SQL of what was read so far.
        fields: the fields that were named so far.
        next: the first token that was not read.
    """

    def __init__(self, tokens: Iterator[_Token]) -> None:
        self.pieces: list[str] = []
        self.fields: list[str] = []
        self._columns: dict[str, str] = {}
        # Tokens are read when they are needed, so that most mistakes are found after a few of them.
        self._unread = tokens
        self._tokens: list[_Token] = []
        self._place = 0
        self._depth = 0
        self._calls = 0
        # For each subquery around this place: the name of its json_each in the expression, and in the SQL.
        self._tables: list[tuple[str, str]] = []

    @property
    def next(self) -> _Token:
        return self._token(0)

    def _token(self, ahead: int) -> _Token:
        """The token that comes `ahead` tokens later; the last one stands for all after the end."""
        while len(self._tokens) <= self._place + ahead:
            self._tokens.append(next(self._unread, _END))
        return self._tokens[self._place + ahead]

    def fail(self, advice: str = 'names that are words of SQL, or no plain words, go in "double quotes"') -> NoReturn:
        raise UserError(f"syntax error near {self.next.source:.40}; {advice}")

    def _at(self, *texts: str, ahead: int = 0) -> bool:
        """Whether a word or sign of these comes next, or `ahead` tokens later."""
        token = self._token(ahead)
        return token.kind in ("word", "sign") and token.text in texts

    def _accept(self, *texts: str) -> bool:
        found = self._at(*texts)
        if found:
            self._copy()
        return found

    def _expect(self, *texts: str) -> None:
        if not self._accept(*texts):
            self.fail()

    def _copy(self) -> None:
        self.pieces.append(self.next.text)
        self._place += 1

    def _enter(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise UserError(f"brackets, subqueries and case stand in each other more than {MAX_DEPTH} times")

    def _called(self) -> None:
        self._calls += 1
        if self._calls > MAX_CALLS:
            raise UserError(f"there are more than {MAX_CALLS} calls of functions and subqueries")

    def expression(self) -> None:
        """Read operands and the operators between them."""
        self._enter()
        while True:
            while self._accept("not", "-", "+", "~"):
                pass
            self._operand()
            if not self._operators():
                break
        self._depth -= 1

    def _operators(self) -> bool:
        """Read what follows an operand; whether another operand has to follow."""
        while True:
            if self._at("||"):
                self.fail("filters compare values and cannot put strings together")
            if self._accept("isnull", "notnull"):
                continue
            if self._at("not") and self._at("null", ahead=1):
                self._copy()
                self._copy()
            elif self._accept("collate"):
                self._expect(*_COLLATIONS)
            elif self._at("in") or (self._at("not") and self._at("in", ahead=1)):
                self._accept("not")
                self._copy()
                self._values()
            else:
                # `is not` needs nothing here: `not` may stand before any operand.
                negated = self._at("not") and self._at("like", "glob", "between", ahead=1) and self._accept("not")
                return self._accept(*_COMPARISONS, *_CONNECTIVES) or negated

    def _values(self) -> None:
        """Read the brackets after `in`. SQLite keeps all of it: no item may be longer than what the document has."""
        self._expect("(")
        if self._at("select"):
            self._subquery(values=True)
        elif not self._at(")"):
            while True:
                while self._accept("-", "+"):
                    pass
                if self._at("(", "case", "cast", "exists") or self._at("(", ahead=1):
                    self.fail("a list after in holds numbers, strings, parameters and names")
                self._operand()
                if not self._accept(","):
                    break
        self._expect(")")

    def _operand(self) -> None:
        kind = self.next.kind
        if kind in ("string", "number", "parameter"):
            self._copy()
        elif kind == "quoted":
            self._name()
        elif self._accept("("):
            if self._at("select"):
                self._subquery()
            else:
                self.expression()
            self._expect(")")
        elif kind != "word":
            self.fail()
        elif self._accept("exists"):
            self._expect("(")
            self._subquery()
            self._expect(")")
        elif self._accept("case"):
            self._case()
        elif self._accept("cast"):
            self._expect("(")
            self.expression()
            self._expect("as")
            self._expect(*_TYPES)
            self._expect(")")
        elif self._at("(", ahead=1):
            self._call()
        elif not self._accept(*_CONSTANTS):
            self._name()

    def _case(self) -> None:
        if not self._at("when"):
            self.expression()
        while self._accept("when"):
            self.expression()
            self._expect("then")
            self.expression()
        if self._accept("else"):
            self.expression()
        self._expect("end")

    def _call(self) -> None:
        name = self.next.text
        if name not in FUNCTIONS:
            raise UserError(
                f"a filter cannot call {self.next.source!r:.40}; it can call {', '.join(sorted(FUNCTIONS))}"
            )
        self._called()
        self._copy()
        least, most = FUNCTIONS[name]
        self._expect("(")
        if name == "count" and self._accept("*"):
            self._expect(")")
            return
        count = self._arguments()
        if not least <= count <= most:
            takes = f"{least}" if least == most else f"{least} to {most}"
            raise UserError(f"{name} is called with {count} arguments and takes {takes}")

    def _arguments(self) -> int:
        """Read arguments and the closing bracket; how many there are."""
        if self._accept(")"):
            return 0
        count = 1
        self.expression()
        while self._accept(","):
            count += 1
            self.expression()
        self._expect(")")
        return count

    def _subquery(self, values: bool = False) -> None:
        """Read `select … from json_each(…) as name where …`; with `values`, select only a column of json_each."""
        self._called()
        self._enter()
        self._expect("select")
        # The columns of json_each can be named before it: read the item last.
        start, first = self._place, len(self.pieces)
        self._skip_to_from()
        self._expect("from")
        if not self._at("json_each", *(() if values else ("json_tree",))):
            self.fail("a subquery selects from json_each(…)" + (" only" if values else " or json_tree(…)"))
        table = self.next.text
        self._copy()
        self._expect("(")
        self._arguments()
        alias = f"j{self._calls}"
        name = self._alias() or table
        self.pieces += ["AS", alias]
        self._tables.append((name, alias))
        if self._accept("where"):
            self.expression()
        end, rest = self._place, self.pieces[first:]
        self._place, self.pieces[first:] = start, []
        self._item(values)
        self.pieces += rest
        if not self._at("from"):
            self.fail()
        self._place = end
        self._tables.pop()
        self._depth -= 1

    def _skip_to_from(self) -> None:
        depth = 0
        while self.next.kind != "end" and not (depth == 0 and self._at("from")):
            depth += self._at("(") - self._at(")")
            self._place += 1

    def _item(self, values: bool) -> None:
        """Read what a subquery selects."""
        if values and self._token(2 if self._at(".", ahead=1) else 0).text not in ("value", "key"):
            self.fail("a subquery after in selects value or key")
        if values:
            self._name()
        elif not self._accept("*"):
            self.expression()

    def _alias(self) -> str | None:
        has_as = self._at("as")
        self._place += has_as
        if self.next.kind == "quoted" or (self.next.kind == "word" and self.next.text not in _RESERVED):
            self._place += 1
            return fold(self._tokens[self._place - 1].text)
        return self.fail() if has_as else None

    def _name(self) -> None:
        """Read the name of a field, or of a column of a json_each around this place, the innermost first."""
        token = self.next
        if token.kind not in ("word", "quoted") or (token.kind == "word" and token.text in _RESERVED):
            self.fail()
        self._place += 1
        name = fold(token.text)
        if self._at("."):
            self._place += 1
            column = fold(self.next.text)
            alias = next((alias for table, alias in reversed(self._tables) if table == name), None)
            if alias is None or column not in _JSON_COLUMNS or self.next.kind not in ("word", "quoted"):
                self.fail("before a dot stands the name of a json_each, and after it one of its columns")
            self._place += 1
            self.pieces.append(f"{alias}.{column}")
        elif self._tables and name in _JSON_COLUMNS:
            self.pieces.append(f"{self._tables[-1][1]}.{name}")
        else:
            if name not in self._columns:
                self._columns[name] = f"found.c{len(self.fields)}"
                self.fields.append(token.source if token.kind == "word" else token.text)
            self.pieces.append(self._columns[name])
