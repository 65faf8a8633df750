"""The layouts in which test collections are distributed, told apart by their files."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from colbertz.corpus.rows import read_queries, read_rows
from colbertz.errors import UserError, require
from colbertz.evaluation.collections import Collection, from_judgements, plain_or_gz, read_beir, read_qrels

# Queries and judgements of the TREC Deep Learning tracks, by the names by which one speaks of them.
_TRACKS = {
    "dl19": ("msmarco-test2019-queries.tsv", "2019qrels-pass.txt"),
    "dl20": ("msmarco-test2020-queries.tsv", "2020qrels-pass.txt"),
}
_PARQUET = re.compile(r"(.+)-\d{5}-of-\d{5}\.parquet")


def read(directory: str | Path, split: str | None) -> list[Collection]:
    """Read a directory in BEIR's layout, or in that of MS MARCO, LongEmbed or NanoBEIR.

    Args:
        directory: what `read_beir`, `read_msmarco`, `read_longembed` or `read_nanobeir` reads.
        split: as there; None for test in BEIR's layout.

    Returns:
        One collection; only `read_longembed` may give more.

    Raises:
        FileNotFoundError, ValueError: as these.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise FileNotFoundError(
            f"there is no directory {directory}; give one, or a name such as beir:scifact, nanobeir:msmarco or "
            "longembed:qmsum"
        )
    if plain_or_gz(directory / "collection.tsv"):
        return [read_msmarco(directory, split or "dev.small")]
    if plain_or_gz(directory / "qrels.jsonl"):
        return read_longembed(directory, split)
    if any((directory / "corpus").glob("*.parquet")):
        return [read_nanobeir(directory, split)]
    return [read_beir(directory, split or "test")]


def read_msmarco(directory: Path, split: str) -> Collection:
    """Read MS MARCO's passages as they are distributed, each file perhaps .gz.

    Args:
        directory: holds collection.tsv, and queries and judgements: queries.<split>.tsv and qrels.<split>.tsv,
            or those of TREC's tracks (msmarco-test2019-queries.tsv and 2019qrels-pass.txt).
        split: dev.small, dev, train, dl19 or dl20.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: for a line that is not as it should be, or as `read_qrels` and `from_judgements`.
    """
    names = ("collection.tsv", *_TRACKS.get(split, (f"queries.{split}.tsv", f"qrels.{split}.tsv")))
    found = [plain_or_gz(directory / name) for name in names]
    collection, queries, qrels = found
    if collection is None or queries is None or qrels is None:
        missing = next(name for name, path in zip(names, found) if path is None)
        raise FileNotFoundError(
            f"{directory} has no {missing}, which the split {split!r} needs; the splits of MS MARCO are: "
            f"dev.small, dev, train, {', '.join(_TRACKS)}"
        )
    texts, asked = ((line.id, line.text) for line in read_queries(str(collection))), read_queries(str(queries))
    name = f"{directory.name}, {split}"
    return from_judgements(name, texts, ((line.id, line.text) for line in asked), read_qrels(qrels), qrels)


