"""`colbertz mine`: hard negatives for training, found by searching the training data itself with a model.

One row for each query and positive: query, document (the positive's text), negatives (texts), and scores and
document_ids of the positive and then the negatives. The negatives of a query are those of all its rows.
"""

import argparse
import gzip
import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from colbertz.cli.options import add_encoding_arguments, add_model_arguments, load_model, positive
from colbertz.corpus.formats import NAMES, read_rows
from colbertz.distillation.negatives import Candidate, Choice, Filters, choose
from colbertz.errors import UserError
from colbertz.files import replaced_file
from colbertz.text.normalize import normalized

if TYPE_CHECKING:
    from colbertz.evaluation import Collection
    from colbertz.index import Hit
    from colbertz.models import ColBERT
    from colbertz.ragged import Ragged
    from colbertz.searcher import Searcher

HELP = "find hard negatives for training pairs"

# Queries embedded and searched for together: an exact search reads the whole index once for as many.
_QUERIES_AT_ONCE = 512

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
    add_model_arguments(parser)
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument(
        "--pairs", metavar="FILE", help=f"{NAMES} with query and document; .gz too; - for JSON lines from stdin"
    )
    data.add_argument("--data", metavar="DIR", help="BEIR's layout: corpus.jsonl, queries.jsonl, qrels/; .gz too")
    parser.add_argument("--split", help="with --data: mine for the queries of qrels/SPLIT.tsv (default: train)")
    parser.add_argument("--out", required=True, metavar="FILE", help="the .jsonl or .jsonl.gz to write, or to replace")
    parser.add_argument(
        "--index",
        metavar="DIR",
        help="an index of the same documents; built there if there is none (default: not kept)",
    )
    parser.add_argument(
        "--top-k", type=positive, default=100, metavar="N", help="candidates a query (default: %(default)s)"
    )
    parser.add_argument(
        "--num-negatives", type=int, default=8, metavar="N", help="negatives a query at most (default: %(default)s)"
    )
    parser.add_argument(
        "--min-rank", type=int, default=1, metavar="N", help="pass over better candidates; positives have no rank"
    )
    parser.add_argument("--max-rank", type=int, metavar="N", help="pass over worse candidates")
    parser.add_argument(
        "--margin",
        type=float,
        metavar="X",
        help="keep scores of at most the positive's minus X; scores are sums of cosines",
    )
    parser.add_argument(
        "--max-percentage", type=float, metavar="P", help="keep scores of at most P times the positive's, as in 0.95"
    )
    parser.add_argument(
        "--sampling", choices=("top", "random"), default="top", help="of what the filters leave (default: top)"
    )
    parser.add_argument("--seed", type=int, default=0, help="for --sampling random (default: %(default)s)")
    add_encoding_arguments(parser)


def run(args: argparse.Namespace) -> None:
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
    out = Path(args.out)
    if not out.name.removesuffix(".gz").endswith(".jsonl"):
        raise UserError(f"the output's name must end in .jsonl or .jsonl.gz, got {out.name!r}")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"there is no directory {out.parent} to write {out.name} in")
    if args.pairs and args.split:
        raise UserError("--split is for --data; all of --pairs are used")
    from colbertz.evaluation import read_beir

    data = read_pairs(args.pairs) if args.pairs else read_beir(args.data, args.split or "train").answerable()
    model = load_model(args)

    removed: Counter[str] = Counter()
    num_rows = num_negatives = num_dropped = 0
    with _searcher(args, model, data) as searcher, _written(out) as file:
        for query, positives, choice in _mined(searcher, data, filters, args):
            removed += choice.removed
            num_dropped += not choice.negatives
            for row in _rows_of(query, positives, choice.negatives):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                num_rows += 1
                num_negatives += len(choice.negatives)
        if not num_rows:
            raise UserError("no query was left with a negative; loosen the filters or raise --top-k")
    num_queries = len(data.queries) - num_dropped
    print(f"{num_rows:,} rows of {num_queries:,} queries, {num_negatives / num_rows:.1f} negatives a row: {out}")
    num_candidates = len(data.queries) * min(args.top_k, len(data.documents))
    print(f"of {num_candidates:,} candidates")
    for reason, words in _REASONS.items():
        if removed[reason]:
            print(f"  {removed[reason]:,} {words}")
    if num_dropped:
        print(f"{num_dropped:,} queries were dropped, because no candidate was left for them")


