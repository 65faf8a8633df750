"""`colbertz eval`: how well a model, or a run, finds the right documents of a test collection."""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from colbertz.cli.options import add_model_arguments, positive, require_parent, torch_dtype
from colbertz.cli.output import as_json, print_line
from colbertz.errors import UserError
from colbertz.text.counted import counted
from colbertz.text.printable import printable

if TYPE_CHECKING:
    from colbertz.evaluation import Collection
    from colbertz.evaluation.runs import Run
    from colbertz.evaluation.significance import Difference, Estimate

HELP = "evaluate a model on a test collection"
EXAMPLES = """\
  colbertz eval --data my-beir-folder --split dev --model my-model
  colbertz eval --data nanobeir:scifact --model lightonai/ColBERT-Zero --index plaid --run mine.trec
  colbertz eval --data my-beir-folder --score mine.trec --compare other.trec
  colbertz eval --pairs held-out.jsonl --model runs/mine/model
"""
# Documents retrieved for a query, unless a measure looks at more.
_K = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--data",
        metavar="DIR|NAME",
        help="folder in the layout of BEIR, NanoBEIR, LongEmbed or MS MARCO, or beir:NAME, nanobeir:NAME, "
        "longembed:NAME",
    )
    source.add_argument(
        "--pairs",
        metavar="FILE",
        help="held-out pairs of a query and its document, as the setting eval.pairs of training: each query is "
        "searched in all documents",
    )
    parser.add_argument(
        "--split",
        metavar="NAME",
        help="split of the judgements (default: test; dev for beir:msmarco; dev.small of MS MARCO)",
    )
    add_model_arguments(parser, default="none; --score needs none")
    _add_search_arguments(parser.add_argument_group("search"))
    _add_run_arguments(parser.add_argument_group("runs, in TREC's format"))

    output = parser.add_argument_group("output")
    output.add_argument(
        "--measures",
        nargs="+",
        metavar="NAME",
        help="such as P@5 or Success@1 (default: nDCG@10 MRR@10 MAP R@100 P@10)",
    )
    output.add_argument("--per-query", metavar="FILE", help="write each query's values, a JSON object a line")
    output.add_argument("--json", action="store_true", help="one JSON object: the measures' means by their names")


def _add_search_arguments(parser: "argparse._ArgumentGroup") -> None:
    parser.add_argument("--index", choices=("exact", "plaid"), default="exact", help="how to search (default: exact)")
    parser.add_argument(
        "--index-device", metavar="DEVICE", help="where --index plaid works: cpu, cuda, cuda:1 … (default: cpu)"
    )
    parser.add_argument(
        "--query-length",
        type=positive,
        metavar="N",
        help="tokens of a query at most (default: the model's; for beir:NAME and nanobeir:NAME the set's)",
    )
    parser.add_argument(
        "--document-length",
        type=positive,
        metavar="N",
        help="tokens of a document at most (default: the model's; 300 for beir:NAME and nanobeir:NAME, 32768 for "
        "longembed:NAME)",
    )
    parser.add_argument(
        "-k",
        type=positive,
        metavar="N",
        help=f"documents retrieved for a query (default: {_K}, or as many as a measure looks at)",
    )


def _add_run_arguments(parser: "argparse._ArgumentGroup") -> None:
    parser.add_argument("--rerank", metavar="RUN", help="rank the documents of this run, instead of searching")
    parser.add_argument("--score", metavar="RUN", help="evaluate this run; needs no model")
    parser.add_argument("--compare", metavar="RUN", help="show the difference to this run, and whether it is chance")
    parser.add_argument("--run", metavar="FILE", help="write the run")


def run(args: argparse.Namespace) -> None:
    _refuse_contradictions(args)
    from colbertz.evaluation import measures, named, runs, significance

    # Find all mistakes before anything that takes long.
    names = args.measures or list(measures.DEFAULT)
    if args.k is None:
        args.k = max(_K, measures.deepest(names))
    elif not (args.score or args.rerank) and measures.deepest(names) > args.k:
        raise UserError(f"{', '.join(names)} need {measures.deepest(names)} documents a query; -k is {args.k}")
    collections = [_read_pairs(args.pairs)] if args.pairs else named.load_parts(args.data, args.split)
    gains = {query_id: row for part in collections for query_id, row in zip(part.query_ids, part.gains)}
    measures.check(gains, names)
    if args.run:
        runs.refuse_blanks(id for part in collections for ids in (part.query_ids, part.document_ids) for id in ids)
    other_run = runs.read_run(args.compare) if args.compare else None
    other_values = measures.per_query(gains, other_run, names) if other_run is not None else None
    started = time.perf_counter()
    run, computed = (runs.read_run(args.score), "") if args.score else _search(args, collections)
    seconds = time.perf_counter() - started
    if args.run:
        runs.write_run(args.run, run)

    values = measures.per_query(gains, run, names)
    if args.per_query:
        _write_values(Path(args.per_query), {name: values[name] for name in names}, list(gains))
    estimates = {name: significance.estimate(values[name]) for name in names}
    differences = {}
    if other_values is not None:
        differences = {name: significance.difference(values[name], other_values[name]) for name in names}
    if args.json:
        about = _answered(args.score, run, gains) if args.score else f"{args.model} in {computed}"
        print(printable(about), file=sys.stderr)
        print_line(as_json({name: estimate.mean for name, estimate in estimates.items()}))
        return
    how = f"{args.rerank} ranked again" if args.rerank else args.index
    origin = _answered(args.score, run, gains) if args.score else f"{args.model} in {computed}, {how}, {seconds:,.0f} s"
    if other_run is not None:
        origin += f"; compared with {_answered(args.compare, other_run, gains)}"
    num_documents = sum(len(part.documents) for part in collections)
    title = ", ".join(part.name for part in collections)
    queries = counted(len(gains), "query", "queries")
    print(printable(f"{title}: {queries}, {counted(num_documents, 'document')}; {origin}"))
    print(f"\n{table(estimates, differences, args.compare)}")


