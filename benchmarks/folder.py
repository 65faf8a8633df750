"""Searching folders: how long building, checking, updating and searching take, and how good the hits are.

    python benchmarks/folder.py speed FOLDER --copy DIR          build, check without a change, 10 edits, searches
    python benchmarks/folder.py quality [--packages networkx …]  docstring → function, heading → section

Quality: packages that the nano model was not trained on are copied without the docstrings of their functions. Each
docstring's first sentence is searched for, and the right hit is the function that it was taken from. For documents, the
headings of Markdown and reStructuredText files are replaced by "Section" and searched for. Beside the search of the
folder are its parts, and what a person with grep has: ripgrep finds the files with any word of the query, and BM25
(bm25s) ranks their chunks.
"""

import argparse
import ast
import json
import random
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from common import RESULTS, machine

from colbertz.corpus.folder.chunks import read_chunks
from colbertz.corpus.folder.skipped import SkippedFile
from colbertz.corpus.folder.walk import walk
from colbertz.folders.folder import Folder
from colbertz.folders.messages import SearchRequest
from colbertz.recipes.demo.corpus import HELD_OUT
from colbertz.text.bm25 import bm25_index
from colbertz.text.words import split_identifiers

_K = 10
_SPEED_QUERIES = ("where are failed requests retried", "parse a date string", "lock a file", "how is the cache emptied")


@dataclass(frozen=True)
class Question:
    """A query, and the lines of the file that answer it."""

    query: str
    path: str
    start: int
    end: int


# -- questions


def copy_without_docstrings(package: Path, root: Path, base: Path) -> list[Question]:
    """Copy a package's Python files without its functions' docstrings, and make a question of each."""
    questions = []
    files = sorted(package.rglob("*.py")) if package.is_dir() else [package]
    for path in files:
        name = path.relative_to(base).as_posix()
        if "test" in name:
            continue
        try:
            text = path.read_text(encoding="utf-8")
            tree = ast.parse(text)
        except (UnicodeDecodeError, SyntaxError):
            continue
        lines = text.split("\n")
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or not ast.get_docstring(node):
                continue
            sentence = re.split(r"(?<=[.!?])\s|\n\n", ast.get_docstring(node) or "")[0].replace("\n", " ")
            expression = node.body[0]
            lines[expression.lineno - 1 : expression.end_lineno] = [""] * (
                (expression.end_lineno or expression.lineno) - expression.lineno + 1
            )
            if 4 <= len(sentence.split()) <= 40 and len(node.body) > 1:
                questions.append(Question(sentence, name, node.lineno, node.end_lineno or node.lineno))
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("\n".join(lines), encoding="utf-8")
    return questions


def copy_without_headings(source: Path, root: Path, base: Path) -> list[Question]:
    """Copy a Markdown file with "Section" in place of its headings, and make a question of each."""
    lines = source.read_text(encoding="utf-8", errors="replace").split("\n")
    name = source.relative_to(base).as_posix()
    places, fenced = [], False
    for number, line in enumerate(lines):
        fenced ^= line.startswith("```")
        if not fenced and re.match(r"#{1,4} \w", line):
            places.append(number)
    questions = []
    for place, following in zip(places, [*places[1:], len(lines)]):
        marks, _, heading = lines[place].partition(" ")
        if following - place > 3 and len(heading.split()) >= 2:
            questions.append(Question(heading, name, place + 1, following))
        lines[place] = f"{marks} Section"
    target = root / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("\n".join(lines), encoding="utf-8")
    return questions


# -- contenders

Place = tuple[str, int, int]


def by_folder(folder: Folder, text_weight: float | None) -> Callable[[str], list[Place]]:
    def search(query: str) -> list[Place]:
        request = SearchRequest(str(folder.root), (query,), k=_K, per_file=0, text_weight=text_weight)
        return [(hit.path, hit.start, hit.end) for hit in folder.search(request).results[0].hits]

    return search


def by_ripgrep(root: Path) -> Callable[[str], list[Place]]:
    """The chunks of the files in which ripgrep finds a word of the query, ranked by BM25."""
    places, texts = [], []
    for file in walk(root)[0]:
        chunks = read_chunks(root / file.path, file.path)
        if not isinstance(chunks, SkippedFile):
            places += [(file.path, chunk.start, chunk.end) for chunk in chunks]
            texts += [chunk.text for chunk in chunks]
    model = bm25_index(texts, split_identifiers)

    def search(query: str) -> list[Place]:
        words = [option for word in set(re.findall(r"\w{3,}", query)) for option in ("-e", word)]
        done = subprocess.run(["rg", "-liF", *words, "."], cwd=root, capture_output=True, text=True, check=False)
        files = {line.removeprefix("./") for line in done.stdout.splitlines()}
        scores = model.get_scores(split_identifiers(query))
        order = sorted(range(len(places)), key=lambda place: -scores[place])
        return [places[place] for place in order if places[place][0] in files and scores[place] > 0][:_K]

    return search


