"""Who may do what: bearer tokens with the scopes read, write and admin.

Tokens come from a file or from the environment, never from the command line, which other users of the machine can read.
Only their hashes are kept, and all of them are compared, in constant time. Without any token everybody may do
everything; the server then serves its own machine only.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from colbertz.errors import UserError

Scope = Literal["read", "write", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
VARIABLE = "COLBERTZ_TOKENS"
# Characters of the shortest token: a random one of 16 cannot be guessed.
_SHORTEST = 16
# Pages without a secret: whether the server lives, and how it is called.
OPEN_PATHS = ("/health", "/ready", "/", "/swagger-ui", "/api-docs/openapi.json")
# What the routes of an index and those beside it need, by method and by what follows the index's name.
_OF_AN_INDEX: dict[tuple[str, str], Scope] = {
    ("POST", "update"): "write",
    ("POST", "update_with_encoding"): "write",
    ("POST", "documents"): "write",
    ("DELETE", "documents"): "write",
    ("POST", "metadata/update"): "write",
    ("POST", "metadata/check"): "read",
    ("POST", "metadata/query"): "read",
    ("POST", "metadata/get"): "read",
    ("POST", "query"): "read",
    ("POST", "get"): "read",
    ("POST", "explain"): "read",
    ("POST", "colbertv2"): "read",
    ("POST", "search"): "read",
    ("POST", "search/filtered"): "read",
    ("POST", "search_with_encoding"): "read",
    ("POST", "search/filtered_with_encoding"): "read",
}
_READING = ("/encode", "/rerank", "/rerank_with_encoding", "/v1/embeddings")


@dataclass(frozen=True)
class Token:
    """A token's SHA-256, and what it allows. `name` is what a log may say of it."""

    digest: bytes
    scopes: frozenset[str]
    name: str


def parse_tokens(text: str, where: str) -> tuple[Token, ...]:
    """Read tokens: in each line the scopes, with commas between them, and a token; `#` begins a comment.

    Args:
        text: such as `read,write 6f1c0d…`.
        where: where the text is from, for messages.

    Raises:
        UserError: naming the line, and never the token.
    """
    tokens = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) != 2:
            raise UserError(f"{where}, line {number}: expected scopes and a token, as in `read,write TOKEN`")
        scopes = frozenset(words[0].split(","))
        if not scopes <= set(SCOPES):
            raise UserError(
                f"{where}, line {number}: scopes are {', '.join(SCOPES)}, with commas and no blanks between"
            )
        if len(words[1]) < _SHORTEST:
            raise UserError(f"{where}, line {number}: a token needs at least {_SHORTEST} characters; make a random one")
        digest = _digest(words[1])
        tokens.append(Token(digest, scopes, f"token-{digest.hex()[:8]}"))
    if len({token.digest for token in tokens}) < len(tokens):
        raise UserError(f"{where} has one token twice; give it all its scopes in one line")
    return tuple(tokens)


def read_tokens(path: str | None, environment: Mapping[str, str]) -> tuple[Token, ...]:
    """The tokens of a file, or of `COLBERTZ_TOKENS` if there is no path; there, `;` may separate lines.

    Raises:
        UserError: for a line that is not right, or a source without tokens.
        OSError: if the file cannot be read.
    """
    if path is not None:
        where, text = path, Path(path).read_text("utf-8")
    elif VARIABLE in environment:
        where, text = VARIABLE, environment[VARIABLE].replace(";", "\n")
    else:
        return ()
    tokens = parse_tokens(text, where)
    if not tokens:
        raise UserError(f"{where} has no token; add one, or leave it out")
    return tokens


def token_of(authorization: str | None, tokens: tuple[Token, ...]) -> Token | None:
    """The token that an `Authorization` header names; None if it names none of them."""
    scheme, _, given = (authorization or "").partition(" ")
    if scheme.lower() != "bearer":
        return None
    digest = _digest(given.strip())
    found = None
    for token in tokens:  # all of them, so that the time says nothing
        if hmac.compare_digest(token.digest, digest):
            found = token
    return found


def scope_needed(method: str, path: str) -> Scope | None:
    """The scope that a request needs; None for a page that is open to all.

    A route that is not known here needs admin, so that a forgotten one is not open.
    """
    if method in ("GET", "HEAD", "OPTIONS"):
        return None if path in OPEN_PATHS else "read"
    if method == "POST" and path in _READING:
        return "read"
    first, _, rest = path.removeprefix("/").partition("/")
    action = rest.partition("/")[2]
    return _OF_AN_INDEX.get((method, action), "admin") if first == "indices" else "admin"


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
