"""`colbertz search --index DIR`: answer the queries of the command line, a file, stdin or a prompt."""

import argparse
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from colbertz.cli import index as cli_index
from colbertz.cli.options import DEFAULT_MODEL, require_parent, torch_dtype
from colbertz.cli.output import as_json, as_text, field_names, print_line
from colbertz.corpus.documents import read_queries
from colbertz.corpus.lines import read_text_lines
from colbertz.display import format_explanation, format_hit, page
from colbertz.errors import UserError
from colbertz.files import replaced_file
from colbertz.text.counted import counted
from colbertz.text.printable import printable

if TYPE_CHECKING:
    from colbertz.index import Hit, SearchOptions
    from colbertz.searcher import Searcher

# Queries of a file that are encoded and searched together.
_BATCH = 256


def run(args: argparse.Namespace) -> int:
    """Answer, and return 1 if no query found a document, as grep does."""
    if args.query and args.words:
        raise UserError(f"the query is in --query already; what is {args.words[0]!r} for?")
    given = args.query or ([" ".join(args.words)] if args.words else [])
    if (args.queries is None) != (args.run is None):
        raise UserError("--queries and --run belong together: the queries, and the file for the answers")
    if args.text_weight is not None and not args.hybrid:
        raise UserError("--text-weight is for --hybrid")
    if args.html is not None and not (args.explain and given):
        raise UserError("--html is for --explain and a QUERY on the command line")
    for out in (args.run, args.html):
        if out is not None:
            require_parent(out)
    options = _options(args, once=bool(given) and args.build is None)
    if args.build is not None:
        args.model, args.dtype, args.backend = (
            args.model or DEFAULT_MODEL,
            args.dtype or "auto",
            args.backend or "torch",
        )
        searcher = cli_index.build(args, [args.build], args.index)
        if not given and not args.queries:
            return 0
    else:
        from colbertz.searcher import Searcher

        dtype = torch_dtype(args.dtype)
        searcher = Searcher.open(args.index, args.model, args.device, dtype, backend=args.backend)
    if args.queries:
        return 0 if _write_run(searcher, args.queries, args.run, args.k, options) else 1
    at_prompt = not given and sys.stdin.isatty()
    any_hits = at_prompt
    several = len(given) != 1 and not at_prompt and not args.json
    for query in given or typed_queries():
        try:
            hits = searcher.search(query, args.k, options)
        except UserError as error:
            if not at_prompt:
                raise
            print(f"error: {error}", file=sys.stderr)  # at the prompt a person can try again
            continue
        if several:
            print_line(f"{query}:")
        print_line(_answer(searcher, query, hits, args))
        if args.html is not None:
            _write_heatmaps(searcher, query, hits, args.html)
        any_hits = any_hits or bool(hits)
    return 0 if any_hits else 1


def _options(args: argparse.Namespace, once: bool) -> "SearchOptions":
    from colbertz.index import SearchOptions

    subset = None
    if args.subset:
        subset = [line for line in read_text_lines(args.subset) if line.strip()]
    return SearchOptions(
        n_ivf_probe=args.n_ivf_probe,
        n_full_scores=args.n_full_scores,
        exact=args.exact,
        once=once,
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
    fields = field_names(args.fields)
    lines = []
    for rank, hit in enumerate(hits, 1):
        lines.append(format_hit(rank, hit, query, width, color))
        lines += [f"     {name}: {printable(as_text(hit.metadata.get(name)))}" for name in fields]
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


def typed_queries() -> Iterator[str]:
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
