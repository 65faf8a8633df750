"""`make demo` from top to bottom: corpus, index, three searches, and a comparison with BM25.

With `--train` a tokenizer and a model of the corpus itself come before the index; without, the packaged model is used.
"""

import argparse
import itertools
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from colbertz import training
from colbertz.display import format_hit
from colbertz.errors import UserError, require
from colbertz.evaluation import evaluate, from_pairs
from colbertz.evaluation.metrics import mrr, recall
from colbertz.index import Hit
from colbertz.models import ColBERT
from colbertz.models.checkpoint.hub import PACKAGED
from colbertz.recipes.demo.corpus import Function, collect, default_roots
from colbertz.recipes.demo.tokenizer import train_tokenizer
from colbertz.searcher import Searcher
from colbertz.text import bm25
from colbertz.text.words import plain_words, split_identifiers
from colbertz.training import config as settings
from colbertz.training.config import TrainingConfig

QUERIES = ("parse a date string", "shortest path between two nodes of a graph", "read a file line by line")
FILTER = "path like 'email/%'"


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The demo's own options."""
    parser = argparse.ArgumentParser(
        prog="colbertz demo",
        description="Index the Python code of this machine with a nano ColBERT, search it, compare with BM25.",
    )
    parser.add_argument(
        "--train", action="store_true", help="train a model on this code first, rather than use colbertz/nano"
    )
    parser.add_argument(
        "--config", default=str(settings.shipped("demo.yaml")), help="settings of --train (default: %(default)s)"
    )
    parser.add_argument("--index", default="demo-index", help="where to write the index (default: %(default)s)")
    parser.add_argument(
        "--roots", nargs="+", type=Path, help="directories of packages (default: those of this Python installation)"
    )
    parser.add_argument(
        "--prepare", action="store_true", help="stop before the training, to start train.py or torchrun by hand"
    )
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Run the demo.

    Raises:
        ValueError, FileNotFoundError: for a configuration that cannot be used, or roots without enough functions.
        MissingExtra: without bm25s, which the extra `eval` installs.
    """
    require("bm25s", "eval")  # the comparison at the end needs it

    started = time.perf_counter()
    train = args.train or args.prepare
    config = settings.load(["--config", args.config]) if train else None
    index = Path(args.index)
    stage = _stages(6 if train else 4)

    with stage("Collecting the functions of the installed Python packages"):
        functions = collect(args.roots or default_roots(), processes=os.cpu_count() or 1)
        held_out = [f for f in functions if f.held_out]
        if not held_out:
            raise UserError(f"found none of the packages that are held out, among {len(functions)}; give other --roots")
        packages = ", ".join(sorted({f.package for f in held_out}))
        num_packages = len({f.package for f in functions})
        print(f"{len(functions):,} documented functions, methods and classes of {num_packages} packages and modules")
        print(f"{len(held_out):,} are held out and never trained on: {packages}")

    location = PACKAGED
    if config is not None:
        with stage("Training a tokenizer on them"):
            _write_corpus(functions, config)
            texts = (text for f in functions if not f.held_out for text in (f.query, f.document))
            tokenizer = train_tokenizer(texts)
            tokenizer.save(str(config.model.tokenizer))
            print(f"{tokenizer.get_vocab_size():,} tokens: {' · '.join(tokenizer.encode('parse_dateString').tokens)}")
        if args.prepare:
            _next(f"torchrun --nproc-per-node 2 train.py --config {args.config}")
            return
        with stage(f"Training a model from scratch: train.py --config {args.config}"):
            training.main(["--config", args.config, "--overwrite", "true"])
        location = str(Path(config.output) / "model")
    model = ColBERT.from_pretrained(location)

    with stage(f"Indexing all {len(functions):,} functions into {index}"):
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

    with stage("Searching"):
        _show_searches(searcher)

    with stage(f"Comparing with BM25 on the {len(held_out):,} held-out functions"):
        print(comparison(model, held_out))
    print(f"\nAll of it in {_minutes(time.perf_counter() - started)}.")
    _next(f'python search.py --index {index} "{QUERIES[0]}"')


def comparison(model: ColBERT, held_out: Sequence[Function]) -> str:
    """The closing table: every first sentence of a docstring against the code of all held-out functions."""
    queries, documents = [f.query for f in held_out], [f.document for f in held_out]
    relevant = [{number} for number in range(len(held_out))]
    rows = []
    for name, words in (
        ("plain words", plain_words),
        ("identifiers split, stemmed", split_identifiers),
    ):
        # The best k1 and b of a small grid for split identifiers on these functions: the comparison leans towards BM25.
        ranked = bm25.search(queries, documents, words, 10, k1=2.0, b=0.9)
        found = [[number for number, _ in row] for row in ranked]
        rows.append((f"BM25, {name}", mrr(found, relevant), recall(found, relevant)))
    quality = evaluate(model, from_pairs("held-out functions", queries, documents))
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    rows.append((f"nano ColBERT, {parameters:.1f} M parameters", quality["mrr@10"], quality["recall@10"]))
    rule = "─" * 60
    lines = [f"{'':<38}{'MRR@10':>10}{'recall@10':>12}", rule]
    return "\n".join([*lines, *(f"{name:<38}{first:>10.3f}{second:>12.3f}" for name, first, second in rows), rule])


def _write_corpus(functions: Sequence[Function], config: TrainingConfig) -> None:
    """Write both halves to where the configuration reads them from."""
    if config.eval.pairs is None or config.model.tokenizer is None or not isinstance(config.data.train, str):
        raise UserError(
            "the demo's configuration must set data.train to a file, eval.pairs and model.tokenizer; "
            "configs/demo.yaml does"
        )
    held_out = [f for f in functions if f.held_out]
    trained_on = [f for f in functions if not f.held_out]
    if len(trained_on) < config.batch_size:
        raise UserError(f"found only {len(trained_on)} functions to train on; give other --roots")
    Path(config.model.tokenizer).parent.mkdir(parents=True, exist_ok=True)
    for path, part in ((Path(config.data.train), trained_on), (Path(config.eval.pairs), held_out)):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8") as file:
            for f in part:
                row = {"query": f.query, "document": f.document, "id": f.id}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


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


def _stages(total: int) -> Callable[[str], AbstractContextManager[None]]:
    """A context for each stage, which says its number and title before and its time after."""
    numbers = itertools.count(1)

    @contextmanager
    def stage(title: str) -> Iterator[None]:
        print(f"\n{_bold(f'{next(numbers)}/{total}  {title}')}", flush=True)
        started = time.perf_counter()
        yield
        print(_dim(f"done in {_minutes(time.perf_counter() - started)}"), flush=True)

    return stage


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
