"""The nano recipe's data: what the stages read, made from plain pairs of texts.

    <out>/tokenizer.json           byte-pair encoding, trained on all pairs
    <out>/pairs/<name>.jsonl       stage 1: a file for each file of pairs, and python.jsonl of the installed Python
    <out>/pairs/<name>-cloze.jsonl stage 1: questions made of sentences of that file's documents (cloze.py)
    <out>/data.json                where it comes from: number of pairs or questions by the name of their source
    <out>/supervised.jsonl         stages 2 and 3: questions whose answers are known, and some of the pairs, one a query

Nothing that a collection is judged by is trained on: pairs and questions are left out if their query is a judged query
or their document is a right answer to one. The questions of a collection's split `train` go into supervised.jsonl.
"""

import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from colbertz.corpus.formats import find_file, read_rows
from colbertz.corpus.rows import HalfCharacter
from colbertz.distillation.teachers import bm25_teacher
from colbertz.errors import UserError
from colbertz.evaluation import read_beir
from colbertz.files import replaced_directory
from colbertz.progress import progress
from colbertz.recipes.demo.corpus import collect, default_roots
from colbertz.recipes.demo.tokenizer import train_tokenizer
from colbertz.recipes.nano.cloze import cloze_pairs
from colbertz.text.normalize import normalized

Pair = tuple[str, str]
DESCRIPTION = "data.json"

# Top-level packages whose source is training data, under the licences of the standard library (PSF-2.0) and of these
# three (BSD-3-Clause).
_PYTHON_PACKAGES = frozenset({"numpy", "sympy", "torch"}) | sys.stdlib_module_names
# Tokens of the tokenizer.
_VOCAB_SIZE = 16_384
# Every second document also gets a question made of one of its sentences.
_CLOZE_EVERY = 2
# Pairs of stage 1 that also take part in stages 2 and 3, at least, so that the questions do not make the model forget
# them. Many, because negatives are mined among their documents, and few documents have no hard negatives.
_MIN_REPEATED_PAIRS = 30_000
# A document of more words than this is a transcript and not a passage; the answer is then one window of the document.
_MAX_PASSAGE_WORDS = 1_000
# Words of such a window.
_WINDOW_WORDS = 200