def judged(questions: Sequence[Question], search: Callable[[str], list[Place]]) -> dict[str, float]:
    """MRR@10, and the shares of questions with the right hit first and among the first ten."""
    ranks = []
    for question in questions:
        hits = search(question.query)
        right = [
            rank
            for rank, (path, start, end) in enumerate(hits, 1)
            if path == question.path and start <= question.end and end >= question.start
        ]
        ranks.append(min(right, default=0))
    found = [rank for rank in ranks if rank]
    return {
        "mrr@10": round(sum(1 / rank for rank in found) / len(ranks), 3),
        "first": round(sum(rank == 1 for rank in found) / len(ranks), 3),
        "among_10": round(len(found) / len(ranks), 3),
        "median_ms": round(1000 * statistics.median(timed(search, question.query) for question in questions[:20]), 1),
    }


def timed(call: Callable[[str], object], query: str) -> float:
    start = time.perf_counter()
    call(query)
    return time.perf_counter() - start


# -- the two measurements


def quality(args: argparse.Namespace) -> dict[str, object]:
    results: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for what in ("functions", "sections"):
            root = Path(temporary, what)
            root.mkdir()
            questions = []
            if what == "functions":
                for name in args.packages:
                    spec = find_spec(name)
                    assert spec is not None and spec.origin is not None, f"there is no package {name}"
                    origin = Path(spec.origin)
                    package = origin.parent if origin.name == "__init__.py" else origin
                    questions += copy_without_docstrings(package, root, package.parent)
            else:
                base = Path(__file__).parent.parent
                for path in [*base.glob("*.md"), *base.glob("docs/*.md")]:
                    questions += copy_without_headings(path, root, base)
            random.Random(0).shuffle(questions)
            folder = Folder.open(root, Path(temporary, f"{what}-index"))
            folder.update(wait=None)
            contenders = {
                "folder search": by_folder(folder, None),
                "MaxSim alone": by_folder(folder, 0.0),
                "BM25 alone": by_folder(folder, 1.0),
                "ripgrep + BM25": by_ripgrep(root),
            }
            for weight in args.weights:
                contenders[f"weight {weight}"] = by_folder(folder, weight)
            results[what] = {"questions": len(questions[: args.most]), "chunks": folder.status().chunks} | {
                name: judged(questions[: args.most], search) for name, search in contenders.items()
            }
            print(json.dumps({what: results[what]}, indent=1), flush=True)
    return results


def speed(args: argparse.Namespace) -> dict[str, object]:
    """Times of one folder, which is copied first, because ten of its files are edited."""
    root = Path(args.copy, "copy")
    if not root.exists():
        shutil.copytree(args.folder, root, symlinks=True, ignore_dangling_symlinks=True)
    folder = Folder.open(root, Path(args.copy, "index"))
    results: dict[str, object] = {}

    def note(name: str, seconds: float) -> None:
        results[name] = round(seconds, 3)
        print(name, results[name], flush=True)

    start = time.perf_counter()
    done = folder.update(wait=None)
    note("build_s", time.perf_counter() - start)
    status = folder.status()
    results |= {
        "files": status.files,
        "chunks": status.chunks,
        "encoded": done.encoded,
        "megabytes": status.bytes / 1e6,
    }
    time.sleep(2.5)  # otherwise the files that were copied last are racy
    folder.update()
    checks = []
    for _ in range(5):
        start = time.perf_counter()
        assert folder.update().changed == 0
        checks.append(time.perf_counter() - start)
    note("check_s", statistics.median(checks))
    edited = random.Random(1).sample([path for path in root.rglob("*.py") if path.stat().st_size > 200], 10)
    edits = []
    for number in range(3):
        for path in edited:
            path.write_text(path.read_text(errors="replace") + f"\n\ndef added_{number}():\n    return {number}\n")
        start = time.perf_counter()
        changed = folder.update()
        edits.append(time.perf_counter() - start)
        assert changed.changed == 10, changed
    note("ten_edits_s", statistics.median(edits))
    times = []
    for query in _SPEED_QUERIES * 3:
        times.append(timed(lambda text: folder.search(SearchRequest(str(root), (text,))), query))
    note("search_warm_s", statistics.median(times[len(_SPEED_QUERIES) :]))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    subparsers = parser.add_subparsers(dest="what", required=True)
    of_quality = subparsers.add_parser("quality")
    of_quality.add_argument("--packages", nargs="+", default=sorted(HELD_OUT))
    of_quality.add_argument("--most", type=int, default=400, help="questions of each kind")
    of_quality.add_argument("--weights", nargs="*", type=float, default=[], help="further weights of BM25 to try")
    of_speed = subparsers.add_parser("speed")
    of_speed.add_argument("folder")
    of_speed.add_argument("--copy", required=True, help="directory for a copy of the folder and its index")
    args = parser.parse_args()
    results = {"machine": machine(), args.what: quality(args) if args.what == "quality" else speed(args)}
    if args.what == "speed":
        results["folder"] = args.folder
    out = RESULTS / f"folder_{args.what}.json"
    out.write_text(json.dumps(results, indent=1) + "\n")
    print(out)


if __name__ == "__main__":
    main()
