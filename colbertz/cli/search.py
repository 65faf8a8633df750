"""`colbertz search`: answer a query, the queries on stdin, or a person at a prompt."""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from colbertz.cli.display import format_hit
from colbertz.cli.options import add_model_arguments, positive, torch_dtype

if TYPE_CHECKING:
    from colbertz.index import Hit

HELP = "search an index"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "query", nargs="*", help="without one, each line of stdin is a query; on a terminal you are asked"
    )
    parser.add_argument("--index", required=True, metavar="DIR", help="written by `colbertz index`")
    parser.add_argument("-k", type=positive, default=10, help="hits a query (default: 10)")
    parser.add_argument(
        "--json", action="store_true", help="one JSON object a query: query, hits (id, score, text, metadata)"
    )
    parser.add_argument("--color", choices=("auto", "always", "never"), default="auto", help="default: on a terminal")
    add_model_arguments(parser, required=False)


def run(args: argparse.Namespace) -> None:
    from colbertz.searcher import Searcher

    searcher = Searcher.open(args.index, args.model, args.device, torch_dtype(args.dtype))
    color = args.color == "always" or (args.color == "auto" and sys.stdout.isatty() and "NO_COLOR" not in os.environ)
    width = shutil.get_terminal_size((100, 24)).columns
    for query in [" ".join(args.query)] if args.query else _asked_for():
        hits = searcher.search(query, args.k)
        print(_as_json(query, hits) if args.json else _as_text(query, hits, width, color), flush=True)


def _as_json(query: str, hits: "list[Hit]") -> str:
    return json.dumps({"query": query, "hits": [asdict(hit) for hit in hits]}, ensure_ascii=False)


def _as_text(query: str, hits: "list[Hit]", width: int, color: bool) -> str:
    return "\n".join(format_hit(rank, hit, query, width, color) for rank, hit in enumerate(hits, 1))


def _asked_for() -> Iterator[str]:
    if not sys.stdin.isatty():
        yield from (line.strip() for line in sys.stdin if line.strip())
        return
    import readline  # noqa: F401  importing it gives input() line editing and a history

    while True:
        try:
            query = input("query> ").strip()
        except EOFError:
            print()
            return
        if query:
            yield query
