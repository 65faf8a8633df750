"""`colbertz search` without an index of documents: the folders are brought up to date and searched.

What is imported at the top is the standard library and what needs nothing else: the background process answers most
searches, and then this process has not imported torch.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from colbertz.cli.output import as_json, print_line
from colbertz.cli.update_bar import update_bar
from colbertz.errors import UserError
from colbertz.folders.messages import CODE_KINDS, DOC_KINDS, Answer, FolderHit, QueryHits, SearchRequest
from colbertz.folders.places import home_of, is_folder_index, root_of
from colbertz.folders.show import Style, format_result, json_lines, shown_path
from colbertz.resident import client as resident
from colbertz.text.printable import printable


@dataclass(frozen=True)
class Target:
    """A folder to search, and which part of it.

    Attributes:
        root: the folder whose index answers.
        paths: files and folders in it, relative to it; () for all of it.
    """

    root: Path
    paths: tuple[str, ...] = ()


def run(args: argparse.Namespace) -> int:
    """Search, print, and return 1 if nothing was found."""
    queries, paths = (args.query, args.words) if args.query else (args.words[:1], args.words[1:])
    targets = targets_of(paths, args.index)
    found = False
    for batch in [queries] if queries else _typed_queries():
        answers = [ask(request_of(args, target, tuple(batch)), args) for target in targets]
        show(answers, args)
        found = found or any(result.hits for answer in answers for result in answer.results)
    return 0 if found else 1


def targets_of(paths: Sequence[str], index: str | None) -> list[Target]:
    """The folders that paths name, each once, with what is to be searched in it.

    Raises:
        FileNotFoundError: for a path that is not there.
        UserError: for paths in several folders with one `index`.
    """
    parts: dict[Path, list[str]] = {}
    for name in paths or ["."]:
        path = Path(name)
        if not path.exists():
            hint = "" if len(paths) == 1 else "; a query of several words is put in quotes"
            raise FileNotFoundError(f"there is no file or folder {name}{hint}")
        real = path.resolve()
        root = _root(real if real.is_dir() else real.parent, index)
        parts.setdefault(root, []).append(real.relative_to(root).as_posix())
    if index is not None and len(parts) > 1:
        raise UserError(f"--index {index} is for one folder, and the paths are in {len(parts)}")
    return [Target(root, () if "." in below else tuple(below)) for root, below in parts.items()]


def _root(folder: Path, index: str | None) -> Path:
    """The folder whose index answers for a folder: the one that `index` was made of, if it is named."""
    if index is None:
        here = Path.cwd()
        # A file or folder below the current one belongs to its index, if it has one.
        if folder.is_relative_to(here) and is_folder_index(home_of(here)):
            return here
        return root_of(folder)
    if not is_folder_index(Path(index)):
        return folder
    from colbertz.folders.state import ROOT, State

    with State(Path(index)) as state:
        root = Path(state.get(ROOT))
    if not folder.is_relative_to(root):
        raise UserError(f"{index} is the index of {root}, and {folder} is not in it")
    return root


def request_of(args: argparse.Namespace, target: Target, queries: tuple[str, ...]) -> SearchRequest:
    kinds = (CODE_KINDS if args.code else ()) + (DOC_KINDS if args.docs else ())
    return SearchRequest(
        root=str(target.root),
        queries=queries,
        index=None if args.index is None else str(Path(args.index).absolute()),
        k=args.k,
        paths=target.paths,
        include=tuple(args.include or ()),
        exclude=tuple(args.exclude or ()),
        model=args.model,
        kinds=kinds,
        regex=args.regex,
        per_file=3 if args.per_file is None else args.per_file,
        lines=args.lines or 4,
        content=args.content,
        text_weight=args.text_weight,
    )


def ask(request: SearchRequest, args: argparse.Namespace) -> Answer:
    """Bring a folder up to date and search it: in the background process, or without one in this process."""
    if not (args.no_resident or args.no_update):
        with update_bar(Path(request.root)) as bar:
            answer = resident.ask("search", asdict(request), on_progress=bar)
        if answer is not None:
            return Answer.from_json(answer)
    from colbertz.folders.folder import Folder

    folder = Folder.open(request.root, request.index, request.model)
    if not args.no_update or not folder.exists:
        with update_bar(folder.root) as bar:
            # Without an index there is nothing to answer from: wait for the process that makes it.
            folder.update(bar, wait=1.0 if folder.exists else None)
    return folder.search(request, once=True)


def show(answers: Sequence[Answer], args: argparse.Namespace) -> None:
    """Print the answers of all folders, query by query."""
    for note in dict.fromkeys(answer.note for answer in answers if answer.note):
        print(f"note: {printable(note)}", file=sys.stderr)
    if args.json:
        for answer in answers:
            for line in json_lines(answer):
                print_line(as_json(line))
        return
    style = style_of(args)
    queries = [result.query for result in answers[0].results]
    for place, query in enumerate(queries):
        if len(queries) > 1:
            print_line(("\n" if place else "") + style.paint(f"{printable(query)}:", "query"))
        _print_result([(Path(answer.root), answer.results[place]) for answer in answers], args, style)


def _print_result(results: list[tuple[Path, QueryHits]], args: argparse.Namespace, style: Style) -> None:
    """Print the hits of one query; of several folders the best first, folder by folder."""
    scored = [(root, hit) for root, result in results for hit in result.hits]
    best = {id(hit) for _, hit in sorted(scored, key=lambda item: -item[1].score)[: args.k]}
    here = Path.cwd()
    texts = []
    for root, result in sorted(results, key=lambda item: -max((hit.score for hit in item[1].hits), default=0)):
        hits = tuple(hit for hit in result.hits if id(hit) in best)
        if args.files_only:
            names = dict.fromkeys(shown_path(root / hit.path, here) for hit in hits)
            texts += [style.paint(printable(name), "path") for name in names]
        elif hits:
            context = _lines_of_files(root, hits) if style.before or style.after else {}
            texts.append(format_result(replace(result, hits=hits), root, here, style, context))
    if texts:
        print_line(("\n" if args.files_only else "\n\n").join(texts))
    elif not args.files_only:
        print(f"nothing found in {', '.join(shown_path(root, here) for root, _ in results)}", file=sys.stderr)


def _lines_of_files(root: Path, hits: Sequence[FolderHit]) -> dict[str, Sequence[str]]:
    """The lines of the files of hits, as their chunks count them; files that are gone or changed kind are left out."""
    from colbertz.corpus.folder.chunks import read_content, text_of
    from colbertz.corpus.folder.skipped import SkippedFile

    lines: dict[str, Sequence[str]] = {}
    for path in dict.fromkeys(hit.path for hit in hits):
        content = read_content(root / path, path)
        text = content if isinstance(content, SkippedFile) else text_of(content, path)
        if not isinstance(text, SkippedFile):
            lines[path] = text.lines
    return lines


def style_of(args: argparse.Namespace) -> Style:
    """Colours, width and links as ripgrep has them: on a terminal, unless NO_COLOR or TERM=dumb."""
    terminal = sys.stdout.isatty()
    plain = os.environ.get("NO_COLOR", "") != "" or os.environ.get("TERM") == "dumb"
    color = args.color == "always" or (args.color == "auto" and terminal and not plain)
    width = shutil.get_terminal_size((100, 24)).columns if terminal else None
    links = args.links if terminal else "none"
    return Style(color, width, links, args.content, args.before or 0, args.after or 0)


def _typed_queries() -> Iterator[list[str]]:
    """The lines of stdin that are not empty, all at once; on a terminal, what a person types, one at a time."""
    from colbertz.cli.search_index import typed_queries

    if sys.stdin.isatty():
        yield from ([query] for query in typed_queries())
    elif queries := list(typed_queries()):
        yield queries
