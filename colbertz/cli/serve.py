"""`colbertz serve`: answer searches and take writes over HTTP, with the routes of next-plaid's server."""

import argparse
import json
import logging
import os
import sys
import traceback
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

from colbertz.cli.options import add_model_arguments, load_model, positive
from colbertz.errors import require
from colbertz.server.settings import Settings

HELP = "serve indexes over HTTP, to next-plaid's clients and others"
EXAMPLES = """\
  colbertz serve --root indexes --model colbertz/nano
  colbertz serve --root indexes --port 9000
  colbertz serve --root indexes --host 0.0.0.0 --tokens tokens.txt
"""


def not_negative(text: str) -> float:
    """A number of at least 0, as the type of an option."""
    number = float(text)
    if not 0 <= number < 1e9:
        raise argparse.ArgumentTypeError(f"must be at least 0, got {text}")
    return number


def port(text: str) -> int:
    """A port, 0 for any that is free, as the type of an option."""
    number = int(text)
    if not 0 <= number < 2**16:
        raise argparse.ArgumentTypeError(f"must be from 0 to 65535, got {text}")
    return number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", required=True, metavar="DIR", help="directory of the indexes; made if it is missing")
    parser.add_argument(
        "--host", default=Settings.host, metavar="NAME", help=f"address to listen on (default: {Settings.host})"
    )
    parser.add_argument(
        "--port", type=port, default=Settings.port, metavar="N", help=f"0 for a free one (default: {Settings.port})"
    )
    add_model_arguments(parser, default="none: embeddings only")
    _add_access_arguments(parser.add_argument_group("who may use it"))
    _add_size_arguments(parser.add_argument_group("limits"))
    _add_time_arguments(parser.add_argument_group("times, in seconds"))


def _add_access_arguments(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--tokens",
        metavar="FILE",
        help="lines of scopes and a token, as in `read,write 6f1c0d…`; scopes are read, write and admin (default: the "
        "variable COLBERTZ_TOKENS, where ; may separate lines)",
    )
    group.add_argument("--open-to-all", action="store_true", help="serve other machines without tokens")
    group.add_argument(
        "--cors-origin",
        dest="cors_origins",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="let scripts of this web page call the server; may be repeated (default: none)",
    )
    group.add_argument(
        "--trusted-proxy", metavar="ADDRESS", help="believe the X-Forwarded-For of this proxy (default: of none)"
    )


def _add_size_arguments(group: "argparse._ArgumentGroup") -> None:
    for name, words in (
        ("max-body-bytes", "bytes of a request's body"),
        ("max-held-bytes", "bytes of all bodies that are read or worked on"),
        ("max-values", "numbers and other values in a request's body"),
        ("max-texts", "documents, texts or ids in a request"),
        ("max-queries", "queries in a search"),
        ("max-tokens", "tokens in a request"),
        ("max-top-k", "hits of a query"),
        ("max-in-flight", "requests worked on at the same time; more get status 503"),
        ("max-queued", "writes that wait for an index; more get status 503"),
        ("burst", "requests that a client may make at once, with --rate"),
    ):
        default = getattr(Settings, name.replace("-", "_"))
        words = f"{words} (default: {default})"
        group.add_argument(f"--{name}", type=positive, default=default, metavar="N", help=words)
    words = "requests a second of one token or address; more get status 429 (default: any number)"
    group.add_argument("--rate", type=not_negative, default=Settings.rate, metavar="N", help=words)


def _add_time_arguments(group: "argparse._ArgumentGroup") -> None:
    for name, words in (
        ("header-seconds", "until the headers of a request must be there"),
        ("body-seconds", "between two pieces of a body"),
        ("request-seconds", "for a whole body, and for encoding texts"),
        ("filter-seconds", "until a filter is stopped"),
        ("wait-seconds", "the longest that ?wait=true waits"),
        ("drain-seconds", "for requests and writes after SIGTERM or Ctrl-C"),
    ):
        default = getattr(Settings, name.replace("-", "_"))
        words = f"{words} (default: {default})"
        group.add_argument(f"--{name}", type=not_negative, default=default, metavar="S", help=words)


def run(args: argparse.Namespace) -> None:
    """Serve until SIGTERM or Ctrl-C; what was acknowledged then is on the disk, and what can be is applied."""
    require("fastapi", "serve")
    require("uvicorn", "serve")
    require("prometheus_client", "serve")
    from colbertz.server.app import create_app
    from colbertz.server.auth import read_tokens
    from colbertz.server.run import listen, open_service, serve, url_of

    settings = _settings(args)
    tokens = read_tokens(args.tokens, os.environ)
    settings.check_exposure(bool(tokens))
    _log_as_json()
    model = None if args.model is None else load_model(args)
    with (
        listen(settings) as listening,
        open_service(args.root, model, args.model, settings) as service,
    ):
        _log({"event": "listening", "url": url_of(listening), "root": str(service.root.folder), "tokens": len(tokens)})
        serve(create_app(service, tokens, _log), listening, settings)
    _log({"event": "stopped"})


def _settings(args: argparse.Namespace) -> Settings:
    given = {field.name: getattr(args, field.name) for field in fields(Settings)}
    return Settings(**given | {"cors_origins": tuple(args.cors_origins)})


def _log(line: dict[str, Any]) -> None:
    line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds")} | line
    print(json.dumps(line, ensure_ascii=False), file=sys.stderr, flush=True)


class _JsonFormatter(logging.Formatter):
    """The warnings of the library and of others as lines of the same form."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = "".join(traceback.format_exception(*record.exc_info))
        return json.dumps(line, ensure_ascii=False)


def _log_as_json() -> None:
    for handler in logging.getLogger().handlers:
        handler.setFormatter(_JsonFormatter())
