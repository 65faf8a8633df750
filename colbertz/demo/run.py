"""`make demo` from top to bottom: corpus, tokenizer, training, index, three searches, and a comparison with BM25."""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from colbertz import config as settings
from colbertz import training
from colbertz.cli.display import format_hit
from colbertz.config import TrainingConfig
from colbertz.demo import baseline
from colbertz.demo.corpus import Function, collect, default_roots
from colbertz.demo.tokenizer import train_tokenizer
from colbertz.evaluation import evaluate, from_pairs
from colbertz.evaluation.exact import truncation_unmentioned
from colbertz.index import Hit
from colbertz.metrics import mrr, recall
from colbertz.models import ColBERT
from colbertz.searcher import Searcher

QUERIES = ("parse a date string", "shortest path between two nodes of a graph", "read a file line by line")
FILTER = "path like 'email/%'"


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The demo's own options."""
    parser = argparse.ArgumentParser(
        prog="colbertz demo",
        description="Train a nano ColBERT on the Python code of this machine, index and search it, compare with BM25.",
    )
    parser.add_argument("--config", default="configs/demo.yaml", help="training settings (default: %(default)s)")
    parser.add_argument("--index", default="demo-index", help="where to write the index (default: %(default)s)")
    parser.add_argument(
        "--roots", nargs="+", type=Path, help="directories of packages (default: those of this Python installation)"
    )
    parser.add_argument(
        "--prepare", action="store_true", help="stop after corpus and tokenizer, to start train.py or torchrun by hand"
    )
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Run the demo.

    Raises:
        ValueError, FileNotFoundError: for a configuration that cannot be used, or roots without enough functions.
    """
    started = time.perf_counter()
    config = settings.load(["--config", args.config])
    index = Path(args.index)

    with _stage(1, "Collecting the functions of the installed Python packages"):
        functions = collect(args.roots or default_roots(), processes=os.cpu_count() or 1)
        held_out = _write_corpus(functions, config)
        packages = ", ".join(sorted({f.package for f in held_out}))
        num_packages = len({f.package for f in functions})
        print(f"{len(functions):,} documented functions, methods and classes of {num_packages} packages and modules")
        print(f"{len(held_out):,} are held out and never trained on: {packages}")

    with _stage(2, "Training a tokenizer on them"):
        texts = (text for f in functions if not f.held_out for text in (f.query, f.document))
        tokenizer = train_tokenizer(texts)
        tokenizer.save(str(config.model.tokenizer))
        print(f"{tokenizer.get_vocab_size():,} tokens: {' · '.join(tokenizer.encode('parse_dateString').tokens)}")
    if args.prepare:
        _next(f"torchrun --nproc-per-node 2 train.py --config {args.config}")
        return

    with _stage(3, f"Training a model from scratch: train.py --config {args.config}"):
        training.main(["--config", args.config, "--overwrite", "true"])
    location = Path(config.output) / "model"
    model = ColBERT.from_pretrained(location)

    with _stage(4, f"Indexing all {len(functions):,} functions into {index}"), truncation_unmentioned():
        searcher = Searcher.build(
            index,
            model,
            [f.document for f in functions],
            ids=[f.id for f in functions],
            metadata=[{"path": f.path, "line": f.line, "name": f.name} for f in functions],
            location=location,
            overwrite=True,
        )
        built = searcher.index
        print(f"{built.num_tokens:,} tokens of {built.embedding_dim} dimensions: {built.manifest.size / 1e6:,.0f} MB")

    with _stage(5, "Searching"):
        _show_searches(searcher)

    with _stage(6, f"Comparing with BM25 on the {len(held_out):,} held-out functions"):
        print(comparison(model, held_out))
    print(f"\nAll of it in {_minutes(time.perf_counter() - started)}.")
    _next(f'python search.py --index {index} "{QUERIES[0]}"')


def comparison(model: ColBERT, held_out: Sequence[Function]) -> str:
    """The closing table: every first sentence of a docstring against the code of all held-out functions."""
    queries, documents = [f.query for f in held_out], [f.document for f in held_out]
    relevant = [{number} for number in range(len(held_out))]
    rows = []
    for name, words in (
        ("plain words", baseline.plain_words),
        ("identifiers split, stemmed", baseline.split_identifiers),
    ):
        found = baseline.rank(queries, documents, words)
        rows.append((f"BM25, {name}", mrr(found, relevant), recall(found, relevant)))
    quality = evaluate(model, from_pairs("held-out functions", queries, documents))
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    rows.append((f"nano ColBERT, {parameters:.1f} M parameters", quality["mrr@10"], quality["recall@10"]))
    rule = "─" * 60
    lines = [f"{'':<38}{'MRR@10':>10}{'recall@10':>12}", rule]
    return "\n".join([*lines, *(f"{name:<38}{first:>10.3f}{second:>12.3f}" for name, first, second in rows), rule])


def _write_corpus(functions: Sequence[Function], config: TrainingConfig) -> list[Function]:
    """Write both halves to where the configuration reads them from, and return the held-out one."""
    if config.eval.pairs is None or config.model.tokenizer is None or not isinstance(config.data.train, str):
        raise ValueError(
            "the demo's configuration must set data.train to a file, eval.pairs and model.tokenizer; "
            "configs/demo.yaml does"
        )
    held_out = [f for f in functions if f.held_out]
    trained_on = [f for f in functions if not f.held_out]
    if not held_out or len(trained_on) < config.batch_size:
        raise ValueError(
            f"found only {len(trained_on)} functions to train on and {len(held_out)} held-out ones; give other --roots"
        )
    Path(config.model.tokenizer).parent.mkdir(parents=True, exist_ok=True)
    for path, part in ((Path(config.data.train), trained_on), (Path(config.eval.pairs), held_out)):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8") as file:
            for f in part:
                row = {"query": f.query, "document": f.document, "id": f.id}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return held_out


def _show_searches(searcher: Searcher) -> None:
    for query, hits in zip(QUERIES, searcher.search(list(QUERIES), k=3)):
        _show(query, query, hits)
    [query, *_] = QUERIES
    _show(f'{query}  --where "{FILTER}"', query, searcher.search(query, k=2, where=FILTER))
    started = time.perf_counter()
    searcher.search(list(QUERIES), k=10)
    milliseconds = (time.perf_counter() - started) * 1e3 / len(QUERIES)
    print(_dim(f"\n{milliseconds:.0f} ms a query, encoding included"))


def _show(title: str, query: str, hits: Sequence[Hit]) -> None:
    print(f"\n{_bold(title)}")
    width = shutil.get_terminal_size((100, 24)).columns
    for rank, hit in enumerate(hits, 1):
        print(format_hit(rank, hit, query, width, _in_colour()))


@contextmanager
def _stage(number: int, title: str) -> Iterator[None]:
    print(f"\n{_bold(f'{number}/6  {title}')}", flush=True)
    started = time.perf_counter()
    yield
    print(_dim(f"done in {_minutes(time.perf_counter() - started)}"), flush=True)


def _next(command: str) -> None:
    print(f"Next: {_bold(command)}", flush=True)


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


def _in_colour() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


def _bold(text: str) -> str:
    return f"\x1b[1m{text}\x1b[0m" if _in_colour() else text


def _dim(text: str) -> str:
    return f"\x1b[2m{text}\x1b[0m" if _in_colour() else text
