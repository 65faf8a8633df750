"""`colbertz search`: answer a query, a file of queries, those on stdin, or a person at a prompt."""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from colbertz.cli import index as indexing
from colbertz.cli.options import DEFAULT_MODEL, add_model_arguments, positive, torch_dtype
from colbertz.corpus.documents import read_queries
from colbertz.corpus.formats import NAMES
from colbertz.display import format_explanation, format_hit
from colbertz.errors import UserError

if TYPE_CHECKING:
    from colbertz.index import Hit, SearchOptions
    from colbertz.searcher import Searcher

HELP = "search an index"
# Queries of a file that are encoded and searched at once.
_BATCH = 256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "query", nargs="*", help="without one, each line of stdin is a query; on a terminal you are asked"
    )
    parser.add_argument("--index", required=True, metavar="DIR", help="written by `colbertz index`, or another's")
    parser.add_argument("-k", type=positive, default=10, help="hits a query (default: 10)")
    add_model_arguments(parser, default="default: the index's")

    filters = parser.add_argument_group("which documents")
    filters.add_argument(
        "--where", metavar="SQL", help="only documents for which it holds, as in \"year > 2020 and lang = 'en'\""
    )
    filters.add_argument("--subset", metavar="FILE", help="only documents whose ids are in FILE, one a line")
    filters.add_argument("--hybrid", action="store_true", help="fuse with BM25 over the documents' texts")
    filters.add_argument("--text-weight", type=float, metavar="W", help="of BM25, from 0 to 1 (default: 0.3)")

    effort = parser.add_argument_group("how thoroughly")
    effort.add_argument("--exact", action="store_true", help="score every document")
    effort.add_argument("--n-ivf-probe", type=positive, metavar="N", help="cells probed a query token")
    effort.add_argument("--n-full-scores", type=positive, metavar="N", help="documents scored by their centroids")

    output = parser.add_argument_group("output")
    output.add_argument("--explain", action="store_true", help="show what each token of the query matched")
    output.add_argument("--json", action="store_true", help="one JSON object a query: query, hits")
    output.add_argument("--color", choices=("auto", "always", "never"), default="auto", help="default: on a terminal")
    output.add_argument(
        "--queries",
        metavar="FILE",
        help=f"{NAMES} with _id and text (in .tsv id TAB text, without a header); with --run",
    )
    output.add_argument("--run", metavar="FILE", help="write the answers to --queries as a TREC run")

    building = parser.add_argument_group("building the index first")
    building.add_argument("--build", metavar="CORPUS", help=indexing.CORPUS_HELP)
    indexing.add_build_arguments(building)  # type: ignore[arg-type]


def run(args: argparse.Namespace) -> None:
    if (args.queries is None) != (args.run is None):
        raise UserError("--queries and --run belong together: the queries, and the file for the answers")
    if args.text_weight is not None and not args.hybrid:
        raise UserError("--text-weight is for --hybrid")
    if args.build is not None:
        args.model = args.model or DEFAULT_MODEL
        searcher = indexing.build(args, args.build, args.index)
        if not args.query and not args.queries:
            return
    else:
        from colbertz.searcher import Searcher

        dtype = torch_dtype(args.dtype)
        searcher = Searcher.open(args.index, args.model, args.device, dtype, backend=args.backend)
    options = _options(args)
    if args.queries:
        _write_run(searcher, args.queries, args.run, args.k, options)
        return
    color = args.color == "always" or (args.color == "auto" and sys.stdout.isatty() and "NO_COLOR" not in os.environ)
    asked = bool(args.query)
    for query in [" ".join(args.query)] if asked else _asked_for():
        try:
            hits = searcher.search(query, args.k, options)
        except ValueError as error:
            if asked or not sys.stdin.isatty():
                raise
            print(f"error: {error}", file=sys.stderr)  # a person can try again
            continue
        print(_answer(searcher, query, hits, args, color), flush=True)


def _options(args: argparse.Namespace) -> "SearchOptions":
    from colbertz.index import SearchOptions

    subset = None
    if args.subset:
        with Path(args.subset).open(encoding="utf-8") as file:
            subset = [line.rstrip("\n") for line in file if line.strip()]
    options = SearchOptions(
        n_ivf_probe=args.n_ivf_probe,
        n_full_scores=args.n_full_scores,
        exact=args.exact,
        where=args.where,
        subset=subset,
        device=args.index_device,
        hybrid=args.hybrid,
    )
    return options if args.text_weight is None else replace(options, text_weight=args.text_weight)


def _answer(searcher: "Searcher", query: str, hits: "list[Hit]", args: argparse.Namespace, color: bool) -> str:
    if args.json:
        shown = [asdict(hit) for hit in hits]
        if args.explain:
            shown = [row | {"matches": [asdict(m) for m in searcher.explain(query, row["id"])]} for row in shown]
        return json.dumps({"query": query, "hits": shown}, ensure_ascii=False)
    if not hits:
        return "no document" + (f" where {args.where}" if args.where else "")
    width = shutil.get_terminal_size((100, 24)).columns
    lines = []
    for rank, hit in enumerate(hits, 1):
        lines.append(format_hit(rank, hit, query, width, color))
        if args.explain:
            lines.append(format_explanation(searcher.explain(query, hit.id), width, color))
    return "\n".join(lines)


def _write_run(searcher: "Searcher", queries: str, out: str, k: int, options: "SearchOptions") -> None:
    """A TREC run: query id, Q0, document id, rank, score, tag."""
    from tqdm import tqdm

    from colbertz.evaluation.runs import Run, write_run

    rows = list(read_queries(queries))
    found: Run = {}
    with tqdm(total=len(rows), unit=" queries", disable=None) as bar:
        for first in range(0, len(rows), _BATCH):
            batch = rows[first : first + _BATCH]
            for row, hits in zip(batch, searcher.search([row.text for row in batch], k, options)):
                if row.id in found:
                    raise UserError(f"{queries}: the query id {row.id!r} comes twice")
                found[row.id] = {hit.id: hit.score for hit in hits}
            bar.update(len(batch))
    write_run(out, found)
    print(f"{len(rows):,} queries, {sum(map(len, found.values())):,} hits: {out}")


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
