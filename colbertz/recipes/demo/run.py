"""`colbertz demo` from top to bottom: corpus, index, three searches, and a comparison with BM25.

With `train`, a tokenizer and a model of the corpus itself come before the index; without it, the packaged model is
used.
"""

import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from colbertz import training
from colbertz.display import format_hit
from colbertz.document import Document
from colbertz.errors import UserError, require
from colbertz.index import Hit
from colbertz.models import ColBERT
from colbertz.recipes.demo.compare import comparison
from colbertz.recipes.demo.corpus import Function, collect, default_roots
from colbertz.recipes.demo.tokenizer import train_tokenizer
from colbertz.recipes.terminal import bold, dim, duration, has_colors, print_next, stages
from colbertz.searcher import Searcher
from colbertz.training import config
from colbertz.training.config import TrainingConfig

QUERIES = ("parse a date string", "shortest path between two nodes of a graph", "read a file line by line")
FILTER = "path like 'email/%'"
# How long the stages take, in proportion to each other, for the estimate of the time left. Roughly: indexing is eight
# times the 31 s of processor time of 6,000 functions, the others were not timed. Collecting, indexing, searching,
# comparing;
_SHARES = (15, 240, 2, 25)
# and with training: collecting, the tokenizer, training, indexing, searching, comparing.
_SHARES_WITH_TRAINING = (15, 10, 300, 240, 2, 25)
# The packaged model that indexes fastest: the demo indexes tens of thousands of functions while somebody waits.
_MODEL = "colbertz/nano"


def run(
    *,
    config_file: str | None = None,
    index: Path = Path("demo-index"),
    roots: Sequence[Path] | None = None,
    train: bool = False,
    prepare: bool = False,
) -> None:
    """Run the demo.

    Args:
        config_file: YAML file with the settings of the training; None for configs/demo.yaml.
        index: directory of the index to write.
        roots: directories of packages; None for those of this Python installation.
        train: train a model on the corpus first.
        prepare: stop before the training, when its data is there.

    Raises:
        UserError, FileNotFoundError: for a configuration that cannot be used, or roots without enough functions.
        MissingExtra: without bm25s, which the extra `eval` installs.
    """
    require("bm25s", "eval")  # the comparison at the end needs it

    started = time.perf_counter()
    config_file = config_file or str(config.shipped("demo.yaml"))
    settings = config.load(["--config", config_file]) if train or prepare else None
    stage = stages(_SHARES if settings is None else _SHARES_WITH_TRAINING)

    with stage("Collecting the functions of the installed Python packages"):
        functions = collect(roots or default_roots(), processes=os.cpu_count() or 1)
        held_out = [function for function in functions if function.held_out]
        _print_corpus(functions, held_out)

    location = _MODEL
    if settings is not None:
        with stage("Training a tokenizer on them"):
            _write_training_data(functions, settings)
        if prepare:
            print_next(f"torchrun --nproc-per-node 2 train.py --config {config_file}")
            return
        with stage(f"Training a model from scratch: train.py --config {config_file}"):
            training.main(["--config", config_file, "--overwrite", "true"])
        location = str(Path(settings.output) / "model")
    model = ColBERT.from_pretrained(location, dtype="auto")

    with stage(f"Indexing all {len(functions):,} functions into {index}"):
        searcher = _build(index, model, functions, location)

    with stage("Searching"):
        _show_searches(searcher)

    with stage(f"Comparing with BM25 on the {len(held_out):,} held-out functions"):
        print(comparison(model, held_out))
    print(f"\nAll of it in {duration(time.perf_counter() - started)}.")
    print_next(f'python search.py --index {index} "{QUERIES[0]}"')


def _print_corpus(functions: Sequence[Function], held_out: Sequence[Function]) -> None:
    if not held_out:
        raise UserError(f"found none of the packages that are held out, among {len(functions)}; give other --roots")
    packages = ", ".join(sorted({function.package for function in held_out}))
    num_packages = len({function.package for function in functions})
    print(f"{len(functions):,} documented functions, methods and classes of {num_packages} packages and modules")
    print(f"{len(held_out):,} are held out and never trained on: {packages}")


def _write_training_data(functions: Sequence[Function], settings: TrainingConfig) -> None:
    """Write pairs and a tokenizer of them to where the settings of the training read them from."""
    if settings.eval.pairs is None or settings.model.tokenizer is None or not isinstance(settings.data.train, str):
        raise UserError(
            "the demo's configuration must set data.train to a file, eval.pairs and model.tokenizer; "
            "configs/demo.yaml does"
        )
    held_out = [function for function in functions if function.held_out]
    trained_on = [function for function in functions if not function.held_out]
    if len(trained_on) < settings.batch_size:
        raise UserError(f"found only {len(trained_on)} functions to train on; give other --roots")
    for path, part in ((Path(settings.data.train), trained_on), (Path(settings.eval.pairs), held_out)):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8") as file:
            for function in part:
                row = {"query": function.query, "document": function.document, "id": function.id}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    tokenizer = train_tokenizer(text for function in trained_on for text in (function.query, function.document))
    Path(settings.model.tokenizer).parent.mkdir(parents=True, exist_ok=True)
    Path(settings.model.tokenizer).write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    print(f"{tokenizer.get_vocab_size():,} tokens: {' · '.join(tokenizer.encode('parse_dateString').tokens)}")


def _build(index: Path, model: ColBERT, functions: Sequence[Function], location: str) -> Searcher:
    documents = [Document(f.id, f.document, {"path": f.path, "line": f.line, "name": f.name}) for f in functions]
    searcher = Searcher.build(index, model, documents, location=location, overwrite=True)
    written = searcher.index
    megabytes = written.manifest.size / 1e6
    print(f"{written.num_tokens:,} tokens of {written.embedding_dim} dimensions: {megabytes:,.0f} MB")
    return searcher


def _show_searches(searcher: Searcher) -> None:
    for query, hits in zip(QUERIES, searcher.search(list(QUERIES), k=3)):
        _show_hits(query, query, hits)
    [query, *_] = QUERIES
    _show_hits(f'{query}  --where "{FILTER}"', query, searcher.search(query, k=2, where=FILTER))
    started = time.perf_counter()
    searcher.search(list(QUERIES), k=10)
    milliseconds = (time.perf_counter() - started) * 1e3 / len(QUERIES)
    print(dim(f"\n{milliseconds:.0f} ms a query, encoding included"))


def _show_hits(title: str, query: str, hits: Sequence[Hit]) -> None:
    print(f"\n{bold(title)}")
    width = shutil.get_terminal_size((100, 24)).columns
    for rank, hit in enumerate(hits, 1):
        print(format_hit(rank, hit, query, width, has_colors()))
