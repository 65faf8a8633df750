"""`colbertz mine`: hard negatives for training, found by searching the training data itself with a model."""

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from colbertz.cli.options import add_encoding_arguments, add_model_arguments, load_model, positive, require_parent, seed
from colbertz.corpus.formats import NAMES
from colbertz.errors import UserError
from colbertz.text.counted import counted

if TYPE_CHECKING:
    from colbertz.distillation.negatives import Filters
    from colbertz.evaluation import Collection
    from colbertz.searcher import Searcher

HELP = "find hard negatives for training pairs"
EXAMPLES = """\
  colbertz mine --pairs pairs.jsonl --out mined.jsonl
  colbertz mine --data my-beir-folder --split train --out mined.jsonl.gz --max-percentage 0.95
  colbertz mine --pairs pairs.jsonl --out mined.jsonl --max-rank 30 --sampling random --num-negatives 7
"""

# What the reasons of `distillation.negatives.Choice.removed` are called in the summary.
_REASONS = {
    "positive": "are a positive, a text like one, or the query itself",
    "duplicate": "have the text of a better candidate",
    "min_rank": "rank before --min-rank",
    "max_rank": "rank after --max-rank",
    "margin": "score too high for --margin",
    "not_above_zero": "belong to a positive with a score of 0 or less, of which there is no percentage",
    "max_percentage": "score too high for --max-percentage",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument(
        "--pairs", metavar="FILE", help=f"{NAMES} with query and document; .gz too; - for JSON lines from stdin"
    )
    data.add_argument("--data", metavar="DIR", help="BEIR's layout: corpus.jsonl, queries.jsonl, qrels/; .gz too")
    parser.add_argument(
        "--split", metavar="NAME", help="with --data: mine for the queries of qrels/NAME.tsv (default: train)"
    )
    parser.add_argument("--out", required=True, metavar="FILE", help=".jsonl or .jsonl.gz file to write, or to replace")
    parser.add_argument(
        "--index",
        metavar="DIR",
        help="an index of the same documents; built there if there is none (default: a temporary one)",
    )
    _add_filter_arguments(parser.add_argument_group("which candidates"))
    add_model_arguments(parser)
    add_encoding_arguments(parser)


def _add_filter_arguments(parser: "argparse._ArgumentGroup") -> None:
    parser.add_argument("--top-k", type=positive, default=100, metavar="N", help="candidates a query (default: 100)")
    parser.add_argument(
        "--num-negatives", type=int, default=8, metavar="N", help="negatives a query at most (default: 8)"
    )
    parser.add_argument(
        "--min-rank",
        type=int,
        default=1,
        metavar="N",
        help="skip better candidates; positives have no rank (default: 1)",
    )
    parser.add_argument("--max-rank", type=int, metavar="N", help="skip worse candidates (default: none)")
    parser.add_argument(
        "--margin",
        type=float,
        metavar="X",
        help="keep scores of at most the positive's minus X; scores are sums of cosines (default: none)",
    )
    parser.add_argument(
        "--max-percentage",
        type=float,
        metavar="P",
        help="keep scores of at most P times the positive's, as in 0.95 (default: none)",
    )
    parser.add_argument(
        "--sampling",
        choices=("top", "random"),
        default="top",
        help="take the best candidates that the filters keep, or random ones (default: top)",
    )
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="seed of --sampling random (default: 0)")


def run(args: argparse.Namespace) -> None:
    from colbertz.distillation.lists import read_pairs, write_mined
    from colbertz.distillation.negatives import mine
    from colbertz.evaluation import read_beir
    from colbertz.models.dtypes import describe
    from colbertz.progress import steps

    filters = _filters(args)
    out = Path(args.out)
    if not out.name.removesuffix(".gz").endswith(".jsonl"):
        raise UserError(f"the output's name must end in .jsonl or .jsonl.gz, got {out.name!r}")
    require_parent(out)
    if args.pairs and args.split:
        raise UserError("--split is for --data; all of --pairs are used")
    collection = read_pairs(args.pairs) if args.pairs else read_beir(args.data, args.split or "train").answerable()
    # With the packaged model a query is encoded and searched in about the time in which a document is indexed.
    shares = {"indexing": len(collection.documents), "searching": len(collection.queries)}
    with steps("mining", shares) as bar:
        bar.begin("indexing", 100, "%")
        with _searcher(args, collection) as searcher:
            bar.begin("searching", len(collection.queries), "queries")
            mined = mine(
                searcher.model,
                searcher.index,
                collection,
                filters,
                top_k=args.top_k,
                batch_tokens=args.batch_tokens,
            )
            counts = write_mined(out, mined)
            computed = describe(searcher.model)
    print(f"{counts}, encoded in {computed}: {out}")
    num_candidates = len(collection.queries) * min(args.top_k, len(collection.documents))
    print(f"of {counted(num_candidates, 'candidate')}")
    for reason, words in _REASONS.items():
        if counts.removed[reason]:
            print(f"  {counts.removed[reason]:,} {words}")
    if counts.num_dropped:
        dropped = "1 query was" if counts.num_dropped == 1 else f"{counts.num_dropped:,} queries were"
        print(f"{dropped} dropped, because no candidate was left")


def _filters(args: argparse.Namespace) -> "Filters":
    from colbertz.distillation.negatives import Filters

    filters = Filters(
        num_negatives=args.num_negatives,
        min_rank=args.min_rank,
        max_rank=args.max_rank,
        margin=args.margin,
        max_percentage=args.max_percentage,
        sampling=args.sampling,
        seed=args.seed,
    )
    if filters.min_rank > args.top_k:
        raise UserError(
            f"--min-rank {filters.min_rank} is beyond the {args.top_k} candidates of a query; raise --top-k"
        )
    return filters


@contextmanager
def _searcher(args: argparse.Namespace, collection: "Collection") -> "Iterator[Searcher]":
    """The model with the index `--index`, which is built if there is none, or with a temporary index."""
    from colbertz.index import Index
    from colbertz.index.store.layout import MANIFEST
    from colbertz.searcher import Searcher

    model = load_model(args)
    # Beside the output, because an index may be too large for /tmp.
    with tempfile.TemporaryDirectory(prefix=".colbertz-mine-", dir=Path(args.out).parent) as temporary:
        path = Path(args.index or temporary)
        if (path / MANIFEST).exists():
            yield Searcher(model, Index.open(path))
        else:
            yield Searcher.build(
                path,
                model,
                collection.documents,
                ids=collection.document_ids,
                location=args.model,
                pool_factor=args.pool_factor,
                batch_tokens=args.batch_tokens,
            )