def read_pairs(source: str) -> "Collection":
    """The different documents of all pairs are the corpus; pairs with the same query share their positives.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a row is not as it should be, naming the line, or there is none.
    """
    from colbertz.evaluation import Collection

    queries: dict[str, str] = {}
    document_ids: dict[str, str] = {}
    relevant: dict[str, dict[str, float]] = {}
    for row, where in read_rows(source):
        for key in ("query", "document"):
            if not isinstance(row.get(key), str) or not row[key].strip():
                raise UserError(f"{where}: `{key}` must be a string with something in it, got {row.get(key)!r:.60}")
        query = normalized(row["query"])
        queries.setdefault(query, row["query"])
        document_id = document_ids.setdefault(row["document"], f"d{len(document_ids)}")
        relevant.setdefault(query, {})[document_id] = 1.0
    if not queries:
        raise UserError(f"{source} holds no pairs")
    query_ids = [f"q{number}" for number in range(len(queries))]
    documents = list(document_ids)
    return Collection(
        source, query_ids, list(queries.values()), list(document_ids.values()), documents, list(relevant.values())
    )


@contextmanager
def _searcher(args: argparse.Namespace, model: "ColBERT", data: "Collection") -> "Iterator[Searcher]":
    from colbertz.index import Index
    from colbertz.index.store.manifest import MANIFEST
    from colbertz.searcher import Searcher

    # Beside the output, because an index may be too large for /tmp.
    with tempfile.TemporaryDirectory(prefix=".colbertz-mine-", dir=Path(args.out).parent) as temporary:
        path = Path(args.index or temporary)
        if not (path / MANIFEST).exists():
            yield Searcher.build(
                path,
                model,
                data.documents,
                ids=data.document_ids,
                location=args.model,
                pool_factor=args.pool_factor,
                batch_tokens=args.batch_tokens,
            )
            return
        searcher = Searcher(model, Index.open(path))
        if len(searcher.index) != len(data.documents):
            raise UserError(
                f"the index {path} holds {len(searcher.index)} documents and the data {len(data.documents)};"
                " give the index of this data, or a new directory to build it in"
            )
        yield searcher


def _mined(
    searcher: "Searcher", data: "Collection", filters: Filters, args: argparse.Namespace
) -> Iterator[tuple[str, list[Candidate], Choice]]:
    """Text, positives and negatives of each query."""
    from tqdm import tqdm

    texts = dict(zip(data.document_ids, data.documents))
    num_truncated, model = 0, searcher.model
    with tqdm(total=len(data.queries), desc="mining", unit=" queries", disable=None) as bar:
        for start in range(0, len(data.queries), _QUERIES_AT_ONCE):
            batch = slice(start, start + _QUERIES_AT_ONCE)
            encoded = model.encode(data.queries[batch], "query", batch_tokens=args.batch_tokens, show_progress=False)
            num_truncated += encoded.num_truncated
            found = _ranked(searcher, encoded.embeddings, data.relevant[batch], texts, args)
            for query, (positives, candidates) in zip(data.queries[batch], found):
                yield query, positives, choose(query, positives, candidates, filters)
            bar.update(len(found))
    model.warn_truncated(num_truncated, "query")


def _ranked(
    searcher: "Searcher",
    embeddings: "Ragged",
    relevant: Sequence[Mapping[str, float]],
    texts: dict[str, str],
    args: argparse.Namespace,
) -> list[tuple[list[Candidate], list[Candidate]]]:
    """The positives and what the search found for each query; positives that it did not find are scored here."""
    index = searcher.index
    found = [[_candidate(hit, texts, index.path) for hit in row] for row in index.search(embeddings, args.top_k)]
    scores = [{candidate.id: candidate.score for candidate in candidates} for candidates in found]
    missing = [[id for id in ids if id not in known] for ids, known in zip(relevant, scores)]
    for row, ids in enumerate(missing):
        if ids:
            [hits] = index.search(embeddings[row : row + 1], len(ids), subset=ids)
            scores[row] |= {hit.id: hit.score for hit in hits}
    positives = [[Candidate(id, texts[id], known[id]) for id in ids] for ids, known in zip(relevant, scores)]
    return list(zip(positives, found))


def _candidate(hit: "Hit", texts: dict[str, str], path: Path) -> Candidate:
    text = texts.get(hit.id)
    if text is None or hit.text not in (None, text):
        raise UserError(
            f"document {hit.id!r} of the index {path} is not in the data or has another text there;"
            " give the index of this data, or a new directory to build it in"
        )
    return Candidate(hit.id, text, hit.score)


def _rows_of(query: str, positives: list[Candidate], negatives: list[Candidate]) -> Iterator[dict[str, object]]:
    for right in positives if negatives else ():
        yield {
            "query": query,
            "document": right.text,
            "negatives": [negative.text for negative in negatives],
            "scores": [right.score, *(negative.score for negative in negatives)],
            "document_ids": [right.id, *(negative.id for negative in negatives)],
        }


@contextmanager
def _written(path: Path) -> Iterator[TextIO]:
    """A text file that gets its name when the block ends without an error; gzipped if the name says so."""
    with (
        replaced_file(path) as temporary,
        gzip.open(temporary, "wt", encoding="utf-8")
        if path.suffix == ".gz"
        else temporary.open("w", encoding="utf-8") as file,
    ):
        yield file
