"""The nano recipe's data: what the stages read, made from plain pairs of texts.

    <out>/tokenizer.json           byte-pair encoding, trained on all pairs
    <out>/pairs/<name>.jsonl       stage 1: one file for each of the folder's, and python.jsonl of the installed Python
    <out>/pairs/<name>-cloze.jsonl stage 1: sentences of the folder's documents, as questions (cloze.py)
    <out>/data.json                what it was made of: pairs and questions by the name of their source
    <out>/supervised.jsonl         stage 2 and 3: questions whose answers are known, and some of the pairs, one a query

Nothing that a collection is judged by is trained on: pairs and questions are left out whose query is a judged query, or
whose document is a right answer to one. Of collections with a split `train`, its questions go into supervised.jsonl.
"""

import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from colbertz.corpus.formats import read_rows
from colbertz.corpus.lines import plain_or_gz
from colbertz.distillation.teachers import bm25_teacher
from colbertz.errors import UserError
from colbertz.evaluation import read_beir
from colbertz.files import replaced_directory
from colbertz.recipes.demo.corpus import collect, default_roots
from colbertz.recipes.demo.tokenizer import train_tokenizer
from colbertz.recipes.nano.cloze import cloze_pairs
from colbertz.text.normalize import normalized

Pair = tuple[str, str]
DESCRIPTION = "data.json"

# Python source is trained on under the licences of the standard library (PSF-2.0) and of these (BSD-3-Clause).
_PYTHON_PACKAGES = frozenset({"numpy", "sympy", "torch"}) | sys.stdlib_module_names
_VOCAB_SIZE = 16_384
# Every second document is asked for by one of its sentences too.
_CLOZE_EVERY = 2
# So many pairs of stage 1 at least take part in stage 2 and 3 too, so that the questions do not make the model forget
# them. They are many because negatives are looked for among their documents: among few there are no hard ones.
_REPEATED_PAIRS = 30_000
# A document longer than this is a transcript rather than a passage; the answer to a question is one window of it.
_WINDOW_WORDS = 200
_MOST_PASSAGE_WORDS = 1_000


