"""`colbertz search`: answer one query, the queries of a file or of stdin, or those that a person types at a prompt."""

import argparse
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from colbertz.cli import index as cli_index
from colbertz.cli.options import (
    DEFAULT_MODEL,
    add_encoding_arguments,
    add_model_arguments,
    positive,
    require_parent,
    torch_dtype,
)
from colbertz.cli.output import as_json, print_line
from colbertz.corpus.documents import read_queries
from colbertz.corpus.formats import NAMES
from colbertz.corpus.lines import read_text_lines
from colbertz.display import format_explanation, format_hit, page
from colbertz.errors import UserError
from colbertz.files import replaced_file
from colbertz.text.counted import counted

if TYPE_CHECKING:
    from colbertz.index import Hit, SearchOptions
    from colbertz.searcher import Searcher

HELP = "search an index"
EXAMPLES = """\
  colbertz search --index my-index "parse a date string"
  colbertz search --index my-index --where "year > 2020 and lang = 'en'" --hybrid "late interaction"
  colbertz search --index my-index --queries queries.jsonl --run answers.trec -k 100
  colbertz search --index my-index --build corpus.jsonl "parse a date string"
"""
# Queries of a file that are encoded and searched together.
_BATCH = 256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "query", nargs="*", metavar="QUERY", help="words of a query (default: each line of stdin, or ask at a prompt)"
    )
    parser.add_argument(
        "--index", required=True, metavar="DIR", help="index of `colbertz index`, fast-plaid, next-plaid or Stanford"
    )
    parser.add_argument("-k", type=positive, default=10, metavar="N", help="hits of a query (default: 10)")
    _add_search_arguments(parser)
    _add_output_arguments(parser.add_argument_group("output"))
    add_model_arguments(parser, default="the index's", as_index=True)

    building = parser.add_argument_group("building the index first")
    building.add_argument("--build", metavar="CORPUS", help=cli_index.CORPUS_HELP)
    cli_index.add_build_arguments(building)
    add_encoding_arguments(parser)


def _add_search_arguments(parser: argparse.ArgumentParser) -> None:
    filters = parser.add_argument_group("which documents")
    filters.add_argument(
        "--where", metavar="SQL", help="only documents whose metadata meet it, as in \"year > 2020 and lang = 'en'\""
    )
    filters.add_argument("--subset", metavar="FILE", help="only documents whose ids are in FILE, one a line")
    filters.add_argument("--hybrid", action="store_true", help="fuse with BM25 over the documents' texts")
    filters.add_argument(
        "--text-weight", type=float, metavar="W", help="weight of BM25 in --hybrid, from 0 to 1 (default: 0.3)"
    )

    effort = parser.add_argument_group("how thoroughly")
    effort.add_argument("--exact", action="store_true", help="score every document")
    effort.add_argument(
        "--n-ivf-probe", type=positive, metavar="N", help="cells probed for each query token (default: by -k)"
    )
    effort.add_argument(
        "--n-full-scores", type=positive, metavar="N", help="documents scored by their centroids (default: by -k)"
    )


