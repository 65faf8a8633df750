"""`colbertz eval`: how well a model, or a run, finds what a test collection asks for."""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from colbertz.cli.options import add_model_arguments, positive, torch_dtype
from colbertz.errors import UserError

if TYPE_CHECKING:
    from colbertz.evaluation import Collection
    from colbertz.evaluation.runs import Run
    from colbertz.evaluation.significance import Difference, Estimate

HELP = "evaluate a model on a test collection"
_K = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        required=True,
        metavar="DIR|NAME",
        help="a folder in the layout of BEIR, NanoBEIR, LongEmbed or MS MARCO, or beir:NAME, nanobeir:NAME, "
        "longembed:NAME",
    )
    parser.add_argument(
        "--split", help="of the judgements (default: test; dev for beir:msmarco; dev.small of MS MARCO)"
    )
    add_model_arguments(parser, default="or --score, a run")
    parser.add_argument("--index", choices=("exact", "plaid"), default="exact", help="how to search (default: exact)")
    parser.add_argument("--index-device", metavar="DEVICE", help="cuda, cuda:1 … for --index plaid (default: cpu)")
    parser.add_argument(
        "--query-length",
        type=positive,
        metavar="N",
        help="tokens (default: the model's; for beir:NAME and nanobeir:NAME the set's)",
    )
    parser.add_argument(
        "--document-length",
        type=positive,
        metavar="N",
        help="tokens (default: the model's; 300 for beir:NAME and nanobeir:NAME, 32768 for longembed:NAME)",
    )
    parser.add_argument(
        "-k", type=positive, help=f"documents retrieved a query (default: {_K}, or as many as a measure looks at)"
    )

    runs = parser.add_argument_group("runs, in TREC's format")
    runs.add_argument("--rerank", metavar="RUN", help="rank what this run found, instead of searching")
    runs.add_argument("--score", metavar="RUN", help="evaluate this run; needs no model")
    runs.add_argument("--compare", metavar="RUN", help="show the difference to this run, and whether it is chance")
    runs.add_argument("--run", metavar="FILE", help="write the run")

    output = parser.add_argument_group("output")
    output.add_argument(
        "--measures", nargs="+", metavar="NAME", help="default: nDCG@10 MRR@10 MAP R@100 P@10; also P@5, Success@1 …"
    )
    output.add_argument("--per-query", metavar="FILE", help="write each query's values, a JSON object a line")
    output.add_argument("--json", action="store_true", help="one JSON object: the measures' means by their names")


def run(args: argparse.Namespace) -> None:
    if (args.model is None) == (args.score is None):
        raise UserError("give either --model, the model to evaluate, or --score, a run that is there already")
    if args.score and args.rerank:
        raise UserError("--rerank needs a model; --score takes a run as it is")
    if args.json and args.compare:
        raise UserError("--json has the measures alone; leave it out, or --compare")
    for path in (args.run, args.per_query):
        if path and not Path(path).parent.is_dir():
            raise FileNotFoundError(f"there is no directory {Path(path).parent} to write {Path(path).name} in")
    from colbertz.evaluation import measures, named, runs, significance

    # All that can be wrong is found before anything that takes long.
    names = args.measures or list(measures.DEFAULT)
    searches = not (args.score or args.rerank)
    if args.k is None:
        args.k = max(_K, measures.deepest(names))
    elif searches and measures.deepest(names) > args.k:
        raise UserError(f"{', '.join(names)} need {measures.deepest(names)} documents a query; -k is {args.k}")
    parts = named.load_parts(args.data, args.split)
    gains = {query: row for part in parts for query, row in zip(part.query_ids, part.gains)}
    measures.check(gains, names)
    if args.run:
        runs.refuse_blanks(id for part in parts for ids in (part.query_ids, part.document_ids) for id in ids)
    others = runs.read_run(args.compare) if args.compare else None
    theirs = measures.per_query(gains, others, names) if others is not None else None
    started = time.perf_counter()
    found = runs.read_run(args.score) if args.score else _run_of(args, parts)
    took = time.perf_counter() - started
    if args.run:
        runs.write_run(args.run, found)

    values = measures.per_query(gains, found, names)
    if args.per_query:
        with Path(args.per_query).open("w", encoding="utf-8") as file:
            for query in gains:
                row = {"query_id": query} | {name: values[name][query] for name in names}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    estimates = {name: significance.estimate(values[name]) for name in names}
    differences = {}
    if theirs is not None:
        differences = {name: significance.difference(values[name], theirs[name]) for name in names}
    if args.json:
        print(json.dumps({name: estimate.mean for name, estimate in estimates.items()}))
        return
    how = f"the run {args.score}" if args.score else f"{args.model}, {_how(args)}, {took:,.0f} s"
    size = sum(len(part.documents) for part in parts)
    print(f"{', '.join(part.name for part in parts)}: {len(gains):,} queries, {size:,} documents; {how}\n")
    print(table(estimates, differences, args.compare))


def _how(args: argparse.Namespace) -> str:
    return f"{args.rerank} ranked again" if args.rerank else args.index


def _run_of(args: argparse.Namespace, parts: "list[Collection]") -> "Run":
    """One run of all parts, whose queries have different ids."""
    from colbertz.evaluation import named, runs
    from colbertz.evaluation.retrieve import rerank, retrieve, without_themselves
    from colbertz.models import ColBERT

    asked = {"query_length": args.query_length, "document_length": args.document_length}
    lengths = named.lengths(args.data) | {name: length for name, length in asked.items() if length is not None}
    model = ColBERT.from_pretrained(args.model, args.device, torch_dtype(args.dtype), backend=args.backend, **lengths)
    other = runs.read_run(args.rerank) if args.rerank else None
    found: Run = {}
    for part in parts:
        if other is not None:
            found |= rerank(model, part, without_themselves(part, other))
        else:
            found |= retrieve(model, part, args.k, index=args.index, device=args.index_device)
    return found


def table(
    estimates: "dict[str, Estimate]", differences: "dict[str, Difference]", other: str | None, color: bool | None = None
) -> str:
    """A line a measure: mean and 95 % interval, and the difference to another run, bold where hardly by chance."""
    bold = sys.stdout.isatty() if color is None else color
    width = max(len("measure"), *map(len, estimates))
    lines = [f"{'measure':<{width}}    mean   95 % interval" + (f"     minus {other}" if differences else "")]
    lines.append("─" * len(lines[0]))
    for name, one in estimates.items():
        line = f"{name:<{width}}  {one.mean:.4f}   {one.low:.4f}–{one.high:.4f}"
        if name in differences:
            by = differences[name]
            said = f"{by.mean:+.4f}  ({by.low:+.4f} to {by.high:+.4f}), p {by.p:.4f}"
            line += "     " + (f"\033[1m{said}\033[0m" if bold and by.p < 0.05 else said)
        lines.append(line)
    return "\n".join(lines)