def read_longembed(directory: Path, split: str | None) -> list[Collection]:
    """Read a set of LongEmbed: corpus.jsonl (doc_id, text), queries.jsonl (qid, text) and qrels.jsonl (qid, doc_id).

    Its synthetic sets, needle and passkey, have a `context_length` in each row, and a query is searched among the
    documents of its own length.

    Args:
        directory: holds the files, each perhaps .gz.
        split: a context length; None for all.

    Returns:
        A collection for each context length that was asked for; where there are several, their query ids begin with
        the length and a slash, so that all of them can stand in one run.

    Raises:
        FileNotFoundError: if a file or the split is missing.
        ValueError: for a row that is not as it should be, or as `from_judgements`.
    """
    files = {}
    for part in ("corpus", "queries", "qrels"):
        path = plain_or_gz(directory / f"{part}.jsonl")
        if path is None:
            raise FileNotFoundError(f"{directory} has no {part}.jsonl; LongEmbed has it beside the others")
        files[part] = list(read_rows(str(path)))
    lengths = sorted({row["context_length"] for row, _ in files["qrels"] if "context_length" in row})
    if split is not None and split not in map(str, lengths):
        known = ", ".join(map(str, lengths)) or "none, it is one collection"
        raise FileNotFoundError(f"{directory.name} has no split {split!r}; its splits are: {known}")
    wanted = [length for length in lengths if split in (None, str(length))] or [None]
    collections = []
    for length in wanted:
        rows = {part: _of_length(files[part], length) for part in files}
        mark = f"{length}/" if len(wanted) > 1 else ""
        queries = ((mark + query, text) for query, text in _pairs(rows["queries"], "qid", "text"))
        gains: dict[str, dict[str, float]] = {}
        for query, document in _pairs(rows["qrels"], "qid", "doc_id"):
            gains.setdefault(mark + query, {})[document] = 1.0
        name = directory.name if length is None else f"{directory.name}-{length}"
        collections.append(from_judgements(name, _pairs(rows["corpus"], "doc_id", "text"), queries, gains, directory))
    return collections


def read_nanobeir(directory: Path, split: str | None, *, name: str | None = None) -> Collection:
    """Read Parquet files in the folders corpus and queries (_id, text) and qrels (query-id, corpus-id, maybe score).

    Args:
        directory: holds the folders, and in each <split>-00000-of-00001.parquet.
        split: which set, such as NanoMSMARCO; None if there is only one.
        name: what to call it; None for the split.

    Raises:
        FileNotFoundError: if there is no such split.
        ValueError: for a file without these columns, or as `from_judgements`.
        MissingExtra: without pyarrow, which the extra `eval` installs.
    """
    matches = (_PARQUET.fullmatch(path.name) for path in (directory / "corpus").glob("*.parquet"))
    splits = sorted({match[1] for match in matches if match})
    split = splits[0] if split is None and len(splits) == 1 else split
    if split not in splits:
        asked = "give a split" if split is None else f"there is no split {split!r}"
        raise FileNotFoundError(f"{directory}: {asked}; the splits are: {', '.join(splits) or 'none'}")
    corpus, queries = (_columns(directory / part, split, "_id", "text") for part in ("corpus", "queries"))
    gains: dict[str, dict[str, float]] = {}
    for query, document, gain in _columns(directory / "qrels", split, "query-id", "corpus-id", score=1):
        gains.setdefault(query, {})[document] = float(gain)
    return from_judgements(name or split, corpus, queries, gains, directory / "qrels" / split)


def _of_length(rows: list[tuple[dict[str, Any], str]], length: int | None) -> list[tuple[dict[str, Any], str]]:
    return rows if length is None else [(row, where) for row, where in rows if row.get("context_length") == length]


def _pairs(rows: Iterable[tuple[dict[str, Any], str]], first: str, second: str) -> Iterator[tuple[str, str]]:
    for row, where in rows:
        for name in (first, second):
            if not isinstance(row.get(name), str | int):
                raise UserError(f"{where}: `{name}` must be a string, found {row.get(name)!r:.60}")
        yield str(row[first]), str(row[second])


def _columns(folder: Path, split: str, *names: str, **defaults: Any) -> Iterator[tuple[Any, ...]]:
    """Rows of the named columns, and of those that have a default if they are not there."""
    parquet = require("pyarrow.parquet", "eval")

    paths = sorted(folder.glob(f"{split}-?????-of-?????.parquet"))
    if not paths:
        raise FileNotFoundError(f"there is no {folder / split}-00000-of-00001.parquet")
    for path in paths:
        table = parquet.read_table(path)
        missing = [name for name in names if name not in table.column_names]
        if missing:
            raise UserError(f"{path} has no column {missing[0]!r}, its columns are {', '.join(table.column_names)}")
        kept = [table[name].to_pylist() for name in names]
        kept += [
            table[name].to_pylist() if name in table.column_names else [default] * len(table)
            for name, default in defaults.items()
        ]
        yield from zip(*kept)