def prepare(
    pairs: Path, collections: Sequence[Path], out: Path, *, python: bool = True, judged_split: str = "dev"
) -> None:
    """Write everything that the stages read into `out`; does nothing if `out` has it. The same input, the same files.

    Args:
        pairs: folder of .jsonl or .jsonl.gz files, a `query` and its `document` a line.
        collections: directories in BEIR's layout.
        out: directory to write; it appears only when everything is in it.
        python: also train on the functions of the installed Python: first sentence of the docstring to code.
        judged_split: split of the collections that the model is judged by; nothing in it is trained on.

    Raises:
        FileNotFoundError: if `pairs` has no such file.
        UserError: for a row that is not as it should be, two sources of one name, or if `out` was made of other texts.
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
    _refuse_same_names([*names, *(directory.name for directory in collections), *(["python"] if python else [])])
    judged = _judged(collections, judged_split)
    sources = {name: list(_unjudged(_read(path), judged)) for name, path in zip(names, files)}
    # Only of the folder's texts: Python source has no sentences.
    cloze = {f"{name}-cloze": list(_unjudged(_cloze(pairs), judged)) for name, pairs in sources.items()}
    if python:
        sources["python"] = list(_unjudged(_python_pairs(), judged))
    questions = {directory.name: list(_questions(directory, judged)) for directory in collections}
    counts = {name: len(pairs) for name, pairs in (sources | cloze | questions).items() if pairs}
    _write_data(out, sources, cloze, [pair for pairs in questions.values() for pair in pairs], origin, counts)
    print(", ".join(f"{name} {count:,}" for name, count in counts.items()))


def _write_data(
    out: Path,
    sources: Mapping[str, list[Pair]],
    cloze: Mapping[str, list[Pair]],
    questions: Sequence[Pair],
    origin: Mapping[str, object],
    counts: Mapping[str, int],
) -> None:
    """Write the directory `out`; it appears only when everything is in it."""
    everything = [pair for pairs in sources.values() for pair in pairs]
    distinct = list(_first_of_each_query(everything))
    repeated = distinct[:: max(1, len(distinct) // _MIN_REPEATED_PAIRS)]
    tokenizer = train_tokenizer((text for pair in everything for text in pair), _VOCAB_SIZE)
    with replaced_directory(out) as fresh:
        (fresh / "pairs").mkdir()
        for name, pairs in [*sources.items(), *cloze.items()]:
            if pairs:
                _write_pairs(fresh / "pairs" / f"{name}.jsonl", pairs)
        _write_pairs(fresh / "supervised.jsonl", [*questions, *repeated])
        (fresh / "tokenizer.json").write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
        (fresh / DESCRIPTION).write_text(json.dumps({**origin, "counts": counts}, indent=1) + "\n", encoding="utf-8")
    print(
        f"{len(everything):,} pairs; for stages 2 and 3 {len(questions):,} questions and {len(repeated):,} of the pairs"
    )


def _files_of(collections: Iterable[Path]) -> Iterator[Path]:
    """All files of collections that the data depends on."""
    for directory in collections:
        texts = (find_file(directory, stem) for stem in ("corpus", "queries"))
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
    """The pairs of a file; those with an unusable text are left out, and their number is printed."""
    num_left_out = 0

    def leave_out(error: Exception) -> None:
        nonlocal num_left_out
        if not isinstance(error, HalfCharacter):
            raise error
        num_left_out += 1

    for row, where in read_rows(str(path), leave_out):
        query, document = row.get("query"), row.get("document")
        if not isinstance(query, str) or not isinstance(document, str):
            raise UserError(f"{where}: `query` and `document` must be strings, found {query!r:.60}, {document!r:.60}")
        if _is_usable(query) and _is_usable(document):
            yield query, document
        else:
            num_left_out += 1
    if num_left_out:
        print(f"{path}: {num_left_out:,} pairs are left out, with an empty text or half of a character in it")


def _is_usable(text: str) -> bool:
    """Whether a text is not blank and has no half of a surrogate pair, which JSON can hold and UTF-8 cannot."""
    return bool(text.strip()) and not any("\ud800" <= character <= "\udfff" for character in text)


def _python_pairs() -> Iterator[Pair]:
    functions = collect(default_roots(), only=_PYTHON_PACKAGES, processes=os.cpu_count() or 1)
    return ((f.query, f.document) for f in functions if not f.held_out)


def _first_of_each_query(pairs: Iterable[Pair]) -> Iterator[Pair]:
    """The first pair of each query.

    Another document of the same query, such as a second paragraph below a heading, would be mined as a negative.
    """
    seen: set[str] = set()
    for query, document in pairs:
        if query not in seen:
            seen.add(query)
            yield query, document


def _cloze(pairs: Sequence[Pair]) -> Iterator[Pair]:
    return cloze_pairs(document for _, document in pairs[::_CLOZE_EVERY])


def _judged(collections: Iterable[Path], split: str) -> frozenset[str]:
    """Judged queries and their right answers, normalised; the answers with their titles and without."""
    texts: set[str] = set()
    for directory in collections:
        collection = read_beir(directory, split)
        answer_ids = {document_id for relevant in collection.relevant for document_id in relevant}
        texts.update(map(normalized, collection.queries))
        for document_id, text in zip(collection.document_ids, collection.documents):
            if document_id in answer_ids:
                texts.add(normalized(text))
        for row, _ in read_rows(str(find_file(directory, "corpus"))):
            if row.get("_id", row.get("id")) in answer_ids:
                texts.add(normalized(row["text"]))
    return frozenset(texts)


def _unjudged(pairs: Iterable[Pair], judged: frozenset[str]) -> Iterator[Pair]:
    return (pair for pair in pairs if not judged.intersection(map(normalized, pair)))


def _questions(directory: Path, judged: frozenset[str]) -> Iterator[Pair]:
    """Questions of a collection's split `train` with each of their right answers; none if it has no such split."""
    if not any((directory / "qrels").glob("train.tsv*")):
        return
    collection = read_beir(directory, "train")
    texts = dict(zip(collection.document_ids, collection.documents))
    answers = [
        (query, texts[document_id])
        for query, relevant in zip(collection.queries, collection.relevant)
        for document_id in relevant
    ]
    usable = [pair for pair in _unjudged(answers, judged) if all(map(_is_usable, pair))]
    longest = max(len(text.split()) for text in texts.values())
    yield from _with_windows(usable, collection.name) if longest > _MAX_PASSAGE_WORDS else usable


def _with_windows(answers: Sequence[Pair], name: str) -> Iterator[Pair]:
    """Each question with the window of its document that BM25 ranks first; only whole documents are labelled."""
    windows = {text: _windows(text) for _, text in answers}
    bm25 = bm25_teacher(window for text_windows in windows.values() for window in text_windows)
    with progress(f"windows of {name}", len(answers), "questions") as bar:
        for query, text in answers:
            [scores] = bm25([query], [windows[text]])
            yield query, windows[text][max(range(len(scores)), key=scores.__getitem__)]
            bar.update(1)


def _windows(text: str) -> list[str]:
    words = text.split()
    return [" ".join(words[start : start + _WINDOW_WORDS]) for start in range(0, len(words), _WINDOW_WORDS)]


def _write_pairs(path: Path, pairs: Iterable[Pair]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for query, document in pairs:
            file.write(json.dumps({"query": query, "document": document}, ensure_ascii=False) + "\n")