def _answered(path: str, run: "Run", gains: "Mapping[str, object]") -> str:
    """A run, and how many of the judged queries it has documents for; the others count 0."""
    num_answered = sum(bool(run.get(query_id)) for query_id in gains)
    return f"the run {path}, which answers {num_answered:,} of {len(gains):,} queries"


def _refuse_contradictions(args: argparse.Namespace) -> None:
    if (args.model is None) == (args.score is None):
        raise UserError("give either --model, the model to evaluate, or --score, a run that is there already")
    if args.pairs and args.split:
        raise UserError(f"--split is for --data; pairs have no splits, leave out {args.split!r}")
    if args.score and args.rerank:
        raise UserError("--rerank needs a model; --score takes a run as it is")
    if args.json and args.compare:
        raise UserError("--json has the measures alone; leave it out, or --compare")
    for path in (args.run, args.per_query):
        if path:
            require_parent(path)


def _read_pairs(path: str) -> "Collection":
    """The collection that training makes of its setting eval.pairs."""
    from colbertz.evaluation import from_pairs
    from colbertz.training.data import read_pairs

    pairs = read_pairs(path)
    return from_pairs(path, pairs.queries, pairs.documents)


def _search(args: argparse.Namespace, collections: "Sequence[Collection]") -> "tuple[Run, str]":
    """One run of all collections, whose queries have different ids, and what the model computed in."""
    from colbertz.evaluation import named, runs
    from colbertz.evaluation.retrieve import rerank, retrieve, without_themselves
    from colbertz.models import ColBERT
    from colbertz.models.dtypes import describe
    from colbertz.models.tokenizer import SettingOverrides

    lengths: SettingOverrides = {}
    defaults = named.lengths(args.data) if args.data else {}
    if query_length := args.query_length or defaults.get("query_length"):
        lengths["query_length"] = query_length
    if document_length := args.document_length or defaults.get("document_length"):
        lengths["document_length"] = document_length
    model = ColBERT.from_pretrained(args.model, args.device, torch_dtype(args.dtype), backend=args.backend, **lengths)
    candidates = runs.read_run(args.rerank) if args.rerank else None
    run: Run = {}
    for collection in collections:
        if candidates is not None:
            run |= rerank(model, collection, without_themselves(collection, candidates))
        else:
            run |= retrieve(model, collection, args.k, index=args.index, device=args.index_device)
    return run, describe(model)


def _write_values(path: Path, values: dict[str, dict[str, float]], query_ids: Sequence[str]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for query_id in query_ids:
            row = {"query_id": query_id} | {name: values[name][query_id] for name in values}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def table(
    estimates: "dict[str, Estimate]", differences: "dict[str, Difference]", other: str | None, color: bool | None = None
) -> str:
    """Format a line for each measure: mean, 95 % interval, and the difference to another run.

    Args:
        estimates: by the names of the measures.
        differences: to the other run, by the names of the measures; may be empty.
        other: name of the other run.
        color: whether to print a difference in bold where p < 0.05; None does so on a terminal.
    """
    bold = sys.stdout.isatty() if color is None else color
    width = max(len("measure"), *map(len, estimates))
    lines = [f"{'measure':<{width}}    mean   95 % interval" + (f"     minus {other}" if differences else "")]
    lines.append("─" * len(lines[0]))
    for name, estimate in estimates.items():
        line = f"{name:<{width}}  {estimate.mean:.4f}   {estimate.low:.4f}–{estimate.high:.4f}"
        if name in differences:
            difference = differences[name]
            interval = f"({difference.low:+.4f} to {difference.high:+.4f})"
            cell = f"{difference.mean:+.4f}  {interval}, p {difference.p:.4f}"
            line += "     " + (f"\033[1m{cell}\033[0m" if bold and difference.p < 0.05 else cell)
        lines.append(line)
    return "\n".join(lines)
