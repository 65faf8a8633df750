"""Pairs of texts for the recipes: read from files, of the installed Python, of collections' training questions.

Nothing that a collection is judged by is trained on: pairs and questions are left out if their query is a judged query
or their document is a right answer to one.
"""

import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from colbertz.corpus.formats import find_file, read_rows
from colbertz.corpus.rows import HalfCharacter
from colbertz.distillation.teachers import bm25_teacher
from colbertz.errors import UserError
from colbertz.evaluation import read_beir
from colbertz.progress import progress
from colbertz.recipes.cloze import cloze_pairs
from colbertz.recipes.demo.corpus import collect, default_roots
from colbertz.text.normalize import normalized

Pair = tuple[str, str]
# Beside the data that a recipe makes: what it was made of.
DESCRIPTION = "data.json"

# Top-level packages whose source is training data, under the licences of the standard library (PSF-2.0) and of these
# three (BSD-3-Clause).
_PYTHON_PACKAGES = frozenset({"numpy", "sympy", "torch"}) | sys.stdlib_module_names
# Every second document also gets a question made of one of its sentences.
_CLOZE_EVERY = 2
# A document of more words than this is a transcript and not a passage; the answer is then one window of the document.
_MAX_PASSAGE_WORDS = 1_000
# Words of such a window.
_WINDOW_WORDS = 200


@dataclass(frozen=True)
class Gathered:
    """All texts of a recipe, by the names of their sources; sources without any are left out.

    Attributes:
        sources: the pairs of each file, and "python": of the installed Python.
        cloze: questions made of sentences of the files' documents.
        questions: of each collection's split `train`, with their answers.
    """

    sources: dict[str, list[Pair]]
    cloze: dict[str, list[Pair]]
    questions: dict[str, list[Pair]]

    @property
    def counts(self) -> dict[str, int]:
        """The number of pairs of each source."""
        return {name: len(pairs) for name, pairs in (self.sources | self.cloze | self.questions).items()}


def origin_of(files: Sequence[Path], collections: Sequence[Path], python: bool, split: str) -> dict[str, object]:
    """What a recipe's data depends on, for its description."""
    return {
        "pairs": " ".join(dict.fromkeys(str(path.parent) for path in files)),
        "collections": [str(directory) for directory in collections],
        "python": python,
        "judged_split": split,
        "bytes": {str(path): path.stat().st_size for path in [*files, *_files_of(collections)]},
    }


def is_made(out: Path, origin: dict[str, object]) -> bool:
    """Whether the directory `out` holds a recipe's data.

    Raises:
        UserError: if it holds data that was made of other texts.
    """
    if not (out / DESCRIPTION).is_file():
        return False
    _refuse_other_texts(json.loads((out / DESCRIPTION).read_text(encoding="utf-8")), origin, out)
    return True


def gather(
    files: Sequence[Path], collections: Sequence[Path], python: bool, split: str, asked: Sequence[Path] = ()
) -> Gathered:
    """Read all texts, without those that the collections' queries of `split` are judged by.

    Args:
        files: of pairs.
        collections: directories in BEIR's layout.
        python: also read the functions of the installed Python: first sentence of the docstring to code.
        split: of the judged queries.
        asked: more files of pairs, whose queries are questions already: no cloze questions are made of their documents.

    Raises:
        UserError: for a row that is not as it should be, or two sources of one name.
    """
    names = [_source_name(path) for path in [*files, *asked]]
    _refuse_same_names([*names, *(directory.name for directory in collections), *(["python"] if python else [])])
    judged = _judged_texts(collections, split)
    sources = {name: list(_unjudged(_read_pairs(path), judged)) for name, path in zip(names, [*files, *asked])}
    # Only of the files' texts: Python source has no sentences.
    prose = list(sources.items())[: len(files)]
    cloze = {f"{name}-cloze": list(_unjudged(_cloze_of(pairs), judged)) for name, pairs in prose}
    if python:
        sources["python"] = list(_unjudged(_python_pairs(), judged))
    questions = {directory.name: list(_questions_of(directory, judged)) for directory in collections}
    return Gathered(*({n: pairs for n, pairs in part.items() if pairs} for part in (sources, cloze, questions)))


def describe(out: Path, origin: dict[str, object], counts: dict[str, int]) -> None:
    """Write the description into the directory of a recipe's data."""
    (out / DESCRIPTION).write_text(json.dumps({**origin, "counts": counts}, indent=1) + "\n", encoding="utf-8")


def pair_files(folder: Path) -> list[Path]:
    """The files of pairs in a folder, by name.

    Raises:
        FileNotFoundError: if there is none.
    """
    files = sorted(path for path in folder.iterdir() if path.name.removesuffix(".gz").endswith(".jsonl"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no .jsonl or .jsonl.gz file of pairs")
    return files


def _source_name(path: Path) -> str:
    """The name of a file's pairs in all that is made of them."""
    return path.name.removesuffix(".gz").removesuffix(".jsonl")


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


def _read_pairs(path: Path) -> Iterator[Pair]:
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


def first_of_each_query(pairs: Iterable[Pair]) -> Iterator[Pair]:
    """The first pair of each query.

    Another document of the same query, such as a second paragraph below a heading, would be mined as a negative.
    """
    seen: set[str] = set()
    for query, document in pairs:
        if query not in seen:
            seen.add(query)
            yield query, document


def _cloze_of(pairs: Sequence[Pair]) -> Iterator[Pair]:
    return cloze_pairs(document for _, document in pairs[::_CLOZE_EVERY])


def _judged_texts(collections: Iterable[Path], split: str) -> frozenset[str]:
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


def _questions_of(directory: Path, judged: frozenset[str]) -> Iterator[Pair]:
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


def write_pairs(path: Path, pairs: Iterable[Pair]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for query, document in pairs:
            file.write(json.dumps({"query": query, "document": document}, ensure_ascii=False) + "\n")