def _add_output_arguments(parser: "argparse._ArgumentGroup") -> None:
    parser.add_argument("--explain", action="store_true", help="show what each word of the query met")
    parser.add_argument(
        "--html", metavar="FILE", help="with --explain: write heat-maps of the hits as a page for a browser"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a query: query, hits")
    parser.add_argument(
        "--color", choices=("auto", "always", "never"), default="auto", help="auto: on a terminal (default: auto)"
    )
    parser.add_argument(
        "--queries", metavar="FILE", help=f"with --run: {NAMES} with _id and text; .tsv has lines of id, tab, text"
    )
    parser.add_argument("--run", metavar="FILE", help="write the answers to --queries as a TREC run")


def run(args: argparse.Namespace) -> int:
    """Answer, and return 1 if no query found a document, as grep does."""
    if (args.queries is None) != (args.run is None):
        raise UserError("--queries and --run belong together: the queries, and the file for the answers")
    if args.text_weight is not None and not args.hybrid:
        raise UserError("--text-weight is for --hybrid")
    if args.html is not None and not (args.explain and args.query):
        raise UserError("--html is for --explain and a QUERY on the command line")
    for out in (args.run, args.html):
        if out is not None:
            require_parent(out)
    options = _options(args)
    if args.build is not None:
        args.model, args.dtype, args.backend = (
            args.model or DEFAULT_MODEL,
            args.dtype or "auto",
            args.backend or "torch",
        )
        searcher = cli_index.build(args, args.build, args.index)
        if not args.query and not args.queries:
            return 0
    else:
        from colbertz.searcher import Searcher

        dtype = torch_dtype(args.dtype)
        searcher = Searcher.open(args.index, args.model, args.device, dtype, backend=args.backend)
    if args.queries:
        return 0 if _write_run(searcher, args.queries, args.run, args.k, options) else 1
    at_prompt = not args.query and sys.stdin.isatty()
    any_hits = at_prompt
    for query in [" ".join(args.query)] if args.query else _typed_queries():
        try:
            hits = searcher.search(query, args.k, options)
        except UserError as error:
            if not at_prompt:
                raise
            print(f"error: {error}", file=sys.stderr)  # at the prompt a person can try again
            continue
        print_line(_answer(searcher, query, hits, args))
        if args.html is not None:
            _write_heatmaps(searcher, query, hits, args.html)
        any_hits = any_hits or bool(hits)
    return 0 if any_hits else 1


def _options(args: argparse.Namespace) -> "SearchOptions":
    from colbertz.index import SearchOptions

    subset = None
    if args.subset:
        subset = [line for line in read_text_lines(args.subset) if line.strip()]
    return SearchOptions(
        n_ivf_probe=args.n_ivf_probe,
        n_full_scores=args.n_full_scores,
        exact=args.exact,
        once=bool(args.query) and args.build is None,
        where=args.where,
        subset=subset,
        device=args.index_device,
        hybrid=args.hybrid,
        text_weight=SearchOptions.text_weight if args.text_weight is None else args.text_weight,
    )


def _answer(searcher: "Searcher", query: str, hits: "list[Hit]", args: argparse.Namespace) -> str:
    """What is printed for one query."""
    if args.json:
        rows = [asdict(hit) for hit in hits]
        for row in rows:
            if not row["parts"]:
                del row["parts"]  # only hybrid scores have parts
        if args.explain:
            rows = [row | _matches(searcher, query, row["id"]) for row in rows]
        return as_json({"query": query, "hits": rows})
    if not hits:
        return "no document" + (f" where {args.where}" if args.where else "")
    color = args.color == "always" or (args.color == "auto" and sys.stdout.isatty() and "NO_COLOR" not in os.environ)
    width = shutil.get_terminal_size((100, 24)).columns
    lines = []
    for rank, hit in enumerate(hits, 1):
        lines.append(format_hit(rank, hit, query, width, color))
        if args.explain:
            try:
                lines.append(format_explanation(searcher.explain(query, hit.id).heatmap(), width, color))
            except UserError as error:
                lines.append(f"     no explanation: {error}")
    return "\n".join(lines)


def _matches(searcher: "Searcher", query: str, doc_id: str) -> dict[str, object]:
    """The fields of a hit's explanation in JSON; `matches` is null if there is none, and `no_explanation` says why."""
    try:
        return {"matches": [asdict(match) for match in searcher.explain(query, doc_id).matches]}
    except UserError as error:
        return {"matches": None, "no_explanation": str(error)}


def _write_heatmaps(searcher: "Searcher", query: str, hits: "list[Hit]", out: str) -> None:
    """Write the heat-maps of the hits as one HTML page; pooled documents, which have none, are left out and named."""
    heatmaps = []
    for hit in hits:
        try:
            heatmaps.append(searcher.explain(query, hit.id).heatmap())
        except UserError as error:
            print(f"no heat-map: {error}", file=sys.stderr)
    with replaced_file(Path(out)) as temporary:
        temporary.write_text(page(heatmaps, query), encoding="utf-8")


def _write_run(searcher: "Searcher", queries: str, out: str, k: int, options: "SearchOptions") -> bool:
    """Write a TREC run (query id, Q0, document id, rank, score, tag), and return whether it has any documents."""
    from colbertz.evaluation.runs import Run, write_run
    from colbertz.progress import progress

    rows = list(read_queries(queries))
    for row in rows:
        if not row.text.strip():
            raise UserError(f"{row.where}: the query {row.id!r} is empty; give it words, or leave it out")
    run: Run = {}
    with progress("searching", len(rows), "queries") as bar:
        for start in range(0, len(rows), _BATCH):
            batch = rows[start : start + _BATCH]
            for row, hits in zip(batch, searcher.search([row.text for row in batch], k, options)):
                run[row.id] = {hit.id: hit.score for hit in hits}
            bar.update(len(batch))
    write_run(out, run)
    print(f"{counted(len(rows), 'query', 'queries')}, {counted(sum(map(len, run.values())), 'hit')}: {out}")
    return any(run.values())


def _typed_queries() -> Iterator[str]:
    """The lines of stdin that are not empty; on a terminal, what a person types at a prompt."""
    if not sys.stdin.isatty():
        yield from (line.strip() for line in read_text_lines("-") if line.strip())
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