def prepare(
    pairs: Path, collections: Sequence[Path], out: Path, *, python: bool = True, judged_split: str = "dev"
) -> None:
    """Write everything that the stages read into `out`; the same input gives the same files. Done once.

    Args:
        pairs: folder of .jsonl or .jsonl.gz files, a `query` and its `document` a line.
        collections: directories in BEIR's layout.
        out: directory to write to; there only when everything is in it.
        python: also train on the functions of the installed Python, documentation to code.
        judged_split: of the collections' judgements; nothing in it is trained on.

    Raises:
        FileNotFoundError: if `pairs` has no such file.
        ValueError: for a row that is not as it should be, two sources of one name, or if `out` holds what was made of
            other texts.
    """
    files = sorted(path for path in pairs.iterdir() if path.name.removesuffix(".gz").endswith(".jsonl"))
    if not files:
        raise FileNotFoundError(f"{pairs} holds no .jsonl or .jsonl.gz file of pairs")
    origin = {
        "pairs": str(pairs),
        "collections": [str(directory) for directory in collections],
        "python": python,
        "judged_split": judged_split,
        "bytes": {str(path): path.stat().st_size for path in [*files, *_files_of(collections)]},
    }
    if (out / DESCRIPTION).is_file():
        _refuse_other_texts(json.loads((out / DESCRIPTION).read_text(encoding="utf-8")), origin, out)
        return
    names = [path.name.removesuffix(".gz").removesuffix(".jsonl") for path in files]
    _refuse_same_names([*names, *(directory.name for directory in collections), *["python"] * python])
    judged = _judged(collections, judged_split)
    sources = {name: list(_unjudged(_read(path), judged)) for name, path in zip(names, files)}
    # Of the folder's texts only: Python has no sentences.
    cloze = {f"{name}-cloze": list(_unjudged(_cloze(found), judged)) for name, found in sources.items()}
    if python:
        sources["python"] = list(_unjudged(_python_pairs(), judged))
    asked = {directory.name: list(_questions(directory, judged)) for directory in collections}
    questions = [pair for found in asked.values() for pair in found]
    everything = [pair for found in sources.values() for pair in found]
    distinct = list(_first_of_each_query(everything))
    some = distinct[:: max(1, len(distinct) // _REPEATED_PAIRS)]
    tokenizer = train_tokenizer((text for pair in everything for text in pair), _VOCAB_SIZE)
    counts = {name: len(found) for name, found in (sources | cloze | asked).items() if found}
    with replaced_directory(out) as fresh:
        (fresh / "pairs").mkdir()
        for name, found in (sources | cloze).items():
            if found:
                _write(fresh / "pairs" / f"{name}.jsonl", found)
        _write(fresh / "supervised.jsonl", [*questions, *some])
        tokenizer.save(str(fresh / "tokenizer.json"))
        (fresh / DESCRIPTION).write_text(json.dumps({**origin, "counts": counts}, indent=1) + "\n", encoding="utf-8")
    print(f"{len(everything):,} pairs; for stage 2 and 3 {len(questions):,} questions and {len(some):,} of the pairs")
    print(", ".join(f"{name} {count:,}" for name, count in counts.items()))


def _files_of(collections: Iterable[Path]) -> Iterator[Path]:
    for directory in collections:
        texts = (plain_or_gz(directory / name) for name in ("corpus.jsonl", "queries.jsonl"))
        yield from (path for path in (*texts, *sorted((directory / "qrels").glob("*.tsv*"))) if path)


def _refuse_other_texts(before: dict[str, object], now: dict[str, object], out: Path) -> None:
    different = [
        f"{name} were {before.get(name)!r:.300}, now {now[name]!r:.300}"
        for name in now
        if before.get(name) != now[name]
    ]
    if different:
        raise UserError(f"{out} holds data made of other texts ({'; '.join(different)}); give another --out")


def _refuse_same_names(names: Sequence[str]) -> None:
    every = Counter([*names, *(f"{name}-cloze" for name in names)])
    twice = [name for name, count in every.items() if count > 1]
    if twice:
        raise UserError(f"two files of pairs or collections are named {twice[0]!r} (python is Python's); rename one")


def _read(path: Path) -> Iterator[Pair]:
    left_out = 0
    for row, where in read_rows(str(path)):
        query, document = row.get("query"), row.get("document")
        if not isinstance(query, str) or not isinstance(document, str):
            raise UserError(f"{where}: `query` and `document` must be strings, found {query!r:.60}, {document!r:.60}")
        if _is_usable(query) and _is_usable(document):
            yield query, document
        else:
            left_out += 1
    if left_out:
        print(f"{path}: {left_out:,} pairs are left out, with an empty text or half of a character in it")


def _is_usable(text: str) -> bool:
    """Not blank, and without half of a surrogate pair, which JSON can hold and no file."""
    return bool(text.strip()) and not any("\ud800" <= character <= "\udfff" for character in text)


def _python_pairs() -> Iterator[Pair]:
    functions = collect(default_roots(), only=_PYTHON_PACKAGES, processes=os.cpu_count() or 1)
    return ((f.query, f.document) for f in functions if not f.held_out)


def _first_of_each_query(pairs: Iterable[Pair]) -> Iterator[Pair]:
    """Another document of the same query, such as a second paragraph below a heading, would be mined as a negative."""
    seen: set[str] = set()
    for query, document in pairs:
        if query not in seen:
            seen.add(query)
            yield query, document


def _cloze(pairs: Sequence[Pair]) -> Iterator[Pair]:
    return cloze_pairs(document for _, document in pairs[::_CLOZE_EVERY])


def _judged(collections: Iterable[Path], split: str) -> frozenset[str]:
    """Judged queries and their right answers, normalised; the answers with their titles and without."""
    found: set[str] = set()
    for directory in collections:
        collection = read_beir(directory, split)
        right = {id for relevant in collection.relevant for id in relevant}
        found.update(map(normalized, collection.queries))
        for id, text in zip(collection.document_ids, collection.documents):
            if id in right:
                found.add(normalized(text))
        corpus = plain_or_gz(directory / "corpus.jsonl")
        found.update(normalized(row["text"]) for row, _ in read_rows(str(corpus)) if row["_id"] in right)
    return frozenset(found)


def _unjudged(pairs: Iterable[Pair], judged: frozenset[str]) -> Iterator[Pair]:
    return (pair for pair in pairs if not judged.intersection(map(normalized, pair)))


def _questions(directory: Path, judged: frozenset[str]) -> Iterator[Pair]:
    """Questions of a collection's split `train` and each of their right answers; none if it has no such split."""
    if not any((directory / "qrels").glob("train.tsv*")):
        return
    collection = read_beir(directory, "train")
    texts = dict(zip(collection.document_ids, collection.documents))
    answers = [
        (query, texts[id]) for query, relevant in zip(collection.queries, collection.relevant) for id in relevant
    ]
    found = [pair for pair in _unjudged(answers, judged) if all(map(_is_usable, pair))]
    long = max(len(text.split()) for text in texts.values()) > _MOST_PASSAGE_WORDS
    yield from _with_windows(found, collection.name) if long else found


def _with_windows(answers: Sequence[Pair], name: str) -> Iterator[Pair]:
    """Each question with the window of its document that BM25 ranks first; what is labelled is the whole document."""
    windows = {text: _windows(text) for _, text in answers}
    bm25 = bm25_teacher(window for own in windows.values() for window in own)
    for query, text in tqdm(answers, desc=name, unit=" questions", disable=None):
        [scores] = bm25([query], [windows[text]])
        yield query, windows[text][max(range(len(scores)), key=scores.__getitem__)]


def _windows(text: str) -> list[str]:
    words = text.split()
    return [" ".join(words[start : start + _WINDOW_WORDS]) for start in range(0, len(words), _WINDOW_WORDS)]


def _write(path: Path, pairs: Iterable[Pair]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for query, document in pairs:
            file.write(json.dumps({"query": query, "document": document}, ensure_ascii=False) + "\n")
